"""Recorded histories: the events of commands, recorded when the commands were decided."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from msgspec.structs import replace

from guestledger.engine.domain.commands import Command
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.evolve import evolve_all
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.outcomes import FailureKind
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from guestledger.engine.log.recorded import RecordedEvent, RecordedPolicy
from tests.unit import samples
from tests.unit.samples import SESSION, at


def recorded(event: Event, version: int = 1, recorded_at: datetime | None = None) -> RecordedEvent:
    """`event` as the store gives it, by default recorded at its own time."""
    return RecordedEvent(
        position=1_200 + version,
        stream_id=SESSION,
        version=version,
        event=event,
        recorded_at=recorded_at or event.at,
        correlation_id="trace-7",
        causation_id=UUID(int=version),
        actor="scheduler 4711",
        data="",
        leaf_hash=b"",
    )


def recorded_all(events: Sequence[Event], stream_id: UUID = SESSION) -> list[RecordedEvent]:
    """The events of one session, each recorded at its own time."""
    return [replace(recorded(event, version), stream_id=stream_id) for version, event in enumerate(events, 1)]


def in_force(*policies: Policy) -> list[RecordedPolicy]:
    """These policies, in force for the whole log."""
    return [RecordedPolicy(policy=policy) for policy in policies]


def history_of(*commands: Command, policy: Policy = Policy()) -> list[RecordedEvent]:
    """What these commands record, each at its own time. All must lead to an event."""
    state, history = Session(id=SESSION), list[RecordedEvent]()
    for command in commands:
        decided = decide(state, command, policy)
        assert decided, command
        history += [recorded(event, len(history) + 1 + number) for number, event in enumerate(decided)]
        state = evolve_all(state, decided)
    return history


def troubled(policy: Policy = Policy()) -> list[RecordedEvent]:
    """A session that was throttled, lost an answer, and whose notice failed once."""
    return history_of(*_troubled(), policy=policy)


def _troubled() -> Sequence[Command]:
    lost = samples.failed(FailureKind.IN_DOUBT)
    return (
        samples.open_session(at(0), subject_id="customer-17"),
        samples.look_up(samples.channel(looked_up_at=at(0.017)), at(0.017)),
        samples.begin(at(0.017)),
        samples.answer(samples.throttled(600_000), 1, at(0.06), jitter=0.8),
        samples.begin(at(608.5)),
        samples.answer(lost, 2, at(618.5), jitter=0.9),
        samples.begin(at(619.02)),
        samples.answer(samples.created(expires_at=at(4_200)), 3, at(619.14)),
        samples.deliver(samples.delivered(503), at(619.3)),
        samples.deliver(samples.delivered(204), at(625)),
        samples.expire(at(4_200.02)),
        samples.purge(at(4_200.03)),
    )
