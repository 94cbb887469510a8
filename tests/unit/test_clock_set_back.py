"""The database's clock was set back: what waits for a time by the earlier clock moves, and nothing ends too soon."""

from datetime import timedelta

from hypothesis import given as drawn, strategies as st

from guestledger.adapters.postgres.limits.rate_limiter import LimiterTransaction
from guestledger.engine.domain.commands import NoteClockSetBack
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.events import ClockSetBack
from guestledger.engine.limits.admission import AdmissionRequest
from guestledger.engine.limits.feedback import Feedback, Observation
from guestledger.engine.limits.limiter import observe
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.state import LimiterState
from tests.unit.given import given
from tests.unit.samples import (
    ACTIVE,
    ATTEMPTING,
    EXPIRED,
    EXPIRY,
    OPEN,
    PARKED,
    THROTTLED,
    at,
    clock_set_back,
    was_synced,
    webhook_failed,
)

HOURS = timedelta(hours=2)
POLICY = LimiterPolicy()


def noted() -> NoteClockSetBack:
    return NoteClockSetBack(back_ms=7_200_000, now=at(0) - HOURS)


def test_wait_and_deadline_move_when_the_clock_was_set_back() -> None:
    for history in (OPEN, ATTEMPTING, THROTTLED):
        then = given(*history).when(noted())
        assert then.then_one(ClockSetBack).back_ms == 7_200_000
        assert then.due() == {step: due - HOURS for step, due in given(*history).due().items()}


def test_webhook_moves_and_expiry_stays_when_the_clock_was_set_back() -> None:
    for history in (ACTIVE, (*ACTIVE, webhook_failed())):
        before, after = given(*history).due(), given(*history).when(noted()).due()
        assert after[StepName.DELIVER_WEBHOOK] == before[StepName.DELIVER_WEBHOOK] - HOURS
        assert after[StepName.EXPIRE_TOKEN] == EXPIRY


def test_a_session_that_waits_for_nothing_ignores_a_clock_set_back() -> None:
    for history in (PARKED, (*ACTIVE, was_synced()), (*EXPIRED, was_synced())):
        given(*history).when(noted()).then_nothing()


def test_a_look_up_after_a_clock_set_back_leaves_nothing_ahead() -> None:
    moved = given(*OPEN, clock_set_back()).state
    assert moved.due_since == at(0) - HOURS


def test_a_clock_set_back_beyond_the_beginning_of_time_is_no_fault() -> None:
    for history in (OPEN, ACTIVE):
        moved = given(*history, clock_set_back(back_ms=2**53)).state
        assert (moved.webhook_retry_at or moved.due_since).year == 1


def throttled(seconds: float, closed_ms: int) -> LimiterState:
    feedback = Feedback(
        limiter="cxone", observation=Observation.THROTTLED, began_at=at(seconds - 1), closed_ms=closed_ms
    )
    return observe(LimiterState(), feedback, at(seconds), POLICY)


def test_a_pause_begins_again_when_the_clock_was_set_back() -> None:
    now = at(30) - HOURS
    state = throttled(0, 60_000).following(now)
    assert state.closed_until == now + timedelta(seconds=60)
    assert state.denial(now + timedelta(seconds=59)) is not None
    assert state.denial(now + timedelta(seconds=60)) is None
    assert state.following(now) is state


def test_a_pause_is_unchanged_when_the_clock_moves_on() -> None:
    state = throttled(0, 60_000)
    for seconds in (-1.9, 0, 30, 7_200):
        assert state.following(at(seconds)) is state


def test_an_open_circuit_begins_again_when_the_clock_was_set_back() -> None:
    state = LimiterState(failures=10, breaks=1, broken_at=at(0), broken_until=at(8))
    now = at(0) - HOURS
    assert state.following(now).broken_until == now + timedelta(seconds=8)


SECONDS = st.sampled_from([0.5, 3.0, 60.0, 1_200.0])
ACTIONS = st.lists(st.tuples(st.sampled_from(["wait", "set back", "throttle", "admit"]), SECONDS), max_size=30)


@drawn(ACTIONS)
def test_no_step_back_opens_a_limiter_before_its_pause_has_passed(actions: list[tuple[str, float]]) -> None:
    state, real, back, closed_until = LimiterState(), 0.0, 0.0, 0.0
    for action, seconds in actions:
        real += 0.001
        transaction = LimiterTransaction({"cxone": state}, at(real - back), POLICY)
        match action:
            case "wait":
                real += seconds
                continue
            case "set back":
                back += seconds
                continue
            case "throttle":
                began_at = at(real - back - 1)
                transaction.observe(
                    Feedback(
                        limiter="cxone",
                        observation=Observation.THROTTLED,
                        began_at=began_at,
                        closed_ms=int(seconds * 1_000),
                    )
                )
                closed_until = max(closed_until, real + seconds)
            case "admit":
                request = AdmissionRequest(limiter="cxone", retry=False, reserved=False)
                assert transaction.admit(request) is not None or real >= closed_until
        state = transaction.kept().get("cxone", state)
