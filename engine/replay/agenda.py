"""What a history holds for a what-if: each recorded decision, what brought it about, and how long it had been possible by then."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from guestledger.engine.domain import commands as c
from guestledger.engine.domain.due import DueStep, StepName
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, WebhookNotice
from guestledger.engine.replay.decisions import Decision, Lifecycle

BEGINNING = datetime.min.replace(tzinfo=UTC)

TIMERS: Mapping[StepName, type[c.EnforceDeadline | c.ExpireToken | c.PurgeToken | c.EraseContact]] = {
    StepName.ENFORCE_DEADLINE: c.EnforceDeadline,
    StepName.EXPIRE_TOKEN: c.ExpireToken,
    StepName.PURGE_TOKEN: c.PurgeToken,
    StepName.ERASE_CONTACT: c.EraseContact,
}
"""The steps that record the passing of time: they need no outcome from outside."""


class Ready(msgspec.Struct, frozen=True, gc=False):
    """A due step, and since when (UTC) nothing kept it from running: it is due, and what came before it is decided."""

    due_at: datetime
    at: datetime


Readiness = Mapping[StepName, Ready]


class FromStep(msgspec.Struct, frozen=True, gc=False):
    """What a due step came to. Each notice of the webhook has its own."""

    step: StepName
    notice: WebhookNotice | None = None


class FromAttempt(msgspec.Struct, frozen=True, gc=False):
    """What came back, in time or late, of the attempt with this number in the log."""

    attempt: int


class FromOutside(msgspec.Struct, frozen=True, gc=False):
    """What happens at its own time: a person, a withdrawal, an erasure, a clock, or a step that was not due."""


Source = FromStep | FromAttempt | FromOutside


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A recorded decision, and what a simulation needs to make it at another time."""

    number: int
    decision: Decision
    now: datetime
    """When it was decided, by its own clock."""
    reached_at: datetime
    """The latest time of it and all before: clocks differ, and the order in the log counts."""
    source: Source
    ready: Readiness
    """The due steps before it."""

    @property
    def ready_at(self) -> datetime:
        """Since when its due step could run. Only for an entry of a step."""
        assert isinstance(self.source, FromStep)
        return self.ready[self.source.step].at


class Agenda(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The recorded decisions in order, and the due steps after the last."""

    entries: tuple[Entry, ...]
    ready_after: Readiness
    policy_after: Policy
    """The policy of the last decision."""


def agenda(recorded: Iterable[Decision], lifecycle: Lifecycle) -> Agenda:
    """The agenda of a history with at least one decision; due steps by `lifecycle`."""
    entries: list[Entry] = []
    ready: Readiness = {}
    now = reached_at = BEGINNING
    for decision in recorded:
        ready = advanced(ready, lifecycle.due_steps(decision.before, decision.policy), now)
        now = decision.recorded[0].at if decision.command is None else decision.command.now
        reached_at = max(reached_at, now)
        entries.append(
            Entry(
                number=len(entries),
                decision=decision,
                now=now,
                reached_at=reached_at,
                source=_source(decision, entries),
                ready=ready,
            )
        )
    last = entries[-1].decision
    after = advanced(ready, lifecycle.due_steps(last.after, last.policy), now)
    return Agenda(entries=tuple(entries), ready_after=after, policy_after=last.policy)


def advanced(before: Readiness, due: Iterable[DueStep], now: datetime) -> Readiness:
    """The readiness of the steps that are due after a decision at `now`."""
    return {step.step: _advanced(before.get(step.step), step, now) for step in due}


def _advanced(before: Ready | None, step: DueStep, now: datetime) -> Ready:
    if before is not None and before.due_at == step.due_at:
        return before
    return Ready(step.due_at, max(step.due_at, now))


def source_of(step: StepName, state: Session) -> FromStep:
    """Where the outcomes of this step come from, in `state`."""
    return FromStep(step, state.notice if step is StepName.DELIVER_WEBHOOK else None)


def _source(decision: Decision, before: Sequence[Entry]) -> Source:
    match decision.command:
        case c.RecordAttempt(attempt=attempt) | c.SettleAttempt(attempt=attempt):
            return FromAttempt(attempt)
        case c.DeferCreation() if decision.was_due and decision.step is None:
            return before[-1].source  # recorded with the answer to its attempt
    if decision.was_due and decision.step is not None:
        return source_of(decision.step.step, decision.before)
    return FromOutside()
