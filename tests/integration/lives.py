"""Whole lives of sessions, drawn by Hypothesis: any outcomes in any order, through `decide`."""

from uuid import UUID

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec.structs import replace

from guestledger.engine.domain.commands import OpenSession, RecordLookup
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.evolve import evolve_all
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.domain.session import Session
from tests.property.moves import Move, expiries, fixed, late_answers, moves_in_turn, settlements
from tests.property.strategies import CONSENTING, START, USABLE, policies, requests
from tests.unit.samples import HMAC_KEY

CHANNELS = ("ch_1", "ch_2")

Life = list[list[Event]]
"""The events of one session, decision by decision."""

# No decisions of a person: the metrics by hand do not count adopted sessions.
moves: SearchStrategy[Move] = st.one_of(*[moves_in_turn] * 4, settlements, late_answers, expiries)


def live(request: GuestRequest, channel: str, usable: bool, drawn: list[Move], policy: Policy) -> Life:
    life: Life = []
    state = Session(id=UUID(int=0))
    first = [fixed(OpenSession(hmac_key=HMAC_KEY, request=replace(request, channel_id=channel), now=START))]
    if usable:
        first.append(fixed(RecordLookup(outcome=USABLE, jitter=0.5, now=START)))
    for move in (*first, *drawn):
        decided = decide(state, move(state), policy)
        if decided:
            life.append(decided)
            state = evolve_all(state, decided)
    return life


lives: SearchStrategy[Life] = st.builds(
    live,
    st.just(CONSENTING) | st.just(CONSENTING) | requests,
    st.sampled_from(CHANNELS),
    st.sampled_from([True, True, True, False]),
    st.lists(moves, max_size=2) | st.lists(moves, min_size=5, max_size=14),
    st.just(Policy()) | policies,
)
