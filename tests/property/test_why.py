"""What is said of a waiting session holds for every limiter: it is what a claim meets now, and nothing holds it when it is to move."""

from datetime import timedelta
from uuid import UUID

from guestledger.engine.work import DueStepRow
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from guestledger.adapters.cli.why import why
from guestledger.adapters.postgres.limits.rate_limiter import LimiterTransaction
from guestledger.engine.domain.lifecycle import Policy, next_step
from guestledger.engine.domain.session import fold
from guestledger.engine.limits.admission import AdmissionRequest, DenialReason
from guestledger.engine.limits.limiter import LimiterState
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.operations.explain import Explanation
from guestledger.engine.ports.due_steps import WorkStatus
from tests.unit.samples import FAILED, IN_DOUBT, SESSION, THROTTLED, VALIDATED, at

API = "api.example.com sessions"
A_MOMENT = timedelta(milliseconds=1)

# Before the deadline, so that nothing is overdue.
moments = st.integers(0, 600_000).map(lambda ms: at(ms / 1_000))
maybe = st.none() | moments
rates = st.floats(0.05, 500)


@st.composite
def limiters(draw: st.DrawFn) -> LimiterState:
    closed = LimiterState(closed_until=draw(maybe), why="Retry-After", failures=draw(st.integers(0, 20)))
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
    lambda calls, first: Policy(limiter=LimiterPolicy(calls=calls, first_rate=first)),
    st.none() | st.integers(1, 5),
    rates,
)
histories = st.sampled_from([VALIDATED, THROTTLED, FAILED, IN_DOUBT])


def said(work: WorkStatus, history: tuple[object, ...], policy: Policy, limiter: LimiterState) -> Explanation:
    state = fold(SESSION, history)  # type: ignore[arg-type]
    passed = {"AttemptCreation": API}
    return why(state, policy, work, events=history, passed=passed, limiters={API: limiter})  # type: ignore[arg-type]


def standing(history: tuple[object, ...], policy: Policy, **given: object) -> WorkStatus:
    step = next_step(fold(SESSION, history), policy)  # type: ignore[arg-type]
    assert step is not None
    row = DueStepRow(
        step="AttemptCreation", due_at=step.not_before, owner=None, lease_until=None, ends_at=None, ahead=0
    )
    return WorkStatus(**{"now": at(0), "version": len(history), "in_flight": 0, "row": row, **given})  # type: ignore[arg-type]


@given(
    history=histories,
    policy=policies,
    limiter=limiters(),
    now=moments,
    ahead=st.integers(0, 300),
    flying=st.integers(0, 6),
)
def test_the_explanation_matches_the_claim_and_the_admission(
    history: tuple[object, ...], policy: Policy, limiter: LimiterState, now: object, ahead: int, flying: int
) -> None:
    work = standing(history, policy, now=now, in_flight=flying)
    assert work.row is not None
    now = max(work.now, work.row.due_at)
    work = replace(work, now=now, row=replace(work.row, ahead=ahead))
    waiting = said(work, history, policy, limiter)

    book = LimiterTransaction({API: limiter}, now, policy.limiter, flying)
    free, _ = book.room(API, ahead + 1)
    at_claim = len(free) <= ahead
    first = waiting.holds[0].by if waiting.holds else None
    assert at_claim == (first not in (None, DenialReason.BUDGET))
    if not at_claim:
        retried = fold(SESSION, history).is_retried  # type: ignore[arg-type]
        book.take(API, ahead + 1)
        met = book.admit(AdmissionRequest(limiter=API, retry=retried, slotted=True))
        assert (met and met.by) == first
        assert (met.until if met else now) == waiting.moves_at


@given(history=histories, policy=policies, limiter=limiters(), now=moments)
def test_a_session_is_blocked_until_the_predicted_time_and_not_longer(
    history: tuple[object, ...], policy: Policy, limiter: LimiterState, now: object
) -> None:
    work = standing(history, policy, now=now)
    waiting = said(work, history, policy, limiter)
    assert waiting.moves_at is not None
    assert bool(waiting.holds) == (waiting.moves_at > work.now)
    assert [held.until for held in waiting.holds] == sorted(held.until for held in waiting.holds if held.until)
    assert said(replace(work, now=waiting.moves_at + A_MOMENT), history, policy, limiter).holds == ()
    if waiting.holds:
        before = waiting.moves_at - timedelta(milliseconds=301)  # so far ahead slots are taken
        if before > work.now:
            assert said(replace(work, now=before), history, policy, limiter).holds != ()


def test_a_lease_takes_precedence_over_a_closed_limiter() -> None:
    work = standing(VALIDATED, Policy(), now=at(3))
    assert work.row is not None
    leased = replace(work, row=replace(work.row, owner=UUID(int=1), lease_until=at(9)))
    assert said(leased, VALIDATED, Policy(), LimiterState(closed_until=at(5))).moves_at == at(9)
