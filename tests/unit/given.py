"""Given, when, then over the events of one session."""

from datetime import datetime
from typing import TypeVar

import msgspec

from guestledger.engine.domain.commands import Command
from guestledger.engine.domain.due import StepName, due_steps
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.evolve import fold
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from tests.unit.samples import SESSION

E = TypeVar("E", bound=Event)


class Then(msgspec.Struct, frozen=True):
    """The outcome of a command."""

    before: tuple[Event, ...]
    events: tuple[Event, ...]

    def then(self, *expected: Event) -> "Then":
        assert self.events == expected
        return self

    def then_nothing(self) -> None:
        assert self.events == ()

    def then_kinds(self, *expected: type[Event]) -> "Then":
        assert tuple(type(event) for event in self.events) == expected
        return self

    def then_one(self, kind: type[E]) -> E:
        """The only event."""
        assert len(self.events) == 1
        assert isinstance(self.events[0], kind)
        return self.events[0]

    @property
    def state(self) -> Session:
        return fold(SESSION, (*self.before, *self.events))

    def due(self, policy: Policy = Policy()) -> dict[StepName, datetime]:
        return given(*self.before, *self.events).due(policy)


class Given(msgspec.Struct, frozen=True):
    """A session with this history."""

    events: tuple[Event, ...]

    @property
    def state(self) -> Session:
        return fold(SESSION, self.events)

    def when(self, command: Command, policy: Policy = Policy()) -> Then:
        return Then(self.events, tuple(decide(self.state, command, policy)))

    def due(self, policy: Policy = Policy()) -> dict[StepName, datetime]:
        """When each due step is due."""
        steps = due_steps(self.state, policy)
        due = {step.step: step.due_at for step in steps}
        assert len(due) == len(steps), "a step is due once"
        return due


def given(*events: Event) -> Given:
    return Given(events)
