"""The decisions behind a history, made again by today's code.

The log holds everything a decision was made from: the command's outcome and times in its events, the state in the events before, and the
policies that were in force (`RecordedPolicy`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from guestledger.engine.domain import commands as c, events as e
from guestledger.engine.domain.consent import is_cut
from guestledger.engine.domain.due import DueStep, StepName, due_steps
from guestledger.engine.domain.evolve import evolve
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.outcomes import Created
from guestledger.engine.domain.personal import Sealed
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.log.personal_fields import personal_values, with_values
from guestledger.engine.log.recorded import RecordedEvent, RecordedPolicy
from guestledger.engine.replay.commands import command_of


class Lifecycle(msgspec.Struct, frozen=True, kw_only=True):
    """The three functions that carry a session: today's, or others to compare with them."""

    decide: Callable[[Session, c.Command, Policy], list[e.Event]] = decide
    evolve: Callable[[Session, e.Event], Session] = evolve
    due_steps: Callable[[Session, Policy], tuple[DueStep, ...]] = due_steps


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded decision, and what today's code decides in its place."""

    policy: Policy
    """Under which it was made again: of those in force, the one that gives what was recorded, if any does."""
    before: Session
    command: c.Command | None
    """`None`: no command leads to these events."""
    step: DueStep | None
    """The due step that it ran, by today's code. `None`: nothing had to be due, as for a person; or nothing was."""
    was_due: bool
    """Whether it was the time for it, by today's code."""
    recorded: tuple[e.Event, ...]
    decided: tuple[e.Event, ...]
    """By today's code. What is sealed in `recorded` is taken from there."""
    after: Session
    """The state after `recorded`."""

    @property
    def is_reproduced(self) -> bool:
        """Whether today's code decides the same, at a time when it was due."""
        return self.was_due and self.decided == self.recorded


_CREATION = (StepName.VALIDATE_CHANNEL, StepName.CREATE_SESSION)
STEPS_OF: Mapping[type, tuple[StepName, ...]] = {
    c.RecordLookup: (StepName.VALIDATE_CHANNEL,),
    c.BeginAttempt: (StepName.CREATE_SESSION,),
    c.DeferCreation: _CREATION,
    c.RecordAttempt: (StepName.SETTLE_ATTEMPT,),
    c.SettleAttempt: (StepName.SETTLE_ATTEMPT,),
    c.EnforceDeadline: (StepName.ENFORCE_DEADLINE, *_CREATION),
    c.RecordDelivery: (StepName.DELIVER_WEBHOOK,),
    c.ExpireToken: (StepName.EXPIRE_TOKEN,),
    c.PurgeToken: (StepName.PURGE_TOKEN,),
    c.EraseContact: (StepName.ERASE_CONTACT,),
}
"""The due steps that each command may belong to, the likeliest first."""

# The longest decision: an attempt in doubt, the session's end, the webhook's end, and the erasure.
_LONGEST = 4
_FOLLOWING = (e.SessionAbandoned, e.SessionParked)
"""What may follow another event in one decision, whatever today's code says."""


def decisions(
    history: Sequence[RecordedEvent], policies: Sequence[RecordedPolicy], lifecycle: Lifecycle = Lifecycle()
) -> Iterator[Decision]:
    """Each decision behind a session's history, from the first on: at least one event.

    `policies` are those that were in force, the latest first: at least one. One that gives the whole session is preferred.
    """
    for policy in _in_force(policies, history[-1].position):
        found = _under(policy, history, policies, lifecycle)
        if found is not None:
            yield from found
            return
    yield from _decisions(history, partial(_in_force, policies), lifecycle)


def _under(
    policy: Policy, history: Sequence[RecordedEvent], policies: Sequence[RecordedPolicy], lifecycle: Lifecycle
) -> list[Decision] | None:
    """The decisions with `policy` alone from its first use on; `None` if they are not those of the log."""

    def in_force(position: int) -> Sequence[Policy]:
        known = _in_force(policies, position)
        return [policy] if policy in known else known

    found: list[Decision] = []
    with suppress(Exception):  # what fails here fails again where its decision is asked for
        for decision in _decisions(history, in_force, lifecycle):
            if not decision.is_reproduced:
                return None
            found.append(decision)
        return found
    return None


def _decisions(
    history: Sequence[RecordedEvent], in_force: Callable[[int], Sequence[Policy]], lifecycle: Lifecycle
) -> Iterator[Decision]:
    events = [recorded.event for recorded in history]
    state, at = Session(id=history[0].stream_id), 0
    while at < len(events):
        policies = in_force(history[at].position)
        found = _likeliest(state, events[:at], events[at : at + _LONGEST], policies, lifecycle)
        yield found
        state, at = found.after, at + len(found.recorded)


def _in_force(policies: Sequence[RecordedPolicy], position: int) -> list[Policy]:
    """The policies under which the event at this position may have been decided, the likeliest first."""
    known = [one.policy for one in policies if one.after_position < position]
    return known or [one.policy for one in reversed(policies)]  # it is from before any policy was recorded


def _likeliest(
    state: Session,
    earlier: Sequence[e.Event],
    left: Sequence[e.Event],
    policies: Sequence[Policy],
    lifecycle: Lifecycle,
) -> Decision:
    """The decision under the first policy that gives all that was recorded at once; else that gives the start of it."""
    first = reproduced = None
    for policy in policies:
        found = _decision(state, earlier, left, policy, lifecycle)
        if found.is_reproduced:
            # Under another deadline the answer may be the same, and the end that followed it at once not.
            if len(found.recorded) >= len(_one_decision(left)):
                return found
            reproduced = reproduced or found
        first = first or found
    assert first is not None, "at least one policy was in force"
    return reproduced or first


def _decision(
    state: Session, earlier: Sequence[e.Event], left: Sequence[e.Event], policy: Policy, lifecycle: Lifecycle
) -> Decision:
    try:
        command = command_of(left, state, policy)
    except ValueError:
        command = None
    made = [] if command is None else lifecycle.decide(state, command, policy)
    decided = tuple(with_recorded(event, recorded) for event, recorded in zip(made, left, strict=False))
    recorded = tuple(left[: len(made)])
    if decided != recorded or not recorded:
        decided, recorded = (*decided, *made[len(decided) :]), _one_decision(left)
    step, was_due = (None, False) if command is None else _when_due(command, state, earlier, policy, lifecycle)
    after = state
    for event in recorded:
        after = lifecycle.evolve(after, event)
    return Decision(
        policy=policy,
        before=state,
        command=command,
        step=step,
        was_due=was_due,
        recorded=recorded,
        decided=decided,
        after=after,
    )


def _one_decision(left: Sequence[e.Event]) -> tuple[e.Event, ...]:
    """The events that were one decision, as far as they tell."""
    number = 1
    while number < len(left) and isinstance(left[number], _FOLLOWING) and left[number].at == left[0].at:
        number += 1
    return tuple(left[:number])


def with_recorded(made: e.Event, recorded: e.Event) -> e.Event:
    """`made` with what only the recorded event can tell: commitments to sealed values, what the store found, values that were cut."""
    if type(made) is not type(recorded):
        return made
    changes: dict[str, Any] = {}
    if isinstance(recorded, e.ConsentRefused) and isinstance(made, e.ConsentRefused):
        cut = {name: text for name, text in recorded.given.items() if name in made.given and is_cut(text)}
        changes = {"given": made.given | cut}
    if isinstance(recorded, e.SessionCreated) and recorded.shared_with is not None:
        changes = {"shared_with": recorded.shared_with}
    made = replace(made, **changes) if changes else made
    if recorded.purpose is None:
        return made
    sealed = {path: value for path, value in personal_values(recorded).items() if isinstance(value, Sealed)}
    return with_values(made, sealed) if sealed else made


def _when_due(
    command: c.Command, state: Session, earlier: Sequence[e.Event], policy: Policy, lifecycle: Lifecycle
) -> tuple[DueStep | None, bool]:
    """The due step that `command` runs (`None`: it needs none, or there is none), and whether it was the time for it."""
    needs_no_step = _needs_no_step(command, state, earlier)
    if needs_no_step is not None:
        return None, needs_no_step
    due = {step.step: step for step in lifecycle.due_steps(state, policy)}
    mine = [due[name] for name in STEPS_OF[type(command)] if name in due]
    reached = [step for step in mine if step.due_at <= command.now]
    if not reached and _may_be_late(command, earlier):
        return None, True
    return next(iter(reached or mine), None), bool(reached)


def _needs_no_step(command: c.Command, state: Session, earlier: Sequence[e.Event]) -> bool | None:
    """Whether it was the time for a command that runs no due step; `None`: it runs one."""
    match command:
        case c.OpenSession():
            return state.status is Status.NEW
        case c.EraseGuest():
            return state.erased_at is None
        case c.Resolve():
            return state.status is Status.PARKED
        case c.RequestRedelivery():
            return state.session_id is not None
        case c.PlaceHold() | c.ReleaseHold():
            return state.held is isinstance(command, c.ReleaseHold)
        case c.WithdrawConsent():
            return state.consent is not None
        case c.RecordDelivery() if command.notice is not state.notice:
            return state.status is Status.WITHDRAWN  # the call began before the withdrawal
        case c.RecordDelivery() if state.webhook_erased:
            return True  # the call began before the erasure
        case c.NoteClockSetBack():
            return True
        case c.RecordAttempt(attempt=attempt) if state.status is not Status.ATTEMPTING or attempt != state.attempts:
            return isinstance(command.outcome, Created) or attempt in state.in_doubt  # a late answer
        case c.DeferCreation() if earlier and isinstance(earlier[-1], e.CreationFailed | e.DoubtLifted):
            # It was made before the answer to its attempt, and both were recorded at once.
            return True if command.now <= earlier[-1].at else None
        case _:
            return None


def _may_be_late(command: c.Command, earlier: Sequence[e.Event]) -> bool:
    """Whether its request may have begun before the latest answer to the same step, which put the step off."""
    match command:
        case c.RecordLookup():  # no event says when it began
            return any(isinstance(event, e.ChannelLookupFailed | e.CreationDeferred) for event in earlier)
        case c.RecordDelivery(outcome=outcome):
            began_at = command.now - timedelta(milliseconds=outcome.latency_ms)
            return any(isinstance(event, e.WebhookFailed) and event.at >= began_at for event in earlier)
        case _:
            return False
