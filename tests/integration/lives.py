"""Whole lives of sessions, drawn by Hypothesis: whatever comes back from outside, in whatever order, through `decide`."""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec.structs import replace

from guestledger.engine.domain.commands import (
    BeginAttempt,
    Command,
    Expire,
    OpenSession,
    RecordAttempt,
    RecordDelivery,
    RecordLookup,
)
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.lifecycle import Policy, decide
from guestledger.engine.domain.outcomes import CreationOutcome, Delivered, LookupOutcome
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.domain.session import Session, Status, fold
from tests.property.strategies import (
    CONSENTING,
    START,
    USABLE,
    creation_outcomes,
    creations,
    deliveries,
    jitters,
    lookup_outcomes,
    policies,
    requests,
)

CHANNELS = ("ch_1", "ch_2")

# What happens, given where the session stands.
Happening = Callable[[Session], Command]
Life = list[list[Event]]
"""The events of one session, decision by decision."""


def _at(seconds: int) -> dict[str, object]:
    return {"now": START + timedelta(seconds=seconds)}


def in_turn(
    lookup: LookupOutcome, creation: CreationOutcome, call: Delivered, jitter: float, seconds: int
) -> Happening:
    """What comes next for a session that is taken forward, with these answers."""

    def command(state: Session) -> Command:
        told = {"jitter": jitter, **_at(seconds)}
        match state.status:
            case Status.PENDING if not state.channel_validated:
                return RecordLookup(outcome=lookup, **told)
            case Status.PENDING | Status.THROTTLED | Status.IN_DOUBT:
                return BeginAttempt(request_sha256="ab" * 32, **told)
            case Status.ATTEMPTING:
                return RecordAttempt(attempt=state.attempts, outcome=creation, **told)
            case Status.ACTIVE if state.webhook_settled:
                return Expire(**_at(seconds + 7_200))
            case _:
                return RecordDelivery(outcome=call, **told)

    return command


def again(jitter: float, seconds: int) -> Happening:
    """An attempt is begun, also where one is under way: then its worker has died."""
    return lambda _: BeginAttempt(request_sha256="ab" * 32, jitter=jitter, **_at(seconds))


def late(creation: CreationOutcome, attempt: int, jitter: float, seconds: int) -> Happening:
    """The answer to any attempt at all, be there such a one or not."""
    return lambda _: RecordAttempt(attempt=attempt, outcome=creation, jitter=jitter, **_at(seconds))


seconds = st.integers(0, 90)
happenings: SearchStrategy[Happening] = st.one_of(
    *[st.builds(in_turn, lookup_outcomes, creations | creations | creation_outcomes, deliveries, jitters, seconds)] * 4,
    st.builds(again, jitters, seconds),
    st.builds(late, creations, st.integers(0, 4), jitters, seconds),
    st.builds(lambda at: lambda _: Expire(**_at(at)), st.integers(0, 8_000)),
)


def live(request: GuestRequest, channel: str, usable: bool, drawn: list[Happening], policy: Policy) -> Life:
    life: Life = []
    state = Session(id=UUID(int=0))
    first: list[Happening] = [lambda _: OpenSession(request=replace(request, channel_id=channel), **_at(0))]
    if usable:
        first.append(lambda _: RecordLookup(outcome=USABLE, jitter=0.5, **_at(0)))
    for happening in (*first, *drawn):
        decided = decide(state, happening(state), policy)
        if decided:
            life.append(decided)
            state = fold(state.id, [event for events in life for event in events])
    return life


lives: SearchStrategy[Life] = st.builds(
    live,
    st.just(CONSENTING) | st.just(CONSENTING) | requests,
    st.sampled_from(CHANNELS),
    st.sampled_from([True, True, True, False]),
    st.lists(happenings, max_size=2) | st.lists(happenings, min_size=5, max_size=14),
    st.just(Policy()) | policies,
)
