"""A session lived once more on a virtual clock, with the recorded outcomes, under other choices or by other code."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
from msgspec.structs import replace

from guestledger.engine.domain import commands as c, events as e
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.outcomes import Created
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.replay.agenda import (
    BEGINNING,
    TIMERS,
    Agenda,
    Entry,
    FromAttempt,
    FromOutside,
    Readiness,
    Source,
    advanced,
    source_of,
)
from guestledger.engine.replay.decisions import Decision, Lifecycle, with_recorded
from guestledger.engine.replay.findings import Assumption, LeftOut, Taken, Unanswered

_NEVER = datetime.max.replace(tzinfo=UTC)
_UNSHIFTED = timedelta()


class _Next(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What may happen next: a recorded decision, or a due step of which the log holds none."""

    at: datetime
    entry: Entry | None
    step: StepName | None
    shift: timedelta = _UNSHIFTED
    """Between the log and the simulation."""

    @property
    def order(self) -> tuple[datetime, bool, int]:
        """At equal times the order in the log decides, and the log goes first."""
        return self.at, self.entry is None, 0 if self.entry is None else self.entry.number

    @property
    def needs_outcome(self) -> bool:
        return self.step not in TIMERS


class Simulation:
    """One run. While it is the same as the log, it takes what the log holds, in that order, and nothing else happens."""

    def __init__(
        self,
        session_id: UUID,
        agenda: Agenda,
        policies: Mapping[int, Policy],
        lifecycle: Lifecycle,
        now: datetime,
        hold: c.PlaceHold | None = None,
    ) -> None:
        """`policies` has the policy to use by the id of the recorded one. Timers run up to `now`. `hold`: see `what_if`."""
        self.state = Session(id=session_id)
        self.events: list[e.Event] = []
        self.diverged = False
        self.recorded: Taken | None = None
        self.simulated: Taken | None = None
        self.assumed: list[Assumption] = []
        self.unanswered: list[Unanswered] = []
        self.left_out: list[LeftOut] = []
        self._agenda = agenda
        self._policies = policies
        self._lifecycle = lifecycle
        self._horizon = now
        self._hold = hold
        self._queues: dict[Source, deque[Entry]] = {}
        for entry in agenda.entries:
            self._queues.setdefault(entry.source, deque()).append(entry)
        self._made = 0  # how many entries are the same so far
        self._begun: dict[int, tuple[int, timedelta]] = {}  # by the number in the log: the number here, and the shift
        self._blocked: set[tuple[StepName, datetime]] = set()
        self._now = BEGINNING
        self._ready: Readiness = {}
        self._policy = self._policy_now()

    def run(self) -> None:
        """Run to the end: to where nothing is left, the present, or the first request that stops it without an answer."""
        while (following := self._following()) is not None:
            if following.entry is not None:
                self._take(following.entry, following)
            elif following.step in TIMERS:
                self._run_timer(following)
            else:
                self._note_unanswered(following)
                if following.step is not StepName.DELIVER_WEBHOOK:
                    break
        if not self.diverged and self._made < len(self._agenda.entries):
            self._diverge(None)

    @property
    def waits(self) -> bool:
        """Whether a step is still due."""
        return bool(self._lifecycle.due_steps(self.state, self._policy))

    def _following(self) -> _Next | None:
        self._policy = self._policy_now()
        self._ready = advanced(self._ready, self._lifecycle.due_steps(self.state, self._policy), self._now)
        possible = [*self._recorded_ones(), *self._due_ones()]
        found = min(possible, key=lambda one: one.order, default=None)
        if found is None or found.needs_outcome or found.at <= self._horizon:
            return found
        # Time passes up to the present, and up to the last recorded outcome that still has its place.
        return found if any(one.entry is not None and one.needs_outcome for one in possible) else None

    def _policy_now(self) -> Policy:
        """The policy of the decision in whose place the simulation is."""
        if self.diverged:
            return self._policy
        entries = self._agenda.entries
        recorded = entries[self._made].decision.policy if self._made < len(entries) else self._agenda.policy_after
        return self._policies[id(recorded)]

    def _recorded_readiness(self) -> Readiness:
        """The due steps in the log, at the point up to which the simulation is the same."""
        if self.diverged:
            return {}
        entries = self._agenda.entries
        return entries[self._made].ready if self._made < len(entries) else self._agenda.ready_after

    def _recorded_ones(self) -> Iterator[_Next]:
        """Recorded decisions that do not depend on a due step: from outside, and what came back of attempts."""
        if entry := self._first(FromOutside()):
            yield _Next(at=entry.reached_at, entry=entry, step=None)
        for attempt, (_, shift) in self._begun.items():
            if entry := self._first(FromAttempt(attempt)):
                yield _Next(at=entry.reached_at + shift, entry=entry, step=StepName.SETTLE_ATTEMPT, shift=shift)

    def _due_ones(self) -> Iterator[_Next]:
        recorded = self._recorded_readiness()
        for step, ready in self._ready.items():
            as_recorded = step in recorded and recorded[step].due_at == ready.due_at
            entry = self._first(source_of(step, self.state))
            if entry is not None:
                shift = _UNSHIFTED if as_recorded else ready.at - entry.ready_at
                yield _Next(at=entry.reached_at + shift, entry=entry, step=step, shift=shift)
            elif step is StepName.SETTLE_ATTEMPT:
                if self.diverged:  # anything else that is recorded may come first
                    yield _Next(at=_NEVER, entry=None, step=step)
            elif not as_recorded and (step, ready.due_at) not in self._blocked:
                yield _Next(at=ready.at, entry=None, step=step)

    def _first(self, source: Source) -> Entry | None:
        queue = self._queues.get(source)
        return queue[0] if queue else None

    def _take(self, entry: Entry, following: _Next) -> None:
        self._queues[entry.source].popleft()
        decision, in_order = entry.decision, not self.diverged and entry.number == self._made
        if decision.command is None:
            if in_order:
                self._record(decision.recorded, entry.now)
            else:
                self._leave_out(entry)
            return
        command = self._moved(decision.command, following.shift)
        if self.diverged and isinstance(command, c.DeferCreation) and command.denied.until < command.now:
            return
        events = _completed(self._lifecycle.decide(self.state, command, self._policy), decision)
        if in_order and events == decision.decided:
            events = decision.recorded  # other code has taken it: the policy is not what differs
        if not (in_order and events == decision.recorded):
            self._diverge(Taken(at=command.now, version=self.state.version + 1, command=command, events=events))
            self._policy = self._policies[id(decision.policy)]
        if not events:
            self._leave_out(entry)
            return
        self._note(command, events, entry.now, following.shift)
        first = decision.recorded[0]
        if isinstance(first, e.CreationAttempted) and isinstance(events[0], e.CreationAttempted):
            self._begun[first.attempt] = events[0].attempt, following.shift
        self._record(events, command.now)

    def _moved(self, command: c.Command, shift: timedelta) -> c.Command:
        """The recorded command at the simulation's time."""
        if shift:
            command = replace(command, now=command.now + shift)
        if isinstance(command, c.RecordAttempt | c.SettleAttempt) and command.attempt in self._begun:
            command = replace(command, attempt=self._begun[command.attempt][0])
        if isinstance(command, c.RecordAttempt) and isinstance(command.outcome, Created) and self.diverged:
            command = replace(command, outcome=_created_later(command.outcome, shift))
        return command

    def _leave_out(self, entry: Entry) -> None:
        self._diverge(None)
        if isinstance(entry.source, FromOutside):
            named = entry.decision.command or entry.decision.recorded[0]
            self.left_out.append(LeftOut(command=type(named).__name__, at=entry.now))

    def _note(self, command: c.Command, events: Sequence[e.Event], recorded_at: datetime, shift: timedelta) -> None:
        """Note what is assumed: that the recorded answer would have come at another time, too."""
        match command:
            case c.RecordAttempt() | c.SettleAttempt():
                number = command.attempt
            case c.RecordLookup():
                number = self.state.lookups + 1
            case c.RecordDelivery():
                number = self.state.webhook_attempts + 1
            case c.DeferCreation():
                number = self.state.attempts + 1
            case _:
                return
        in_part = any(isinstance(event, e.SessionCreated) and not event.guest_token for event in events)
        if shift or in_part:
            kind = type(command).__name__
            self.assumed.append(
                Assumption(command=kind, number=number, recorded_at=recorded_at, at=command.now, in_part=in_part)
            )

    def _run_timer(self, following: _Next) -> None:
        assert following.step is not None
        command: c.Command = TIMERS[following.step](now=following.at)
        if following.step is StepName.ERASE_CONTACT and self._hold is not None and self._hold.now <= following.at:
            command = replace(self._hold, now=following.at)
        made = tuple(self._lifecycle.decide(self.state, command, self._policy))
        if not made:
            self._blocked.add((following.step, self._ready[following.step].due_at))
            return
        self._diverge(Taken(at=following.at, version=self.state.version + 1, command=command, events=made))
        self._record(made, following.at)

    def _note_unanswered(self, following: _Next) -> None:
        assert following.step is not None
        self._diverge(None)
        ready = self._ready[following.step]
        self._blocked.add((following.step, ready.due_at))
        self.unanswered.append(Unanswered(step=following.step, number=self._number(following.step), at=ready.at))

    def _diverge(self, simulated: Taken | None) -> None:
        if self.diverged:
            return
        self.diverged = True
        self.simulated = simulated
        if self._made < len(self._agenda.entries):
            entry = self._agenda.entries[self._made]
            self.recorded = taken(entry)

    def _record(self, events: Sequence[e.Event], now: datetime) -> None:
        for event in events:
            self.state = self._lifecycle.evolve(self.state, event)
        self.events += events
        self._now = now
        self._made += not self.diverged

    def _number(self, step: StepName) -> int:
        """Which look-up, attempt or delivery the step makes or waits for."""
        match step:
            case StepName.VALIDATE_CHANNEL:
                return self.state.lookups + 1
            case StepName.DELIVER_WEBHOOK:
                return self.state.webhook_attempts + 1
            case _:
                return self.state.attempts + (self.state.status is not Status.ATTEMPTING)


def taken(entry: Entry) -> Taken:
    """A recorded decision as it was taken."""
    decision = entry.decision
    version = decision.before.version + 1
    return Taken(at=entry.now, version=version, command=decision.command, events=decision.recorded)


def _created_later(created: Created, shift: timedelta) -> Created:
    """The answer at another time. The provider gives a lifetime; of a duplicate the log holds no expiry."""
    if not created.guest_token:
        return replace(created, unread={"expires_at": "not recorded"})
    if created.expires_at is None:
        return created
    return replace(created, expires_at=created.expires_at + shift)


def _completed(made: Sequence[e.Event], decision: Decision) -> tuple[e.Event, ...]:
    """The events of a simulated decision, with what only the log can tell of those of the recorded one."""
    known = len(decision.recorded)
    pairs = zip(made, decision.recorded, strict=False)
    return (*(with_recorded(event, recorded) for event, recorded in pairs), *made[known:])
