"""The requests that a session led to: attempts at the provider, and calls of the webhook."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from guestledger.adapters.forms.messages import cause_sentence, wait_sentence
from guestledger.engine.domain import events as e
from guestledger.engine.replay.timeline import Frame


class Call(NamedTuple):
    """One request: its number, when its record was made (UTC), and what came of it, in order."""

    number: int
    at: datetime
    version: int
    outcomes: list[str]


def attempts(frames: Sequence[Frame]) -> list[Call]:
    """Return the attempts, each with what is recorded of it."""
    found: dict[int, Call] = {}
    for frame in frames:
        event, recorded = frame.recorded.event, frame.recorded
        if isinstance(event, e.CreationAttempted):
            found[event.attempt] = Call(event.attempt, recorded.recorded_at, recorded.version, [])
        elif (words := _attempt_words(event)) and (call := found.get(getattr(event, "attempt", 0))):
            call.outcomes.append(words)
    return list(found.values())


def deliveries(frames: Sequence[Frame]) -> list[Call]:
    """Return the calls of the webhook, and the requests to send a notice again (number 0)."""
    found = []
    for frame in frames:
        event, recorded = frame.recorded.event, frame.recorded
        words = _delivery_words(event)
        if words is not None:
            number = getattr(event, "attempt", 0)
            found.append(Call(number, recorded.recorded_at, recorded.version, [words]))
    return found


def _attempt_words(event: e.Event) -> str | None:
    match event:
        case e.CreationThrottled():
            return f"{cause_sentence('throttled', status=event.status)}; {wait_sentence(event.wait)}"
        case e.CreationFailed():
            doubt = "in doubt: " if event.kind.value == "in_doubt" else ""
            wait = "" if event.wait is None else f"; {wait_sentence(event.wait)}"
            return f"{doubt}{cause_sentence(event.cause, event.detail, event.status)}{wait}"
        case e.SessionCreated():
            return f"session {event.session_id} was made, in {event.attempt_latency_ms} ms"
        case e.DuplicateCreated():
            return f"a late answer: session {event.session_id} was made too, and nobody uses it"
        case e.DoubtLifted():
            return f"a late answer, no other session: {cause_sentence(event.cause, event.detail, event.status)}"
        case e.SessionParked():
            return "parked: a person decides"
        case e.SessionAdopted():
            return f"session {event.session_id} was found, and adopted by {event.decided_by}"
        case _:
            return None


def _delivery_words(event: e.Event) -> str | None:
    match event:
        case e.WebhookSynced():
            status = "" if event.status is None else f"HTTP {event.status}, "
            return f"accepted ({status}{event.latency_ms} ms)"
        case e.WebhookFailed():
            return f"{cause_sentence(event.cause, event.detail, event.status)}; {wait_sentence(event.wait)}"
        case e.WebhookAbandoned():
            return f"given up, a dead letter: {cause_sentence(event.cause, event.detail, event.status)}"
        case e.WebhookRedeliveryRequested():
            return f"{event.requested_by} had it sent again: {event.reason}"
        case _:
            return None
