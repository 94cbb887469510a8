"""Whole lives of sessions, drawn by Hypothesis: any outcomes in any order, through `decide`."""

from collections.abc import Sequence
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec.structs import replace

from guestledger.engine.domain.commands import OpenSession, RecordLookup
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.domain.session import Session, fold
from tests.property.moves import Move, fixed, histories
from tests.property.strategies import CONSENTING, START, USABLE, policies, requests

CHANNELS = ("ch_1", "ch_2")

Life = list[list[Event]]
"""The events of one session, decision by decision."""


def live(request: GuestRequest, channel: str, usable: bool, drawn: Sequence[Move], policy: Policy) -> Life:
    first = [fixed(OpenSession(request=replace(request, channel_id=channel), now=START))]
    if usable:
        first.append(fixed(RecordLookup(outcome=USABLE, jitter=0.5, now=START)))
    life: Life = []
    state = Session(id=UUID(int=0))
    for move in (*first, *drawn):
        decided = list(decide(state, move(state), policy))
        if decided:
            life.append(decided)
            state = fold(state.id, [event for events in life for event in events])
    return life


lives: SearchStrategy[Life] = st.builds(
    live,
    st.just(CONSENTING) | st.just(CONSENTING) | requests,
    st.sampled_from(CHANNELS),
    st.sampled_from([True, True, True, False]),
    histories,
    st.just(Policy()) | policies,
)
