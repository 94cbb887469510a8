"""What is said of a waiting session holds for every gate: it is what a claim meets now, and nothing holds it when it is to move."""

from datetime import timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from adapters.postgres.gates import GateBook
from engine.domain.gate import Gate
from engine.domain.lifecycle import Policy, next_step
from engine.domain.passing import GatePolicy, Hold, Passage
from engine.domain.session import fold
from engine.waiting import Waiting, why
from engine.work import DueRow, WorkStanding
from tests.unit.samples import FAILED, IN_DOUBT, SESSION, THROTTLED, VALIDATED, at

API = "api.example.com sessions"
A_MOMENT = timedelta(milliseconds=1)

# Before the deadline, so that nothing is overdue.
moments = st.integers(0, 600_000).map(lambda ms: at(ms / 1_000))
maybe = st.none() | moments
rates = st.floats(0.05, 500)


@st.composite
def gates(draw: st.DrawFn) -> Gate:
    closed = Gate(closed_until=draw(maybe), why="Retry-After", failures=draw(st.integers(0, 20)))
    if draw(st.booleans()):
        opens = draw(moments)  # and as it opens, so does its first slot
        next_slot = draw(st.sampled_from([None, opens]))
        closed = replace(closed, paced_from=opens, ceiling=draw(st.none() | rates), next_slot=next_slot)
    if draw(st.booleans()):
        closed = replace(closed, broken_at=at(0), broken_until=draw(moments), probe_until=draw(maybe))
    if draw(st.booleans()):
        closed = replace(closed, retries=draw(st.floats(0, 100)), retries_at=at(0))
    return closed


policies = st.builds(
    lambda calls, first: Policy(gate=GatePolicy(calls=calls, first_rate=first)), st.none() | st.integers(1, 5), rates
)
histories = st.sampled_from([VALIDATED, THROTTLED, FAILED, IN_DOUBT])


def said(work: WorkStanding, history: tuple[object, ...], policy: Policy, gate: Gate) -> Waiting:
    state = fold(SESSION, history)  # type: ignore[arg-type]
    passed = {"AttemptCreation": API}
    return why(state, policy, work, events=history, passed=passed, gates={API: gate})  # type: ignore[arg-type]


def standing(history: tuple[object, ...], policy: Policy, **given: object) -> WorkStanding:
    step = next_step(fold(SESSION, history), policy)  # type: ignore[arg-type]
    assert step is not None
    row = DueRow(step="AttemptCreation", due_at=step.not_before, owner=None, lease_until=None, ends_at=None, ahead=0)
    return WorkStanding(**{"now": at(0), "version": len(history), "in_flight": 0, "row": row, **given})  # type: ignore[arg-type]


@given(
    history=histories, policy=policies, gate=gates(), now=moments, ahead=st.integers(0, 300), flying=st.integers(0, 6)
)
def test_what_is_said_is_what_the_claim_and_then_the_append_meet(
    history: tuple[object, ...], policy: Policy, gate: Gate, now: object, ahead: int, flying: int
) -> None:
    work = standing(history, policy, now=now, in_flight=flying)
    assert work.row is not None
    now = max(work.now, work.row.due_at)
    work = replace(work, now=now, row=replace(work.row, ahead=ahead))
    waiting = said(work, history, policy, gate)

    book = GateBook({API: gate}, now, policy.gate, flying)
    free, _ = book.room(API, ahead + 1)
    at_claim = len(free) <= ahead
    first = waiting.holds[0].by if waiting.holds else None
    assert at_claim == (first not in (None, Hold.BUDGET))
    if not at_claim:
        retried = fold(SESSION, history).is_retried  # type: ignore[arg-type]
        book.take(API, ahead + 1)
        met = book.admit(Passage(gate=API, retry=retried, slotted=True))
        assert (met and met.by) == first
        assert (met.until if met else now) == waiting.moves_at


@given(history=histories, policy=policies, gate=gates(), now=moments)
def test_nothing_holds_it_any_more_at_the_time_when_it_is_said_to_move_and_until_then_something_does(
    history: tuple[object, ...], policy: Policy, gate: Gate, now: object
) -> None:
    work = standing(history, policy, now=now)
    waiting = said(work, history, policy, gate)
    assert waiting.moves_at is not None
    assert bool(waiting.holds) == (waiting.moves_at > work.now)
    assert [held.until for held in waiting.holds] == sorted(held.until for held in waiting.holds if held.until)
    assert said(replace(work, now=waiting.moves_at + A_MOMENT), history, policy, gate).holds == ()
    if waiting.holds:
        before = waiting.moves_at - timedelta(milliseconds=301)  # so far ahead slots are taken
        if before > work.now:
            assert said(replace(work, now=before), history, policy, gate).holds != ()


def test_the_lease_of_anybody_is_told_before_all_else() -> None:
    work = standing(VALIDATED, Policy(), now=at(3))
    assert work.row is not None
    leased = replace(work, row=replace(work.row, owner=UUID(int=1), lease_until=at(9)))
    assert said(leased, VALIDATED, Policy(), Gate(closed_until=at(5))).moves_at == at(9)
