"""What a throttle does to the learned rate, and when a higher one is tried."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from guestledger.engine.limits.accepted import Accepted
from guestledger.engine.limits.curve import Curve, added
from guestledger.engine.limits.learning import answered, throttled
from guestledger.engine.limits.pace import Pace, begun
from tests.unit.samples import at

GOOD = added((), rate=100, answers=5_000, throttled=0)
RATE = GOOD[0].rate


def with_throttles(rate: float) -> Curve:
    return added(GOOD, rate=rate, answers=100, throttled=10)


def paced(curve: Curve, **changes: object) -> Pace:
    given: dict[str, object] = {"rate": RATE, "floor": 0.1, "learned_at": at(0), "pause_s": 1.0, "curve": curve}
    return Pace(**(given | changes))  # type: ignore[arg-type]


def accepted(pace: Pace, number: int, since: float) -> Pace:
    for n in range(number):
        pace = answered(pace, at(since + (n + 1) / number), at(0))
    return pace


def test_a_throttle_lowers_the_rate_to_what_the_second_before_has_shown() -> None:
    rising = accepted(begun(100.0, at(0)), 80, since=1)
    assert 100 < rising.rate < 160
    assert throttled(rising, 1.0, at(2), at(0)).rate == pytest.approx(0.96 * 80, rel=0.03)


@pytest.mark.parametrize("number", [4, 20])
def test_an_api_that_was_hardly_used_has_shown_nothing(number: int) -> None:
    assert throttled(accepted(paced(GOOD), number, since=1), 1.0, at(2), at(0)).rate > 40


def test_the_last_second_counts_by_its_share_of_each_of_two() -> None:
    counts = Accepted(opened_at=at(0))
    assert counts.within_a_second(at(0.9)) is None
    for second in (1.0, 1.5, 2.0, 2.5):
        counts = counts.and_one(at(second))
    assert counts.within_a_second(at(2.5)) == pytest.approx(2 + 2 * 0.5)
    assert counts.within_a_second(at(3.5)) == pytest.approx(2 * 0.5)
    assert counts.within_a_second(at(4)) == 0


def test_a_climb_that_is_throttled_ends_at_the_step_before() -> None:
    climbing = accepted(paced(GOOD, rate=108.0, climb=2, climbed_from=103.0), 100, since=1)
    assert throttled(climbing, 1.0, at(2), at(0)).rate == 103


def test_no_climb_ends_at_a_step_that_was_throttled_before() -> None:
    climbing = accepted(paced(with_throttles(103), rate=108.0, climb=2, climbed_from=103.0), 100, since=1)
    assert throttled(climbing, 1.0, at(2), at(0)).rate < 103


@pytest.mark.parametrize(("throttled_at", "sooner"), [(115, True), (102.5, False)], ids=["far above", "near"])
def test_half_the_way_to_a_throttled_rate_is_tried_sooner(throttled_at: float, *, sooner: bool) -> None:
    pace = paced(with_throttles(throttled_at), answers=1_199)
    risen = answered(pace, at(12), at(0)).rate
    assert (RATE < risen < throttled_at) if sooner else risen == RATE
    assert answered(paced(with_throttles(throttled_at), answers=4_999), at(50), at(0)).rate > RATE


@pytest.mark.parametrize("used", [True, False])
def test_a_throttle_long_after_others_is_no_surprise(*, used: bool) -> None:
    kept = {}
    for seconds in (0.5, 10):
        shaken = paced(GOOD, throttles=1.75, answers=999)
        if used:
            shaken = answered(shaken, at(seconds), at(0))
        kept[seconds] = sum(point.answers for point in throttled(shaken, 1.0, at(seconds), at(0)).curve)
    assert kept[0.5] < 0.4 * kept[10]


def test_a_surprise_ends_a_climb_below_the_step_before() -> None:
    climbing = accepted(paced(GOOD, rate=108.0, climb=2, climbed_from=103.0), 100, since=1)
    shaken = replace(climbing, throttles=10.0)
    assert throttled(shaken, 1.0, at(2), at(0)).rate < 103


def test_a_climb_that_few_requests_used_has_shown_nothing() -> None:
    climbing = accepted(paced(GOOD, rate=108.0, climb=2, climbed_from=103.0), 40, since=1)
    assert throttled(climbing, 1.0, at(2), at(0)).rate < 103


def test_a_clock_set_back_leaves_what_was_counted() -> None:
    before = accepted(paced(GOOD), 80, since=1)
    after = before.set_back(timedelta(seconds=9))
    assert after.accepted_since(at(-9)).within_a_second(at(-7)) == before.accepted_since(at(0)).within_a_second(at(2))
