"""Why a session waits: every condition on the way to each due step, met or not, and when the step moves.

`explain` asks the same functions as claims, appends and handlers.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import msgspec
from msgspec.structs import replace

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import LIMITED_STEPS, StepName, due_steps
from guestledger.engine.domain.policy import Policy, deadline_of
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.limits.retry import Wait
from guestledger.engine.limits.state import LimiterState
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.operations.conditions import Condition, ConditionName, unmet
from guestledger.engine.operations.limiter_conditions import LimiterPath
from guestledger.engine.ports.adapters import Adapters
from guestledger.engine.ports.due_steps import DueRow, WorkStatus
from guestledger.engine.ports.legal_holds import LegalHold
from guestledger.engine.replay.waits import waiting_until
from guestledger.engine.worker.session_work import session_of
from guestledger.engine.worker.steps import Handlers


class StepExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """One due step, and every condition that is looked at, in the order in which a worker meets them.

    A condition that does not matter is left out: nobody asks the limiter for a step that a worker has already.
    """

    step: StepName
    limiter: str | None
    """The limiter that it passes; `None`: none, or unknown here."""
    conditions: tuple[Condition, ...]
    moves_at: datetime | None
    """When a worker runs it if nothing else happens; `None`: never, or unknown. An estimate behind a limited rate."""

    @property
    def unmet(self) -> tuple[Condition, ...]:
        """The conditions that are not met. None: it waits for a worker."""
        return unmet(self.conditions)


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a session waits, or why it is over, as of `now`. All times are UTC, by the database's clock."""

    id: UUID
    status: Status
    now: datetime
    channel_id: str
    cause: Cause | None
    """Why it is not active: the last failure, or how it ended."""
    detail: str | None
    conditions: tuple[Condition, ...]
    """Those of the session as a whole: a person's decision, a legal hold, the settings here."""
    steps: tuple[StepExplanation, ...]
    """By due time. Empty: nothing is due, ever, or not before a person decides."""
    moves_at: datetime | None
    """When the first step moves without a person; `None`: never, or unknown."""
    deadline: datetime | None
    """The last moment for an attempt; `None`: no attempt is due."""
    ended_at: datetime | None
    """Since when it is over."""
    erased_at: datetime | None
    """When the guest's personal data was erased."""

    @property
    def unmet(self) -> tuple[Condition, ...]:
        """The conditions of the session as a whole that are not met."""
        return unmet(self.conditions)


class Explainer:
    """Explains why sessions wait, by the settings of this process."""

    def __init__(self, adapters: Adapters, *, handlers: Handlers, policy: Policy) -> None:
        self._adapters = adapters
        self._handlers = handlers
        self._policy = policy

    async def explain(self, history: Sequence[RecordedEvent]) -> Explanation:
        """Explain the session with this history. Locks nothing. Raises `ServiceError`."""
        stream_id = history[0].stream_id
        # If the session moves on meanwhile, its steps and its history would contradict each other.
        while (work := await self._adapters.due_steps.status(stream_id)).version > history[-1].version:
            history = await self._adapters.store.read_stream(stream_id)
        case = Case(
            session_of(history),
            self._policy,
            work,
            events=[recorded.event for recorded in history],
            limiters={step: handler.limiter for step, handler in self._handlers.items() if handler.enabled},
            states=await self._adapters.limiter.states(),
        )
        hold = await self._adapters.holds.over(stream_id) if case.erases else None
        return explain(case._replace(hold=hold))


class Case(NamedTuple):
    """What an explanation is made from: the session that `events` give, its due steps, and what workers know."""

    state: Session
    policy: Policy
    work: WorkStatus
    events: Sequence[e.Event]
    limiters: Mapping[StepName, str | None]
    """The steps that can be run here, each with its limiter (`None`: none; empty: unknown here)."""
    states: Mapping[str, LimiterState]
    hold: LegalHold | None = None
    """The legal hold on the session's subject."""

    @property
    def due(self) -> Mapping[StepName, datetime]:
        """When each step is due by the history and the policy."""
        return {step.step: step.due_at for step in due_steps(self.state, self.policy)}

    @property
    def rows(self) -> Sequence[DueRow]:
        """Its due steps, with the erasure as retention plans it: by the policy, if that is earlier."""
        step = StepName.ERASE_CONTACT
        rows, planned_at = {row.step: row for row in self.work.rows}, self.due.get(step)
        if planned_at is not None and step in self.limiters:
            row = rows.get(step) or DueRow(step=step, due_at=planned_at, owner=None, lease_until=None, ahead=0)
            rows[step] = replace(row, due_at=min(row.due_at, planned_at))
        return sorted(rows.values(), key=lambda row: (row.due_at, row.step))

    @property
    def erases(self) -> bool:
        """Whether its contact data will be erased."""
        return any(row.step is StepName.ERASE_CONTACT for row in self.rows)


def explain(case: Case) -> Explanation:
    """Why the session waits. Pure."""
    state = case.state
    steps = tuple(_Path(case, row).explanation() for row in case.rows)
    attempts_end = any(row.step is StepName.ENFORCE_DEADLINE for row in case.rows)
    return Explanation(
        id=state.id,
        status=state.status,
        now=case.work.now,
        channel_id=state.channel_id,
        cause=state.cause,
        detail=state.detail,
        conditions=tuple(_of_session(case)),
        steps=steps,
        moves_at=min((step.moves_at for step in steps if step.moves_at is not None), default=None),
        deadline=deadline_of(state, case.policy.creation) if attempts_end else None,
        ended_at=state.ended_at,
        erased_at=state.erased_at,
    )


def _of_session(case: Case) -> Iterator[Condition]:
    state = case.state
    if not state.status.is_settled:
        parked = state.status is Status.PARKED
        yield Condition(
            name=ConditionName.PERSON,
            met=not parked,
            until=None,
            cause=state.cause if parked else None,
            detail=(state.detail or "") if parked else "",
        )
    # A subject's hold is recorded in the session when its retention is over.
    held_since = state.held_since or (case.hold.placed_at if case.hold is not None else None)
    if held_since is not None or case.erases:
        yield Condition(name=ConditionName.LEGAL_HOLD, met=held_since is None, until=None, at=held_since)
    if not case.rows and case.due.keys() - {StepName.ERASE_CONTACT}:
        yield Condition(name=ConditionName.SETTINGS, met=False, until=None)


class _Path:
    """The way of a worker to one step. `now` is the time it has reached."""

    def __init__(self, case: Case, row: DueRow) -> None:
        self._case = case
        self._row = row
        self._now = case.work.now
        self._endless = False
        self._conditions: list[Condition] = []

    def explanation(self) -> StepExplanation:
        self._meet_lease()
        self._meet_due_time()
        self._meet_settings()
        limiter = self._case.limiters.get(self._row.step) or None
        # The holder of the lease is admitted already, or asks with its own reservation.
        if limiter is not None and self._conditions[0].met:
            self._meet_limiter(limiter)
        return StepExplanation(
            step=self._row.step,
            limiter=limiter,
            conditions=tuple(self._conditions),
            moves_at=None if self._endless else self._now,
        )

    def _meet(self, *conditions: Condition) -> None:
        for condition in conditions:
            self._conditions.append(condition)
            if not condition.met:
                self._endless = self._endless or condition.until is None
                self._now = max(self._now, condition.until or self._now)

    def _meet_lease(self) -> None:
        until = self._row.lease_until
        held = until is not None and until > self._now
        owner = self._row.owner if held else None
        self._meet(Condition(name=ConditionName.LEASE, met=not held, until=until if held else None, owner=owner))

    def _meet_due_time(self) -> None:
        due_at = self._case.due.get(self._row.step, self._row.due_at)
        reached_at = due_at - timedelta(milliseconds=self._row.back_ms or 0)
        until = max(reached_at, self._row.due_at)
        released = reached_at <= self._now
        if until <= self._now:
            self._meet(Condition(name=ConditionName.DUE_TIME, met=True, until=None, at=until))
        elif released or self._row.step not in LIMITED_STEPS:
            self._meet(_not_due(until))
        else:
            self._meet(_reason(self._case.events, due_at, until))

    def _meet_settings(self) -> None:
        limiter = self._case.limiters.get(self._row.step)
        unknown = limiter == "" and bool(self._case.states)
        met = self._row.step in self._case.limiters and not unknown
        self._meet(Condition(name=ConditionName.SETTINGS, met=met, until=None))

    def _meet_limiter(self, name: str) -> None:
        case = self._case
        path = LimiterPath(case.state, case.policy, case.work, self._row, case.states.get(name), self._now)
        self._meet(*path.conditions())


def _reason(events: Sequence[e.Event], due_at: datetime, until: datetime) -> Condition:
    match next(waiting_until(due_at, events), None):
        case e.ChannelLookupFailed() | e.CreationFailed() | e.WebhookFailed() as event:
            return _not_due(until, event.cause, event.wait, event.detail)
        case e.CreationThrottled(wait=wait):
            return _not_due(until, Cause.THROTTLED, wait)
        case e.CreationDeferred(wait=wait) as event:
            return _not_due(until, Cause.RATE_LIMITED, wait, f"{event.denied_by} {event.limiter}")
        case e.DoubtLifted() as event:
            return _not_due(until, event.cause, None, event.detail)
        case _:
            return _not_due(until)


def _not_due(until: datetime, cause: Cause | None = None, wait: Wait | None = None, detail: str = "") -> Condition:
    return Condition(
        name=ConditionName.DUE_TIME, met=False, until=until, at=until, cause=cause, detail=detail, wait=wait
    )
