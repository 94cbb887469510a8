"""Notices that the webhook did not take: which they are, and sending them anew."""

from datetime import datetime
from uuid import UUID

import msgspec

from engine.domain.commands import RequestRedelivery
from engine.domain.errors import RedeliveryRefused, WrongExpectedVersion
from engine.domain.events import Event, WebhookAbandoned
from engine.domain.lifecycle import Policy, decide, next_step
from engine.domain.recorded import EventFilter, RecordedEvent
from engine.domain.request import checked_text
from engine.domain.session import Session, evolve, fold
from engine.ports import Append, Clock, Due, EventStore

_TELLING = EventFilter(types=("WebhookAbandoned", "WebhookRedeliveryRequested"))


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A notice that was given up. `id` is the session's, the engine's own."""

    id: UUID
    channel_id: str
    abandoned_at: datetime
    attempts: int
    status: int | None
    """Of the last answer (HTTP); `None`: there was none."""
    reason: str


class Webhooks:
    """Reads dead letters from the log, and asks for redeliveries. Whoever works on the ledger then sends them."""

    def __init__(self, *, store: EventStore, clock: Clock, policy: Policy) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy

    async def dead_letters(self) -> list[DeadLetter]:
        """The notices that are given up now, oldest first. Reads the log from end to end; a detached month is not in it."""
        found: dict[UUID, DeadLetter] = {}
        async for batch in self._store.read_all(wanted=_TELLING):
            for recorded in batch:
                found.pop(recorded.stream_id, None)
                if isinstance(recorded.event, WebhookAbandoned):
                    found[recorded.stream_id] = _dead_letter(recorded.stream_id, recorded.event)
        return list(found.values())

    async def redeliver(self, history: list[RecordedEvent], *, requested_by: str, reason: str) -> Session:
        """Record that the notice of the session with this history is to go out anew; the session as it is then.

        Raises `RedeliveryRefused`, `InvalidRequest`, `ServiceError`.
        """
        requested_by, reason = checked_text("requestedBy", requested_by), checked_text("reason", reason)
        stream_id = history[0].stream_id
        while True:
            state = fold(stream_id, (recorded.event for recorded in history))
            command = RequestRedelivery(requested_by=requested_by, reason=reason, now=self._clock.now())
            decided = decide(state, command, self._policy)
            if not decided:
                raise RedeliveryRefused(stream_id, _why_not(state, self._policy))
            try:
                return await self._record(state, decided, history[0].correlation_id, requested_by)
            except WrongExpectedVersion:
                # Whoever was quicker may have expired the token, or asked for the same.
                history = await self._store.read_stream(stream_id)

    async def _record(self, state: Session, decided: list[Event], correlation_id: str, actor: str) -> Session:
        after = state
        for event in decided:
            after = evolve(after, event)
        step = next_step(after, self._policy)
        assert step is not None, "a notice that is to go out anew is due work"
        await self._store.append(
            Append(
                stream_id=state.id,
                expected_version=state.version,
                events=tuple(decided),
                due=Due(step=type(step).__name__, due_at=step.not_before, keep_lease=True),
                actor=actor,
                causation_id=self._clock.new_id(),
                correlation_id=correlation_id,
            )
        )
        return after


def _dead_letter(stream_id: UUID, event: WebhookAbandoned) -> DeadLetter:
    return DeadLetter(
        id=stream_id,
        channel_id=event.channel_id,
        abandoned_at=event.at,
        attempts=event.attempts,
        status=event.status,
        reason=event.reason,
    )


def _why_not(state: Session, policy: Policy) -> str:
    if not policy.webhook_enabled:
        return "no webhook is set: set GUESTLEDGER_WEBHOOK_URL"
    if state.session_id is None:
        return f"it is {state.status}, and the webhook is told of sessions that were made, no others"
    return "its notice is still being delivered"
