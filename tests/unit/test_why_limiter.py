"""`explain`: how the rate limiter blocks a due step."""

from msgspec.structs import replace

from guestledger.adapters.cli.condition_lines import condition_line
from guestledger.engine.domain.policy import Policy
from guestledger.engine.limits.admission import AdmissionRequest
from guestledger.engine.limits.limiter import admit
from guestledger.engine.limits.pace import Pace
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import WaitBasis
from guestledger.engine.operations.conditions import ConditionName
from tests.unit.samples import (
    ACTIVE,
    ATTEMPTING,
    EXPIRY,
    FAILED,
    LIMITER,
    OPEN,
    THROTTLED,
    VALIDATED,
    at,
    lookup_failed,
    was_deferred,
    was_synced,
)
from tests.unit.waiting import BROKEN, CLOSED, PACED, RECEIVER, SPENT, blocked, main, waits


def test_a_closed_limiter_blocks_a_session_until_it_opens() -> None:
    waiting = waits(VALIDATED, at(3), states={LIMITER: CLOSED})
    assert blocked(waiting) == [(ConditionName.PAUSE, at(60))]
    [condition] = main(waiting).unmet
    assert (condition.at, condition.closed_by) == (at(60), WaitBasis.RETRY_AFTER)
    assert main(waiting).moves_at == at(60)


def test_a_closed_limiter_of_another_api_blocks_nothing() -> None:
    assert blocked(waits(VALIDATED, at(3), states={RECEIVER: CLOSED, "other": BROKEN})) == []
    assert blocked(waits(ACTIVE, at(3), states={RECEIVER: CLOSED})) == [(ConditionName.PAUSE, at(60))]
    assert blocked(waits((*ACTIVE, was_synced()), EXPIRY, states={LIMITER: CLOSED, RECEIVER: CLOSED})) == []


def test_a_limiter_closed_beyond_the_due_time_blocks_next() -> None:
    waiting = waits(THROTTLED, at(1), states={LIMITER: CLOSED})
    assert blocked(waiting) == [(ConditionName.DUE_TIME, at(2.25)), (ConditionName.PAUSE, at(60))]
    assert main(waiting).moves_at == at(60)
    later = (*VALIDATED, was_deferred(retry_at=at(61)))
    assert blocked(waits(later, at(1), states={LIMITER: CLOSED})) == [(ConditionName.DUE_TIME, at(61))]


def test_an_open_breaker_behind_a_closed_limiter_blocks_next() -> None:
    both = replace(BROKEN, closed_until=at(20), closed_by=WaitBasis.QUOTA)
    assert blocked(waits(VALIDATED, at(3), states={LIMITER: both})) == [
        (ConditionName.PAUSE, at(20)),
        (ConditionName.CIRCUIT, at(30)),
    ]


def test_an_open_breaker_blocks_until_a_probe_is_allowed_or_has_lapsed() -> None:
    assert blocked(waits(VALIDATED, at(3), states={LIMITER: BROKEN})) == [(ConditionName.CIRCUIT, at(30))]
    assert blocked(waits(VALIDATED, at(30), states={LIMITER: BROKEN})) == []
    probed = replace(BROKEN, probe_until=at(61))
    assert blocked(waits(VALIDATED, at(31), states={LIMITER: probed})) == [(ConditionName.CIRCUIT, at(61))]


def test_a_paced_limiter_blocks_by_the_number_of_sessions_due_before() -> None:
    assert blocked(waits(VALIDATED, at(3), states={LIMITER: PACED})) == [(ConditionName.RATE, at(20))]
    rate = PACED.rate(at(3))
    assert rate is not None
    queued = main(waits(VALIDATED, at(3), states={LIMITER: PACED}, ahead=8))
    assert queued.moves_at is not None
    assert abs((queued.moves_at - at(20 + 8 / rate)).total_seconds()) < 0.001
    assert queued.unmet[0].ahead == 8


def test_one_sentence_names_the_learned_rate_that_a_session_waits_for() -> None:
    fast = replace(PACED, pace=Pace(rate=47.25, floor=0.1, learned_at=at(1)))
    [condition] = main(waits(VALIDATED, at(3), states={LIMITER: fast}, ahead=8)).unmet
    assert condition_line(condition) == (
        "  NO   rate          47.2 a second, learned from the API's answers; 8 sessions are ahead; "
        "its turn comes at about 2024-05-20 14:22:20.169"
    )
    [condition] = main(waits(VALIDATED, at(3), states={LIMITER: CLOSED}, ahead=8)).unmet
    assert condition_line(condition) == (
        "  NO   pause         the server asked for one until 2024-05-20 14:23:00.000 (Retry-After)"
    )


def test_sessions_due_before_do_not_block_if_capacity_is_sufficient() -> None:
    assert blocked(waits(VALIDATED, at(3), ahead=10_000)) == []
    fast = replace(PACED, next_reservation=None, pace=Pace(rate=1_000.0, floor=0.1, learned_at=at(1)))
    assert blocked(waits(VALIDATED, at(3), states={LIMITER: fast}, ahead=5)) == []


def test_calls_in_flight_block_a_session_at_the_call_limit() -> None:
    limited = Policy(limiter=LimiterPolicy(calls=2))
    full = [(ConditionName.CONCURRENCY, at(4))]
    assert blocked(waits(VALIDATED, at(3), policy=limited, in_flight=2)) == full
    assert blocked(waits(VALIDATED, at(3), policy=limited, in_flight=1)) == []
    assert blocked(waits(VALIDATED, at(3), policy=limited, in_flight=1, ahead=1)) == full
    assert blocked(waits(VALIDATED, at(3), in_flight=2)) == []
    assert blocked(waits(THROTTLED, at(0), policy=limited, in_flight=2)) == [(ConditionName.DUE_TIME, at(2.25))]
    assert blocked(waits(OPEN, at(3), policy=limited, in_flight=2)) == full
    assert blocked(waits(ATTEMPTING, at(3), policy=limited, in_flight=2)) == []
    assert blocked(waits(ACTIVE, at(3), policy=limited, in_flight=2)) == []


def test_an_exhausted_retry_budget_blocks_only_retries() -> None:
    waiting = waits(FAILED, at(10), states={LIMITER: SPENT})
    assert blocked(waiting) == [(ConditionName.RETRY_BUDGET, at(10.2))]
    assert blocked(waits(FAILED, at(10.3), states={LIMITER: SPENT})) == []
    assert blocked(waits(VALIDATED, at(10), states={LIMITER: SPENT})) == []
    assert blocked(waits(THROTTLED, at(10), states={LIMITER: SPENT})) == []


def test_an_exhausted_retry_budget_blocks_a_repeated_lookup() -> None:
    failed = (*OPEN, lookup_failed(retry_at=at(9)))
    assert blocked(waits(failed, at(10), states={LIMITER: SPENT})) == [(ConditionName.RETRY_BUDGET, at(10.2))]
    assert blocked(waits(failed, at(10.3), states={LIMITER: SPENT})) == []
    assert blocked(waits(OPEN, at(10), states={LIMITER: SPENT})) == []
    spent = replace(SPENT, retry_budget_at=at(4_000))
    assert blocked(waits(failed, at(4_000), states={LIMITER: spent})) == [(ConditionName.DEADLINE, None)]


def test_an_unanswered_attempt_is_not_blocked_by_the_retry_budget() -> None:
    assert blocked(waits(ATTEMPTING, at(10), states={LIMITER: SPENT})) == []


def test_the_explained_budget_denial_equals_the_limiters() -> None:
    request = AdmissionRequest(limiter=LIMITER, retry=True, reserved=True)
    _, denied = admit(SPENT, request, at(10), LimiterPolicy())
    assert denied is not None
    [condition] = main(waits(FAILED, at(10), states={LIMITER: SPENT})).unmet
    assert (condition.name, condition.until, condition.rate) == (denied.by, denied.until, denied.rate)
