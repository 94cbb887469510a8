"""Why a session waits: what blocks each step, and when that ends.

`explain` asks the same functions as claims, appends and handlers.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import msgspec

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import PROVIDER_STEPS, StepName, due_steps
from guestledger.engine.domain.policy import Policy, deadline_of
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.limits.admission import AdmissionRequest, DenialReason, Denied
from guestledger.engine.limits.capacity import at_limit, capacity
from guestledger.engine.limits.limiter import admit
from guestledger.engine.limits.retry import Wait
from guestledger.engine.limits.state import LimiterState
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.ports.due_steps import DueRow, DueSteps, WorkStatus
from guestledger.engine.ports.event_store import EventStore
from guestledger.engine.ports.rate_limiter import RateLimiter
from guestledger.engine.worker.session_work import session_of
from guestledger.engine.worker.steps import Handlers


class BlockedBy(StrEnum):
    """What blocks a step, apart from the rate limiter (`DenialReason`)."""

    LEASE = "lease"
    """A worker runs it."""
    NOT_DUE = "not_due"
    PERSON = "person"
    """The session is parked until a person decides."""
    SETTINGS = "settings"
    """This process cannot run the step, or its settings differ from the workers'."""


class Blocker(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that blocks a step."""

    by: BlockedBy | DenialReason
    until: datetime | None
    """`None`: no time ends it, or none that is known."""
    owner: UUID | None = None
    """For `LEASE`: who holds it."""
    cause: Cause | None = None
    """For `NOT_DUE` and `PERSON`, by the history; `None`: released until then, or simply not due."""
    detail: str = ""
    wait: Wait | None = None
    denied: Denied | None = None
    """For a `DenialReason`."""
    ahead: int = 0
    """For a `DenialReason`: how many sessions come first."""


class StepExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """One due step, and what blocks it in the order in which a worker meets it. No blockers: it waits for a worker."""

    step: StepName
    blockers: tuple[Blocker, ...]
    moves_at: datetime | None
    """When a worker runs it if nothing else happens; `None`: unknown. An estimate behind a limited rate."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a session waits, as of `now`. All times are UTC, by the database's clock."""

    id: UUID
    status: Status
    now: datetime
    steps: tuple[StepExplanation, ...]
    """Empty: nothing is due, ever, or not before a person decides."""
    blockers: tuple[Blocker, ...]
    """What blocks the session as a whole: a person."""
    moves_at: datetime | None
    """When the first step moves without a person; `None`: never, or unknown."""
    deadline: datetime | None
    """The last moment for an attempt; `None`: no attempt is due."""
    erased_at: datetime | None
    """When the guest's personal data was erased."""


class Explainer:
    """Explains why sessions wait, by the settings of this process."""

    def __init__(
        self, *, store: EventStore, due_steps: DueSteps, limiter: RateLimiter, handlers: Handlers, policy: Policy
    ) -> None:
        self._store = store
        self._due_steps = due_steps
        self._limiter = limiter
        self._handlers = handlers
        self._policy = policy

    async def explain(self, history: Sequence[RecordedEvent]) -> Explanation:
        """Explain the session with this history. Locks nothing. Raises `ServiceError`."""
        stream_id = history[0].stream_id
        # If the session moves on meanwhile, its steps and its history would contradict each other.
        while (work := await self._due_steps.status(stream_id)).version > history[-1].version:
            history = await self._store.read_stream(stream_id)
        states = await self._limiter.states()
        limiters = {step: handler.limiter for step, handler in self._handlers.items() if handler.enabled}
        events = [recorded.event for recorded in history]
        return explain(session_of(history), self._policy, work, events=events, limiters=limiters, states=states)


def explain(
    state: Session,
    policy: Policy,
    work: WorkStatus,
    *,
    events: Sequence[e.Event],
    limiters: Mapping[StepName, str | None],
    states: Mapping[str, LimiterState],
) -> Explanation:
    """Why a session in `state`, the outcome of `events`, waits. Pure.

    `limiters` has the steps that can be run here, each with its limiter (`None`: none; empty: unknown here).
    """
    steps = tuple(
        _Path(state, policy, work, row, events, limiters, states).explanation()
        for row in sorted(work.rows, key=lambda row: (row.due_at, row.step))
    )
    blockers: tuple[Blocker, ...] = ()
    if state.status is Status.PARKED:
        blockers = (Blocker(by=BlockedBy.PERSON, until=None, cause=state.cause, detail=state.detail or ""),)
    elif not steps and due_steps(state, policy):
        blockers = (Blocker(by=BlockedBy.SETTINGS, until=None),)
    attempts_end = any(row.step is StepName.ENFORCE_DEADLINE for row in work.rows)
    return Explanation(
        id=state.id,
        status=state.status,
        now=work.now,
        steps=steps,
        blockers=blockers,
        moves_at=min((step.moves_at for step in steps if step.moves_at is not None), default=None),
        deadline=deadline_of(state, policy.creation) if attempts_end else None,
        erased_at=state.erased_at,
    )


class _Path:
    """The way of a worker to one step: lease, due time, limiter, budget. `now` is the time it has reached."""

    def __init__(
        self,
        state: Session,
        policy: Policy,
        work: WorkStatus,
        row: DueRow,
        events: Sequence[e.Event],
        limiters: Mapping[StepName, str | None],
        states: Mapping[str, LimiterState],
    ) -> None:
        self._state = state
        self._policy = policy
        self._work = work
        self._row = row
        self._events = events
        self._limiters = limiters
        self._states = states
        self._now = work.now
        self._endless = False
        self._blockers: list[Blocker] = []

    def explanation(self) -> StepExplanation:
        self._meet_lease()
        self._meet_due_time()
        if self._row.step not in self._limiters:
            self._meet(Blocker(by=BlockedBy.SETTINGS, until=None))
        elif not any(blocker.by is BlockedBy.LEASE for blocker in self._blockers):
            # The holder of the lease is admitted already, or asks with its own reservation.
            self._meet_limiter(self._limiters[self._row.step])
        moves_at = None if self._endless else self._now
        return StepExplanation(step=self._row.step, blockers=tuple(self._blockers), moves_at=moves_at)

    def _meet(self, blocker: Blocker) -> None:
        self._blockers.append(blocker)
        self._endless = self._endless or blocker.until is None
        self._now = max(self._now, blocker.until or self._now)

    def _meet_lease(self) -> None:
        until = self._row.lease_until
        if until is not None and until > self._now:
            self._meet(Blocker(by=BlockedBy.LEASE, until=until, owner=self._row.owner))

    def _meet_due_time(self) -> None:
        due = {step.step: step.due_at for step in due_steps(self._state, self._policy)}
        due_at = due.get(self._row.step, self._row.due_at)
        reached_at = due_at - timedelta(milliseconds=self._row.back_ms or 0)
        until = max(reached_at, self._row.due_at)
        if until <= self._now:
            return
        released = reached_at <= self._now
        if released or self._row.step not in {*PROVIDER_STEPS, StepName.DELIVER_WEBHOOK}:
            self._meet(Blocker(by=BlockedBy.NOT_DUE, until=until))
        else:
            self._meet(_reason(self._events, due_at, until))

    def _meet_limiter(self, name: str | None) -> None:
        if name is None:
            return
        if name == "":
            if self._states:
                self._meet(Blocker(by=BlockedBy.SETTINGS, until=None))
            return
        self._meet_rate(self._states.get(name))
        if self._row.step in PROVIDER_STEPS:
            self._meet_budget(self._states.get(name, LimiterState()))

    def _meet_rate(self, known: LimiterState | None) -> None:
        """Ask the limiter as a claim does, until it admits the step."""
        limited = self._policy.limiter.calls is not None and self._row.step in PROVIDER_STEPS
        policy = self._policy.limiter if limited else msgspec.structs.replace(self._policy.limiter, calls=None)
        state = known or LimiterState()
        while known is not None or limited:
            # What is ahead and in flight now says nothing about later.
            later = self._now > self._work.now
            ahead, in_flight = (0, 0) if later else (self._row.ahead, self._work.in_flight)
            free, denied = capacity(state, ahead + 1, in_flight, self._now, policy)
            if len(free) > ahead or (denied is not None and denied.by is DenialReason.CONCURRENCY and later):
                return
            denied = denied or at_limit(in_flight + len(free), self._now, policy)
            assert denied is not None, "without capacity there is a denial"
            until, rate = denied.until, state.rate(self._now)
            if denied.by is DenialReason.RATE and rate:
                until += timedelta(seconds=(ahead - len(free)) / rate)
            self._meet(Blocker(by=denied.by, until=until, denied=denied, ahead=ahead))

    def _meet_budget(self, state: LimiterState) -> None:
        """Ask the limiter as an append or a look-up does."""
        if deadline_of(self._state, self._policy.creation) < self._now:
            return  # the session is given up instead
        request = AdmissionRequest(limiter="", retry=self._state.is_retried, reserved=True)
        _, denied = admit(state, request, self._now, self._policy.limiter)
        if denied is not None:
            self._meet(Blocker(by=denied.by, until=denied.until, denied=denied))


def _reason(events: Sequence[e.Event], due_at: datetime, until: datetime) -> Blocker:
    for event in reversed(events):
        match event:
            case e.ChannelLookupFailed() | e.CreationFailed() | e.WebhookFailed() if event.retry_at == due_at:
                return _not_due(until, event.cause, event.wait, event.detail)
            case e.CreationThrottled(wait=wait) if event.retry_at == due_at:
                return _not_due(until, Cause.THROTTLED, wait)
            case e.CreationDeferred(wait=wait) if event.retry_at == due_at:
                return _not_due(until, Cause.RATE_LIMITED, wait, f"{event.denied_by} {event.limiter}")
            case e.DoubtLifted() if event.retry_at == due_at:
                return _not_due(until, event.cause, None, event.detail)
            case _:
                pass
    return Blocker(by=BlockedBy.NOT_DUE, until=until)


def _not_due(until: datetime, cause: Cause, wait: Wait | None, detail: str = "") -> Blocker:
    return Blocker(by=BlockedBy.NOT_DUE, until=until, cause=cause, detail=detail, wait=wait)
