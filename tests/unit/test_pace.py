"""What a throttle does to the learned rate, and when a higher one is tried."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from guestledger.engine.limits.curve import Curve, added
from guestledger.engine.limits.last_seconds import LastSeconds
from guestledger.engine.limits.learning import answered, late, throttled
from guestledger.engine.limits.pace import EarlierRate, Pace, begun
from guestledger.engine.limits.trial import Trial
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
        now = at(since + (n + 1) / number)
        risen = answered(pace.admitted(now, at(0)), now, at(0), now)
        pace = risen.after(pace, now)
    return pace


def throttle(pace: Pace, seconds: float = 2, sent: float | None = None) -> Pace:
    return throttled(pace, 1.0, at(seconds), at(0), at(seconds if sent is None else sent))


def climbing(curve: Curve, number: int = 100, rate: float = 115.0) -> Pace:
    earlier = (EarlierRate(103.0, at(-9)),)
    return accepted(paced(curve, rate=rate, climb=2, began_at=at(0), earlier=earlier), number, since=1)


def test_a_throttle_lowers_the_rate_to_what_the_second_before_has_shown() -> None:
    rising = accepted(begun(100.0, at(0)), 80, since=1)
    assert 100 < rising.rate < 160
    assert throttle(rising).rate == pytest.approx(0.92 * 80, rel=0.03)


@pytest.mark.parametrize("number", [4, 20])
def test_an_api_that_was_hardly_used_has_shown_nothing(number: int) -> None:
    assert throttle(accepted(paced(GOOD), number, since=1)).rate > 40


def test_the_last_second_counts_by_its_share_of_each_of_two() -> None:
    counts = counted(0.2, 1.0, 1.5, 2.0, 2.5)
    assert counts.within_a_second(at(2.5)) == pytest.approx(2 + 2 * 0.5)
    assert counts.within_a_second(at(2.25)) == pytest.approx(2 * 0.5 + 2 * 0.75)
    assert counts.within_a_second(at(1.5)) == pytest.approx(2 * 0.5 + 1 * 0.5)


@pytest.mark.parametrize("seconds", [0.9, 2.6], ids=["before the limiter opened", "later than the last"])
def test_a_second_that_was_not_counted_is_not_known(seconds: float) -> None:
    assert counted(0.2, 1.0, 1.5, 2.0, 2.5).within_a_second(at(seconds)) is None


def test_seconds_long_ago_are_forgotten() -> None:
    counts = counted(*range(1, 100))
    assert (len(counts.counts), counts.within_a_second(at(96))) == (5, 1)
    assert counts.within_a_second(at(50)) is None
    assert counted(1, 90, 90.5).within_a_second(at(90.5)) == 2


def counted(*times: float) -> LastSeconds:
    counts = LastSeconds(opened_at=at(0), last_at=at(0))
    for seconds in times:
        counts = counts.and_one(at(seconds))
    return counts


def test_a_climb_that_is_throttled_ends_at_the_step_before() -> None:
    assert throttle(climbing(GOOD)).rate == 103


def test_a_climb_whose_last_step_was_small_ends_safely_below_the_throttled_rate() -> None:
    assert throttle(climbing(GOOD, rate=108.0)).rate == pytest.approx(0.92 * 108)


def test_the_rate_stays_for_two_seconds_after_a_throttle() -> None:
    assert throttle(climbing(GOOD)).hold == 2 * 103
    lowered = throttle(climbing(GOOD, rate=108.0))
    assert accepted(lowered, 150, since=3).rate == lowered.rate
    assert accepted(lowered, 250, since=3).rate > lowered.rate


def test_no_climb_ends_at_a_step_that_was_throttled_before() -> None:
    assert throttle(climbing(with_throttles(103))).rate < 103


def test_an_answer_counts_for_the_rate_at_which_it_was_sent() -> None:
    earlier = (EarlierRate(10.0, at(0)), EarlierRate(20.0, at(1)))
    pace = paced(GOOD, rate=50.0, began_at=at(2), earlier=earlier)
    for sent, rate in ((0.5, 10), (1.5, 20)):
        late = answered(pace, at(3), at(0), at(sent))
        assert (late.answers, late.rate) == (0, 50)
        assert [point.answers for point in late.curve if point.rate == pytest.approx(rate, rel=0.02)] == [1]
    assert answered(pace, at(3), at(0), at(2.5)).answers == 1


def test_a_throttle_counts_for_the_rate_at_which_it_was_sent() -> None:
    pace = paced(GOOD, rate=50.0, began_at=at(2), earlier=(EarlierRate(20.0, at(0)),), answers=9)
    for sent, rate, answers in ((1.5, 20, 1), (2.5, 50, 10)):
        [blamed] = [point for point in throttle(pace, 3, sent).curve if point.throttled]
        assert (blamed.rate, blamed.answers) == (pytest.approx(rate, rel=0.02), answers)


def test_an_answer_to_a_request_from_before_the_first_known_rate_shows_nothing() -> None:
    pace = replace(begun(10.0, at(1)), rate=20.0).after(begun(10.0, at(1)), at(2))
    assert late(pace, at(0.5), throttled=True).curve == ()
    assert len(late(pace, at(1.5), throttled=True).curve) == 1


def test_a_throttle_from_before_the_first_known_rate_is_learned_from() -> None:
    pace = throttle(begun(10.0, at(2)), 3, sent=1)
    assert [(point.rate, point.throttled) for point in pace.curve] == [(pytest.approx(10, rel=0.02), 1)]


def test_late_answers_count_for_the_rate_at_which_the_requests_were_sent() -> None:
    pace = paced(GOOD, began_at=at(0), learned_at=at(0), answers=15)
    throttled_pace = throttle(pace, 5)
    more = late(throttled_pace, at(4), throttled=True)
    [blamed] = [point for point in more.curve if point.throttled]
    assert (blamed.rate, blamed.throttled) == (pytest.approx(3, rel=0.02), 2)


def test_a_trial_alone_decides_while_nothing_else_is_known() -> None:
    trial = replace(begun(10.0, at(0)), trial=Trial(sent_at=at(-1), balance=-7), rate=5_000.0)
    shown = late(trial, at(-0.5), throttled=True).after(trial, at(1))
    assert shown.rate == 10
    for _ in range(30):
        shown = late(shown, at(0.5), throttled=False)
    assert shown.by_chance


def test_a_throttled_request_of_the_step_before_ends_the_climb_two_steps_before() -> None:
    earlier = (EarlierRate(104.0, at(0)), EarlierRate(114.0, at(1)))
    pace = accepted(paced(GOOD, rate=126.0, climb=3, began_at=at(2), earlier=earlier), 110, since=1)
    assert throttle(pace, 3, sent=1.99).rate == 104
    assert throttle(pace, 3, sent=2.01).rate == 114
    # It was the first step, and the curve knows better.
    assert throttle(replace(pace, climb=2), 3, sent=1.99).rate < 104


def test_a_throttle_costs_its_pause_and_the_time_until_it_is_seen() -> None:
    costs = [throttle(paced(()), 100, sent).pause_s for sent in (101, 100, 99, 50)]
    assert costs == [1, 1, 2, 6]


def test_rates_long_ago_are_forgotten() -> None:
    pace = paced(GOOD)
    for n in range(9):
        pace = replace(pace, rate=10.0 + n).after(pace, at(n))
    assert [one.rate for one in pace.earlier] == [14, 15, 16, 17]


@pytest.mark.parametrize(
    ("latency", "growth"), [(-30, 1.12), (0.02, 1.12**1.1), (0.4, 1.12**3), (0.5, 1.12**3.5), (3_600, 1.12**3.5)]
)
def test_the_rate_rises_as_fast_whenever_the_answers_come(latency: float, growth: float) -> None:
    pace = begun(50.0, at(0))
    for n in range(1, 11):
        pace = answered(pace, at(0.02 * n + latency), at(0), at(0.02 * n))
    assert pace.rate == pytest.approx(50 * growth, rel=1e-3)


@pytest.mark.parametrize(("throttled_at", "sooner"), [(115, True), (102.5, False)], ids=["far above", "near"])
def test_half_the_way_to_a_throttled_rate_is_tried_sooner(throttled_at: float, *, sooner: bool) -> None:
    pace = paced(with_throttles(throttled_at), answers=1_199)
    risen = answered(pace, at(12), at(0), at(12)).rate
    assert (RATE < risen < throttled_at) if sooner else risen == RATE
    assert answered(paced(with_throttles(throttled_at), answers=4_999), at(50), at(0), at(50)).rate > RATE


@pytest.mark.parametrize("used", [True, False])
def test_a_throttle_long_after_others_is_no_surprise(*, used: bool) -> None:
    kept = {}
    for seconds in (0.5, 10):
        shaken = paced(GOOD, throttles=1.75, answers=999)
        if used:
            shaken = answered(shaken, at(seconds), at(0), at(seconds))
        kept[seconds] = sum(point.answers for point in throttle(shaken, seconds).curve)
    assert kept[0.5] < 0.4 * kept[10]


def test_a_surprise_ends_a_climb_below_the_step_before() -> None:
    assert throttle(replace(climbing(GOOD), throttles=10.0)).rate < 103


def test_a_climb_that_few_requests_used_has_shown_nothing() -> None:
    assert throttle(climbing(GOOD, 40)).rate < 103


def test_a_clock_set_back_leaves_what_was_counted() -> None:
    before = climbing(GOOD, 80)
    after = before.set_back(timedelta(seconds=9))
    assert before.last_seconds is not None
    assert after.last_seconds is not None
    assert after.last_seconds.within_a_second(at(-7)) == before.last_seconds.within_a_second(at(2))
    assert after.rates(at(-9.5)) == before.rates(at(-0.5))
