"""Event JSON is canonical (RFC 8785) and lossless."""

import json

import pytest
import rfc8785
from hypothesis import given, strategies as st

from guestledger.engine.domain.events import EVENT_TYPES, Event
from guestledger.engine.domain.evolve import evolve, fold
from guestledger.engine.domain.session import Session
from guestledger.engine.log.codec import decode, encode, wire_name
from tests.property.invariants import SESSION
from tests.property.strategies import EVENTS_BY_NAME, session_events


@pytest.mark.parametrize("name", EVENTS_BY_NAME)
@given(data=st.data())
def test_event_json_is_canonical_by_rfc_8785(name: str, data: st.DataObject) -> None:
    text = encode(data.draw(EVENTS_BY_NAME[name]))
    assert text.encode() == rfc8785.dumps(json.loads(text))


@pytest.mark.parametrize("name", EVENTS_BY_NAME)
@given(data=st.data())
def test_an_event_survives_encoding_and_decoding(name: str, data: st.DataObject) -> None:
    event = data.draw(EVENTS_BY_NAME[name])
    again = decode(wire_name(event), event.schema_version, encode(event))
    assert again == event
    assert type(again) is EVENT_TYPES[name]
    assert encode(again) == encode(event)


@given(history=st.lists(session_events, max_size=8))
def test_folding_any_history_counts_one_version_per_event(history: list[Event]) -> None:
    state = Session(id=SESSION)
    for version, event in enumerate(history, start=1):
        state = evolve(state, event)
        assert state.version == version
    assert state == fold(SESSION, history)
    assert state.id == SESSION
