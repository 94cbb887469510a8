"""What a session waited for between two of its events."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from guestledger.engine.domain import events as e
from guestledger.engine.domain.due import DueStep, StepName
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.limits.retry import Wait


class WaitedFor(StrEnum):
    """What time passed for."""

    DUE_TIME = "due_time"
    """A step was not due yet."""
    WORKER = "worker"
    """A step was due: until a worker ran it."""
    LOOK_UP = "look_up"
    """A look-up was due: until its answer. No event says when its request began."""
    ANSWER = "answer"
    """A request was under way."""
    PERSON = "person"
    """A person had to decide."""
    NOTHING = "nothing"
    """Nothing was due."""


class Waited(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the time between two events. Times are UTC, by the database's clock."""

    waited_for: WaitedFor
    since: datetime
    until: datetime
    step: StepName | None = None
    """Which step was not due yet, was due, or had sent the request."""
    wait: Wait | None = None
    """The recorded reason of a due time, such as `Retry-After`; `None`: another one, such as the token's expiry."""

    @property
    def length(self) -> timedelta:
        """How long it took. Never negative, and never zero."""
        return self.until - self.since


Waiting = (
    e.ChannelLookupFailed
    | e.CreationDeferred
    | e.CreationThrottled
    | e.CreationFailed
    | e.DoubtLifted
    | e.WebhookFailed
)
"""The events that make a session wait."""

_RETRIED = (StepName.VALIDATE_CHANNEL, StepName.CREATE_SESSION, StepName.DELIVER_WEBHOOK)


def waits(
    history: Sequence[e.Event], event: e.Event, state: Session, step: DueStep | None, since: datetime, until: datetime
) -> tuple[Waited, ...]:
    """What `state` waited for before `event`, without gaps and overlaps.

    `history` has the events before. `step` is the due step that the event ran, or that would have been next; `None`: none was
    due. `since` and `until` are when the last two events were recorded. Recorded times never go back: while the database's
    clock is set back they stand still, and no time passes.
    """
    if state.status is Status.ATTEMPTING:
        parts = [Waited(waited_for=WaitedFor.ANSWER, since=since, until=until, step=StepName.CREATE_SESSION)]
    elif step is None:
        what = WaitedFor.PERSON if state.status is Status.PARKED else WaitedFor.NOTHING
        parts = [Waited(waited_for=what, since=since, until=until)]
    else:
        due_at = min(max(step.due_at, since), until)
        wait = _reason(step, history)
        parts = [
            Waited(waited_for=WaitedFor.DUE_TIME, since=since, until=due_at, step=step.step, wait=wait),
            *_run(step.step, event, due_at, until),
        ]
    return tuple(part for part in parts if part.since < part.until)


def _run(step: StepName, event: e.Event, since: datetime, until: datetime) -> Iterator[Waited]:
    """The time from when a step was due until its event."""
    began_at, asked = until, WaitedFor.ANSWER
    match event:
        case e.WebhookSynced() | e.WebhookFailed():
            began_at = max(since, until - timedelta(milliseconds=event.latency_ms))
        case e.ChannelValidated(cached=False) | e.ChannelRejected(cached=False) | e.ChannelLookupFailed():
            began_at, asked = since, WaitedFor.LOOK_UP
        case _:
            pass
    yield Waited(waited_for=WaitedFor.WORKER, since=since, until=began_at, step=step)
    yield Waited(waited_for=asked, since=began_at, until=until, step=step)


def _reason(step: DueStep, history: Sequence[e.Event]) -> Wait | None:
    """The recorded wait that ends when `step` is due."""
    if step.step not in _RETRIED:
        return None
    waiting = waiting_until(step.due_at, history)
    return next((event.wait for event in waiting if not isinstance(event, e.DoubtLifted)), None)


def waiting_until(due_at: datetime, history: Sequence[e.Event]) -> Iterator[Waiting]:
    """The events whose wait ends at `due_at`, the latest first: also a wait that was moved since, as the clock was set back."""
    back = timedelta()
    for event in reversed(history):
        if isinstance(event, e.ClockSetBack):
            back += timedelta(milliseconds=event.back_ms)
        elif isinstance(event, Waiting) and event.retry_at is not None and event.retry_at - back == due_at:
            yield event
