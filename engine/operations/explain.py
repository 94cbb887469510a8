"""Why a session is waiting: what holds it back, in the order in which a worker meets it, and when that will move.

`why` is pure, and asks the very functions that claims, appends and steps go by, of the same data: so it cannot say something else
than what they will do. It answers for the moment; whoever works on the ledger may change everything in the next.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import msgspec

from guestledger.engine.domain import events as e
from guestledger.engine.domain.commands import BeginAttempt, BeginLookup
from guestledger.engine.domain.lifecycle import (
    AttemptCreation,
    ExpireToken,
    Policy,
    Step,
    SyncWebhook,
    ValidateChannel,
    decide,
    next_step,
)
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.limits.capacity import full, room
from guestledger.engine.limits.limiter import LimiterState, admit
from guestledger.engine.limits.policy import AdmissionRequest, DenialReason, Denied
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.ports import DueSteps, EventStore, RateLimiter
from guestledger.engine.work import DueStepRow, WorkStatus
from guestledger.engine.worker.session_work import TOWARDS_CREATION, of_history
from guestledger.engine.worker.steps import Steps

STEPS: frozenset[type[Step]] = frozenset({ValidateChannel, AttemptCreation, SyncWebhook, ExpireToken})

# Where the number of calls in flight is limited, these take a place.
_LIMITED = frozenset(kind.__name__ for kind in TOWARDS_CREATION)

_DONE = {
    ValidateChannel.__name__: "CXone is asked for the channel",
    AttemptCreation.__name__: "CXone is asked for the session",
    SyncWebhook.__name__: "the webhook is told",
    ExpireToken.__name__: "the token's expiry is recorded",
}


class Wait(StrEnum):
    """What holds a session back, other than what a limiter does (`DenialReason`)."""

    LEASE = "lease"
    """Somebody works on it."""
    DUE = "due"
    """Its next step is not due yet."""
    PERSON = "person"
    """It is parked, until a person has decided."""
    SETTINGS = "settings"
    """What holds it cannot be told by the settings of whoever asks: they are not those of whoever works on it."""


class Blocker(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that holds a session back."""

    by: Wait | DenialReason
    until: datetime | None
    """`None`: no time ends it, or none that is known here."""
    reason: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What a session waits for, as it was at `now`. All times are UTC, by the database's clock."""

    id: UUID
    status: Status
    step: str | None
    """What is to be done next; `None`: nothing, ever, or not before a person has decided."""
    now: datetime
    holds: tuple[Blocker, ...]
    """In the order in which a worker meets them; none: it is settled, or waits for nothing but a worker."""
    moves_at: datetime | None
    """When something is done without anybody's help, provided that a worker runs and nothing else happens until then.

    `None`: never, or it is not known here. Behind a pace it is an estimate, by those that come first and the rate of now.
    """
    deadline: datetime | None
    """After which no attempt is made any more; `None` where no session is asked for, or a person has to decide."""
    outlook: str
    """What comes next, in words."""


class Explainer:
    """Says why sessions wait."""

    def __init__(
        self, *, store: EventStore, due_work: DueSteps, limiters: RateLimiter, steps: Steps, policy: Policy
    ) -> None:
        self._store = store
        self._due_work = due_work
        self._gates = limiters
        self._passed: dict[str, str | None] = {SyncWebhook.__name__: "", **steps.limiters(STEPS)}
        self._policy = policy

    async def why(self, history: Sequence[RecordedEvent]) -> Explanation:
        """What the session with this history, of at least one event, waits for now. Holds nothing up. Raises `ServiceError`."""
        stream_id = history[0].stream_id
        # Of a session that moves on meanwhile, work and history would contradict each other.
        while (work := await self._due_work.standing(stream_id)).version > history[-1].version:
            history = await self._store.read_stream(stream_id)
        limiters = await self._gates.all()
        events = [recorded.event for recorded in history]
        return why(of_history(history), self._policy, work, events=events, passed=self._passed, limiters=limiters)


def why(
    state: Session,
    policy: Policy,
    work: WorkStatus,
    *,
    events: Sequence[e.Event],
    passed: Mapping[str, str | None],
    limiters: Mapping[str, LimiterState],
) -> Explanation:
    """What a session in `state`, the outcome of `events`, waits for. Pure.

    `passed` names the limiter of each step (`None`: it passes none; empty: it is not known here), `limiters` are those that
    something is known against.
    """
    queue = _Queue(work.now)
    step = next_step(state, policy)
    if work.row is None:
        _without_work(queue, state, step)
    else:
        _meet(queue, state, policy, work, work.row, events, passed, limiters)
    return Explanation(
        id=state.id,
        status=state.status,
        step=work.row.step if work.row else None,
        now=work.now,
        holds=tuple(queue.holds),
        moves_at=None if work.row is None or queue.endless else queue.now,
        deadline=_deadline(state, policy, step),
        outlook=_outlook(queue, state, policy, work.row),
    )


class _Queue:
    """What was met so far on the way to the next step, and the time it is behind that."""

    def __init__(self, now: datetime) -> None:
        self.start = self.now = now
        self.holds: list[Blocker] = []
        self.endless = False

    def meet(self, by: Wait | DenialReason, until: datetime | None, reason: str) -> None:
        self.holds.append(Blocker(by=by, until=until, reason=reason))
        self.endless = self.endless or until is None
        self.now = max(self.now, until or self.now)


def _without_work(queue: _Queue, state: Session, step: Step | None) -> None:
    if state.status is Status.PARKED:
        queue.meet(Wait.PERSON, None, state.reason or "it is parked")
    elif step is not None:
        needed = type(step).__name__
        reason = f"by the settings here it needs {needed}, but whoever recorded its last event left no such work"
        queue.meet(Wait.SETTINGS, None, reason)


def _meet(
    queue: _Queue,
    state: Session,
    policy: Policy,
    work: WorkStatus,
    row: DueStepRow,
    events: Sequence[e.Event],
    passed: Mapping[str, str | None],
    limiters: Mapping[str, LimiterState],
) -> None:
    """Go the way of a worker to the next step: claim, limiter, append."""
    if row.lease_until is not None and row.lease_until > queue.now:
        queue.meet(Wait.LEASE, row.lease_until, f"{row.owner} works on it, and renews the lease for as long as it does")
    step = next_step(state, policy)
    not_before = step.not_before if step is not None and type(step).__name__ == row.step else row.due_at
    if (until := max(not_before, row.due_at)) > queue.now:
        given_back = not_before <= queue.now
        queue.meet(Wait.DUE, until, _why_due(row, events, not_before, given_back=given_back))
    if any(held.by is Wait.LEASE for held in queue.holds):
        return  # whoever has it is past its limiter, or asks there with what it has
    name = passed.get(row.step)
    if row.step == SyncWebhook.__name__ and not policy.webhook_enabled:
        queue.meet(Wait.SETTINGS, None, "no webhook is set here: a worker that has one sends it")
    elif name == "" and limiters:
        reason = f"its limiter cannot be told: set here what the workers have for {_service(row)}"
        queue.meet(Wait.SETTINGS, None, reason)
    elif name is not None:
        _meet_limiter(queue, policy, work, row, limiters.get(name))
        _meet_budget(queue, state, policy, row, limiters.get(name, LimiterState()))


def _why_due(row: DueStepRow, events: Sequence[e.Event], not_before: datetime, *, given_back: bool) -> str:
    if row.step == ExpireToken.__name__:
        return "its token expires then"
    if given_back:
        return "a worker gave it back until then: a service that it needs could not be used, or it could not be read"
    return next(_reasons(events, not_before), "it is not due before")


def _reasons(events: Sequence[e.Event], until: datetime) -> Iterator[str]:
    """What the events say of a wait that ends at `until`, the last first."""
    for event in reversed(events):
        match event:
            case e.ChannelLookupFailed() | e.CreationFailed() | e.WebhookFailed() if event.retry_at == until:
                yield f"{event.message}: {event.reason}" if event.reason else event.message
            case e.CreationThrottled() | e.CreationDeferred() if event.retry_at == until:
                yield event.reason
            case e.DoubtLifted() if event.retry_at == until:
                yield event.message
            case _:
                pass


def _meet_limiter(queue: _Queue, policy: Policy, work: WorkStatus, row: DueStepRow, known: LimiterState | None) -> None:
    """Ask the limiter as a claim does, again and again until it lets one through."""
    limited = policy.limiter.calls is not None and row.step in _LIMITED
    asked = policy.limiter if limited else msgspec.structs.replace(policy.limiter, calls=None)
    limiter = known or LimiterState()
    while known is not None or limited:
        # Who comes first now, and who is on the way, says nothing of later.
        ahead, in_flight = (row.ahead, work.in_flight) if queue.now == queue.start else (0, 0)
        free, held = room(limiter, ahead + 1, in_flight, queue.now, asked)
        if len(free) > ahead or (held is not None and held.by is DenialReason.CALLS and queue.now > queue.start):
            return
        held = held or full(in_flight + len(free), queue.now, asked)
        assert held is not None, "where there is no room, something says why"
        if row.ends_at is not None:
            if row.ends_at <= queue.now:
                return  # it is claimed, to be ended, whatever holds others back
            held = msgspec.structs.replace(held, until=min(held.until, row.ends_at))
        _meet_held(queue, held, ahead, ahead - len(free), limiter.rate(queue.now, asked))


def _meet_held(queue: _Queue, held: Denied, ahead: int, beyond: int, rate: float | None) -> None:
    """`beyond` sessions come before it, once those of `ahead` are through for whom there is room now."""
    paced = held.by is DenialReason.PACE and rate is not None
    until = held.until + timedelta(seconds=beyond / rate) if paced and rate else held.until
    queue.meet(held.by, until, f"{held.reason}; due before it: {ahead}" if ahead else held.reason)


def _meet_budget(queue: _Queue, state: Session, policy: Policy, row: DueStepRow, limiter: LimiterState) -> None:
    """Ask the limiter as the append of an attempt does, once it is about to be made, and a look-up."""
    begun = _begun(queue, state, policy, row)
    looked_up = row.step == ValidateChannel.__name__ and not begun
    if not looked_up and not any(isinstance(event, e.CreationAttempted) for event in begun):
        return
    passage = AdmissionRequest(limiter="", retry=state.is_retried, slotted=True)
    _, held = admit(limiter, passage, queue.now, policy.limiter)
    if held is not None:
        queue.meet(held.by, held.until, held.reason)


def _begun(queue: _Queue, state: Session, policy: Policy, row: DueStepRow | None) -> list[e.Event]:
    """What a worker decides that takes up a look-up or an attempt then."""
    if row is None or row.step not in (ValidateChannel.__name__, AttemptCreation.__name__):
        return []
    if row.step == ValidateChannel.__name__:
        return decide(state, BeginLookup(now=queue.now), policy)
    return decide(state, BeginAttempt(request_sha256="", now=queue.now, jitter=0.0), policy)


def _deadline(state: Session, policy: Policy, step: Step | None) -> datetime | None:
    if state.deadline_from is None or not isinstance(step, ValidateChannel | AttemptCreation):
        return None
    return state.deadline_from + timedelta(milliseconds=policy.creation.deadline_ms)


def _outlook(queue: _Queue, state: Session, policy: Policy, row: DueStepRow | None) -> str:
    if row is None:
        if state.status is Status.PARKED:
            return "a person has to decide, by `guestledger resolve`: nothing is done until then"
        return "no worker comes by it" if queue.holds else f"it is {state.status}: nothing more is to be done, ever"
    done = _DONE.get(row.step, row.step)
    begun = _begun(queue, state, policy, row)
    if any(isinstance(event, e.SessionAbandoned) for event in begun):
        done = "it is given up, for its deadline has passed"
    elif any(isinstance(event, e.CreationFailed) for event in begun):
        done = "its last attempt is recorded as in doubt, for nobody has recorded an answer"
    if not queue.holds:
        return f"it waits for nothing but a worker, `guestledger worker`; then {done}"
    if queue.endless:
        return f"when nothing holds it any more, {done}"
    if queue.holds[0].by is Wait.LEASE:
        return f"it is being worked on; if its worker is gone, another takes it on then, and {done}"
    return f"then {done}, provided that a worker runs (`guestledger worker`)"


def _service(row: DueStepRow) -> str:
    return "the webhook" if row.step == SyncWebhook.__name__ else "CXone"
