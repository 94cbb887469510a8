"""Whether today's code takes the decisions that were taken: the first divergence of each session, by kind.

A kind is one readable line, the same for every session that diverges in the same way. A list of allowed kinds holds one a line.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from guestledger.engine.domain.errors import in_short
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from guestledger.engine.log.codec import wire_name
from guestledger.engine.log.recorded import RecordedEvent, RecordedPolicy
from guestledger.engine.replay.decisions import Decision, Lifecycle, decisions
from guestledger.engine.replay.diff import changes

DueTimes = Mapping[str, datetime]
"""When each step is due (UTC), by its name."""


class RecordedDue(msgspec.Struct, frozen=True, kw_only=True):
    """The due steps after one event, as another release computed them."""

    policy: Policy
    steps: DueTimes


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """The first decision of a session that today's code does not take."""

    session_id: UUID
    version: int
    """Of the first event of the decision; for due steps, of the event after which they differ."""
    kind: str
    decision: Decision | None
    """`None`: today's code fails before there is one."""
    due: tuple[DueTimes, DueTimes] | None = None
    """The due steps that differ: those of the other release, and today's."""
    error: str = ""
    """Where today's code fails."""


class Group(msgspec.Struct, kw_only=True):
    """The divergences of one kind."""

    sessions: int = 0
    example: Divergence
    """The one with the lowest session id."""


class CheckReport(msgspec.Struct, kw_only=True):
    """What a check found. Reports of parts of a log can be added up."""

    sessions: int = 0
    events: int = 0
    decisions: int = 0
    groups: dict[str, Group] = msgspec.field(default_factory=dict)
    """By kind."""

    def add(self, other: "CheckReport") -> None:
        """Take in what the check of another part found."""
        self.sessions += other.sessions
        self.events += other.events
        self.decisions += other.decisions
        for group in other.groups.values():
            self._add(group.example, group.sessions)

    def check(
        self,
        history: Sequence[RecordedEvent],
        policies: Sequence[RecordedPolicy],
        due: Sequence[RecordedDue] = (),
        lifecycle: Lifecycle = Lifecycle(),
    ) -> None:
        """Check one session, with at least one event. `due`: what another release had due after each event, if that is known."""
        self.sessions += 1
        self.events += len(history)
        session_id, version = history[0].stream_id, 0
        try:
            for decision in decisions(history, policies, lifecycle):
                self.decisions += 1
                divergence = _divergence(session_id, version, decision, due, lifecycle)
                if divergence is not None:
                    self._add(divergence, 1)
                    return
                version += len(decision.recorded)
        except Exception as error:  # noqa: BLE001 - code that fails on a history is what a check looks for
            self._add(_failure(history[version], error), 1)

    def first(self, allowed: Collection[str] = ()) -> Divergence | None:
        """The divergence with the lowest session id, of those whose kind is not allowed."""
        found = (group.example for kind, group in self.groups.items() if kind not in allowed)
        return min(found, key=lambda one: one.session_id, default=None)

    def _add(self, divergence: Divergence, sessions: int) -> None:
        group = self.groups.setdefault(divergence.kind, Group(example=divergence))
        group.sessions += sessions
        if divergence.session_id < group.example.session_id:
            group.example = divergence


def allowed_kinds(text: str) -> tuple[str, ...]:
    """The kinds in the text of an allow-list: one a line; `#` begins a comment line."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def _divergence(
    session_id: UUID, version: int, decision: Decision, due: Sequence[RecordedDue], lifecycle: Lifecycle
) -> Divergence | None:
    if not decision.is_reproduced:
        return Divergence(session_id=session_id, version=version + 1, kind=_kind(decision), decision=decision)
    state = decision.before
    for number, (event, recorded) in enumerate(zip(decision.recorded, due[version:], strict=False), version + 1):
        state = lifecycle.evolve(state, event)
        now = due_times(state, recorded.policy, lifecycle)
        if now != recorded.steps:
            kind = f"due after {wire_name(event)}: {', '.join(_due_changes(recorded.steps, now))}"
            both = (recorded.steps, now)
            return Divergence(session_id=session_id, version=number, kind=kind, decision=decision, due=both)
    return None


def _failure(recorded: RecordedEvent, error: Exception) -> Divergence:
    kind = f"{wire_name(recorded.event)} fails: {type(error).__name__}"
    error_text = in_short(error, "guestledger")
    return Divergence(
        session_id=recorded.stream_id, version=recorded.version, kind=kind, decision=None, error=error_text
    )


def due_times(state: Session, policy: Policy, lifecycle: Lifecycle = Lifecycle()) -> DueTimes:
    """When each due step of a session is due."""
    return {step.step.value: step.due_at for step in lifecycle.due_steps(state, policy)}


def _kind(decision: Decision) -> str:
    recorded, decided = _names(decision.recorded), _names(decision.decided)
    if decision.command is None:
        return f"no command: {recorded}"
    command = type(decision.command).__name__
    if decision.decided == decision.recorded:
        return f"{command} not due: {recorded}"
    paths = differing_paths(decision.recorded, decision.decided)
    return f"{command}: {recorded} -> {decided}" + (f": {', '.join(paths)}" if paths else "")


def _names(events: Sequence[Event]) -> str:
    return " + ".join(map(wire_name, events)) or "nothing"


def _due_changes(recorded: DueTimes, now: DueTimes) -> Iterator[str]:
    for step in sorted({*recorded, *now}):
        if step not in now:
            yield f"{step} missing"
        elif step not in recorded:
            yield f"{step} extra"
        elif recorded[step] != now[step]:
            yield f"{step} moved"


def differing_paths(recorded: Sequence[Event], decided: Sequence[Event]) -> tuple[str, ...]:
    """The paths of the fields that differ (`wait.ms`), sorted; empty if these are not events of the same types."""
    if [type(event) for event in recorded] != [type(event) for event in decided]:
        return ()
    pairs = zip(recorded, decided, strict=True)
    return tuple(sorted({change.field for pair in pairs for change in changes(*pair)}))
