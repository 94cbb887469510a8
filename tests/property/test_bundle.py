"""Bundles of any sessions are read as they were written, and any change of an event's data is refused."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given, strategies as st

from guestledger.engine.domain.events import Event
from guestledger.engine.domain.evolve import evolve_all
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from guestledger.engine.domain.unreadable import BundleRefused
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.replay.bundle import read_bundle, write_bundle
from tests.lives import recorded_life, sealed, stored
from tests.property.invariants import SESSION
from tests.property.moves import Move, histories
from tests.property.strategies import patient_policies, policies
from tests.unit.histories import in_force

LEDGER = UUID("018f96c2-7a60-7000-8000-0000000000f1")
WRITTEN_AT = datetime(2026, 11, 3, tzinfo=UTC)
LIFE = recorded_life(SESSION, 3)


def bundle_of(history: Sequence[RecordedEvent], *policies: Policy) -> bytes:
    return write_bundle([history], policies=in_force(*policies), release="1.2.3", ledger=LEDGER, written_at=WRITTEN_AT)


BUNDLE = bundle_of(LIFE, Policy())


@given(policy=policies | patient_policies, moves=histories)
def test_a_bundle_is_read_with_the_same_events_and_policies(policy: Policy, moves: Sequence[Move]) -> None:
    state, events = Session(id=SESSION), list[Event]()
    for move in moves:
        decided = decide(state, move(state), policy)
        state = evolve_all(state, decided)
        events += decided
    if not events:
        return
    chance = random.Random(0)
    history = stored(SESSION, [sealed(event, chance) for event in events])

    bundle = read_bundle(bundle_of(history, policy, Policy()))

    assert bundle.policies == tuple(in_force(policy, Policy()))
    [session] = bundle.sessions
    assert list(session.history) == history
    assert len(session.due) == len(history)


@given(data=st.data(), number=st.integers(0, len(LIFE) - 1), byte=st.integers(0, 255))
def test_a_bundle_with_any_changed_byte_of_an_event_is_refused(data: st.DataObject, number: int, byte: int) -> None:
    text = LIFE[number].data.encode()
    at = BUNDLE.index(text) + data.draw(st.integers(0, len(text) - 1), "place")
    changed = BUNDLE[:at] + bytes([byte]) + BUNDLE[at + 1 :]
    if changed != BUNDLE:
        with pytest.raises(BundleRefused):
            read_bundle(changed)
