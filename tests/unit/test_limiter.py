"""The limiter before an API: what it has been told, and what it then lets through."""

from datetime import datetime, timedelta
from functools import partial
from math import exp
from typing import Any

import pytest
from guestledger.engine.domain.feedback import heard, heard_of_webhook
from msgspec.structs import replace

from guestledger.adapters.postgres.limits.rate_limiter import LimiterTransaction
from guestledger.engine.domain import events as e
from guestledger.engine.domain.outcomes import Delivered
from guestledger.engine.limits import policy as passing
from guestledger.engine.limits.admission import AdmissionRequest, DenialReason, Denied
from guestledger.engine.limits.feedback import Feedback, Observation
from guestledger.engine.limits.limiter import LimiterState, admit, observe, slots
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.quota import ExhaustedQuota
from tests.unit.samples import at, channel, created, delivered, failed, throttled

NAME = "api.example.com sessions"
POLICY = LimiterPolicy(spare_slots=0)
CLEAN = LimiterState()
FIRST = AdmissionRequest(limiter=NAME, retry=False, slotted=False)
RETRY = replace(FIRST, retry=True)
SLOTTED = replace(FIRST, slotted=True)


def telling(answered: Observation, began: float, **given: Any) -> Feedback:
    return Feedback(limiter=NAME, answered=answered, began_at=at(began), **given)


class Told:
    """A limiter, and what becomes of it. Times are seconds."""

    def __init__(self, limiter: LimiterState = CLEAN, policy: LimiterPolicy = POLICY) -> None:
        self.limiter = limiter
        self.policy = policy

    def throttled(self, now: float, closed_s: float = 0, *, began: float | None = None, **given: Any) -> "Told":
        began = now if began is None else began
        given = {"why": f"Retry-After of {closed_s} s", "closed_ms": round(closed_s * 1_000), **given}
        return self._hear(telling(Observation.THROTTLED, began, **given), now)

    def failed(self, now: float, times: int = 1, *, began: float | None = None, **given: Any) -> "Told":
        for _ in range(times):
            self._hear(telling(Observation.FAILED, now if began is None else began, **given), now)
        return self

    def not_sent(self, now: float, *, began: float | None = None) -> "Told":
        return self._hear(telling(Observation.NOT_SENT, now if began is None else began), now)

    def well(self, now: float, times: int = 1, *, began: float | None = None, **given: Any) -> "Told":
        for _ in range(times):
            self._hear(telling(Observation.SUCCESS, now if began is None else began, **given), now)
        return self

    def _hear(self, hearing: Feedback, now: float) -> "Told":
        self.limiter = observe(self.limiter, hearing, at(now), self.policy)
        return self

    def asked(self, now: float, passage: AdmissionRequest = FIRST) -> Denied | None:
        self.limiter, held = admit(self.limiter, passage, at(now), self.policy)
        return held

    def let_through(self, now: float, passage: AdmissionRequest = FIRST, times: int = 1) -> "Told":
        for _ in range(times):
            assert self.asked(now, passage) is None
        return self

    def held_by(self, hold: DenialReason, now: float, passage: AdmissionRequest = FIRST) -> Denied:
        before = self.limiter
        held = self.asked(now, passage)
        assert held is not None
        assert held.by is hold
        assert self.limiter == before, "who is held back leaves the limiter as it was"
        return held

    def slots(self, now: float, most: int = 1_000) -> list[datetime]:
        self.limiter, taken, _ = slots(self.limiter, most, at(now), self.policy)
        return taken

    def rate(self, now: float) -> float | None:
        return self.limiter.rate(at(now), self.policy)

    def broken(self, now: float = 0) -> "Told":
        return self.failed(now, self.policy.failures_in_a_row)


def told(limiter: LimiterState = CLEAN, **policy: Any) -> Told:
    return Told(limiter, replace(POLICY, **policy))


# The limiter


def test_who_knows_nothing_against_an_api_lets_everything_through_and_stays_as_it_was() -> None:
    limiter = told().let_through(0, times=500)
    assert limiter.slots(0, 500) == [at(0)] * 500
    assert limiter.limiter == CLEAN
    assert limiter.limiter.is_clean(at(0), POLICY)


@pytest.mark.parametrize("passage", [FIRST, RETRY, SLOTTED])
def test_a_throttle_closes_the_gate_until_the_servers_time_and_not_a_moment_less(passage: AdmissionRequest) -> None:
    limiter = told().throttled(1, 2)
    for now in (1, 2, 2.999999):
        held = limiter.held_by(DenialReason.GATE, now, passage)
        assert held.until == at(3)
        assert "Retry-After of 2 s" in held.reason
        assert limiter.slots(now) == []
    limiter.let_through(3, passage)


@pytest.mark.parametrize("waits", [(5, 2), (2, 5)])
def test_of_several_throttles_the_one_that_ends_last_counts_and_is_the_one_that_is_told(
    waits: tuple[float, float],
) -> None:
    limiter = told().throttled(0, waits[0], began=-1).throttled(0, waits[1], began=-1)
    held = limiter.held_by(DenialReason.GATE, 4.999)
    assert held.until == at(5)
    assert "Retry-After of 5 s" in held.reason


def test_a_shorter_throttle_that_comes_later_does_not_open_what_another_has_closed() -> None:
    limiter = told().throttled(0, 60).throttled(10, 0, began=-1)
    assert limiter.held_by(DenialReason.GATE, 59.999).until == at(60)


def test_a_success_that_was_under_way_does_not_open_a_closed_limiter() -> None:
    limiter = told().throttled(0, 5).well(1, began=-1)
    assert limiter.held_by(DenialReason.GATE, 4.999).until == at(5)


def test_a_throttle_closes_the_gate_for_a_moment_even_where_the_server_asks_for_none() -> None:
    limiter = told(min_closed_ms=500).throttled(0, 0)
    assert limiter.held_by(DenialReason.GATE, 0.499).until == at(0.5)
    limiter.let_through(0.5)


def test_a_closed_gate_opens_with_a_pace_and_not_with_all_that_waits() -> None:
    limiter = told(first_rate=10, ahead_ms=300).throttled(0, 5)
    assert limiter.slots(5) == [at(5), at(5.1), at(5.2), at(5.3)]
    limiter.held_by(DenialReason.PACE, 5)


def test_a_quota_that_a_success_says_is_used_up_closes_the_gate_just_as_a_throttle_does() -> None:
    limiter = told().well(0, closed_ms=2_000, why="RateLimit says so", quota=50.0)
    assert limiter.held_by(DenialReason.GATE, 1.999).reason == "the limiter is closed: RateLimit says so"
    assert limiter.rate(2) == POLICY.decrease * 50


def test_a_quota_that_a_failure_says_is_used_up_closes_the_gate_too() -> None:
    limiter = told().failed(0, closed_ms=2_000, why="RateLimit says so")
    assert limiter.held_by(DenialReason.GATE, 1.999).until == at(2)
    assert limiter.limiter.failures == 1


def test_a_failure_that_asks_for_a_wait_closes_the_gate_and_the_breaker_counts_it_all_the_same() -> None:
    limiter = told(failures_in_a_row=2, break_ms=1_000).failed(0, closed_ms=5_000, why="Retry-After of 5000 ms")
    assert limiter.held_by(DenialReason.GATE, 4.999).reason == "the limiter is closed: Retry-After of 5000 ms"
    assert (limiter.limiter.failures, limiter.limiter.broken_at) == (1, None)
    limiter.failed(0.1, began=-1, closed_ms=2_000)
    assert (limiter.limiter.failures, limiter.limiter.broken_at) == (2, at(0.1))
    limiter.held_by(DenialReason.GATE, 4.999)
    limiter.let_through(5).held_by(DenialReason.BREAKER, 5)


def test_a_failure_that_asks_for_a_wait_says_nothing_against_the_rate_that_was_borne() -> None:
    down = {"closed_ms": 5_000, "why": "Retry-After of 5000 ms"}
    assert known(100).failed(1, **down).limiter.ceiling == 100
    rising = known(100).well(1, 9_000)
    borne = rising.rate(1)
    assert borne is not None
    assert borne > 100
    assert rising.failed(1, **down).limiter.ceiling == borne
    assert rising.failed(2, began=1.5, **down).limiter.ceiling == borne
    assert known(100).failed(1, quota=50.0, **down).limiter.ceiling == 50, "unless the server says what it bears"
    unknown = told(first_rate=10).failed(0, **down)
    assert (unknown.limiter.ceiling, unknown.rate(5)) == (None, 10), "but whatever waits does not come all at once"


# The pace


def test_an_api_that_throttles_for_the_first_time_is_tried_with_a_rate_that_each_answer_raises() -> None:
    limiter = told(first_rate=10, boundless_rate=100).throttled(0, 5)
    assert [limiter.rate(now) for now in (0, 5, 60)] == [10, 10, 10], "what nobody makes use of does not rise"
    assert limiter.well(6, 10).rate(6) == 20, "with a request for each slot it doubles each second"
    assert limiter.well(7, 79).rate(7) == 99
    assert limiter.well(7).rate(7) is None, "what has risen so far is no limit any more"


def test_a_throttle_then_takes_for_too_much_what_went_out_over_the_last_second() -> None:
    rates = [10 * exp(n / 1_000) for n in range(2_001)]  # what rises by 1 with each request rises as fast as it is
    limiter = told(first_rate=10).throttled(0, 0).well(2, round(rates[-1]) - 10).throttled(2, 1)
    assert limiter.limiter.ceiling == pytest.approx(sum(rates[1_000:2_000]) / 1_000, rel=0.01)


def known(ceiling: float, **policy: Any) -> Told:
    """A limiter that was opened at 0 s and knows the rate that was too much."""
    return told(replace(CLEAN, ceiling=ceiling, paced_from=at(0)), **policy)


def test_a_throttle_cuts_the_rate_by_a_factor_and_then_it_rises_by_the_same_step_each_second_that_is_made_use_of() -> (
    None
):
    limiter = known(100, decrease=0.5, increase=0.1, rest_share=1.0, proven_ms=1_000_000)
    assert limiter.rate(0) == 50
    assert limiter.rate(60) == 50, "what nobody makes use of does not rise"
    assert limiter.well(60, 195).rate(60) == pytest.approx(80), (
        "as many as there are in 3 s, in which it rises by 10 a second"
    )
    limiter.throttled(60, 1)
    assert limiter.rate(61) == pytest.approx(40)
    assert limiter.well(62, 44).rate(62) == pytest.approx(48)


def test_answers_to_what_was_asked_before_it_closed_or_that_are_failures_do_not_raise_the_rate() -> None:
    limiter = known(100).throttled(1, 1)
    rate = limiter.rate(2)
    limiter.well(2, 5, began=0.5).well(2, 5, began=1).failed(2, 5)
    assert limiter.rate(2) == rate


def test_the_rise_stops_a_little_below_what_was_too_much_and_then_it_is_tried_faster_and_faster_whether_more_can_be_had() -> (
    None
):
    limiter = known(100, decrease=0.5, increase=0.1, rest_share=0.9, rest_ms=10_000, doubled_s=10)
    assert limiter.well(1, 280).rate(1) == pytest.approx(90)
    assert limiter.well(1, 900).rate(1) == pytest.approx(90), "for as many answers as come in 10 s at 90 a second"
    assert limiter.well(1, 180).rate(1) == pytest.approx(90.72)
    assert limiter.well(1, 270).rate(1) == pytest.approx(101.25)
    assert limiter.well(1, 450).rate(1) == pytest.approx(180)


def test_a_throttle_while_it_is_tried_whether_more_can_be_had_tells_anew_what_is_too_much() -> None:
    limiter = known(100, rest_ms=10_000, doubled_s=10).well(1, 2_000)
    rate = limiter.rate(1)
    assert rate is not None
    assert rate > 100
    assert limiter.throttled(1, 1).limiter.ceiling == rate


def test_a_throttle_at_a_rate_that_was_borne_for_long_lowers_what_counts_for_too_much_by_little() -> None:
    limiter = known(100, proven_ms=3_000, eased=0.99).well(1, 350)
    assert limiter.throttled(1, 1).limiter.ceiling == 99


def test_a_throttle_at_a_rate_that_was_not_borne_for_long_says_that_less_than_it_is_too_much() -> None:
    limiter = known(100, rest_share=0.9, decrease=0.8, proven_ms=3_000).well(1, 50)
    assert limiter.rate(1) == pytest.approx(90)
    assert limiter.throttled(1, 1).limiter.ceiling == pytest.approx(81)


def test_a_limit_that_has_risen_without_bounds_is_forgotten() -> None:
    steep = {"decrease": 0.5, "increase": 1, "rest_share": 0.9, "rest_ms": 0, "doubled_s": 1}
    limiter = known(100, boundless_rate=200, **steep).well(1, 124)
    assert limiter.rate(1) == pytest.approx(199.2, abs=0.1)
    assert not limiter.limiter.is_clean(at(1), limiter.policy)
    assert limiter.well(1).rate(1) is None
    assert limiter.limiter.is_clean(at(1), limiter.policy)
    assert limiter.throttled(2, 0).limiter.ceiling is None, "a throttle then begins anew"


def test_a_limit_is_forgotten_when_there_was_no_throttle_for_long_from_when_it_opened() -> None:
    limiter = told(forgotten_ms=60_000).throttled(0, 30)
    assert limiter.rate(90) is not None
    assert limiter.rate(90.001) is None
    assert limiter.limiter.is_clean(at(90.001), limiter.policy)


def test_who_comes_late_for_its_slot_with_others_is_sent_back_for_another() -> None:
    limiter = known(10, decrease=1.0, rest_share=1.0, at_once=2).let_through(1, SLOTTED, times=3)
    assert limiter.held_by(DenialReason.PACE, 1, SLOTTED).until == at(1.1)
    limiter.let_through(1.1, SLOTTED).held_by(DenialReason.PACE, 1.1, SLOTTED)
    limiter.let_through(2, SLOTTED, times=3).held_by(DenialReason.PACE, 2, SLOTTED)


def test_several_throttles_of_what_was_under_way_together_cut_the_rate_once() -> None:
    limiter = known(100, decrease=0.5, rest_share=1.0).throttled(0, 1, began=-0.5)
    ceiling = limiter.limiter.ceiling
    assert ceiling == 50
    for began in (-0.4, -0.1, 0):
        limiter.throttled(0.2, 2, began=began)
    assert limiter.limiter.ceiling == ceiling
    assert limiter.held_by(DenialReason.GATE, 2.1).until == at(2.2), (
        "but how long the server wants peace is heard each time"
    )
    limiter.throttled(3, 1, began=2.5)
    assert limiter.limiter.ceiling == 25


def test_several_answers_that_tell_of_the_same_drained_quota_cut_the_rate_once() -> None:
    limiter = known(100, decrease=0.5, rest_share=1.0)
    for now in (1, 1.1, 1.2):
        limiter.well(now, began=0.5, closed_ms=1_000)
    assert limiter.rate(3) == pytest.approx(25, rel=0.01)


def test_the_rate_is_cut_once_in_a_while_however_many_throttles_come_in_it() -> None:
    limiter = known(100, decrease=0.5, rest_share=1.0, cut_ms=1_000, min_closed_ms=0).throttled(1, 0)
    assert limiter.limiter.ceiling == 50
    assert limiter.throttled(1.999, 0).limiter.ceiling == 50
    assert limiter.throttled(2, 0).limiter.ceiling == 25


def test_the_rate_never_falls_below_the_least_however_little_the_server_says_it_bears() -> None:
    limiter = told(min_rate=0.1)
    for now in range(50):
        limiter.throttled(now, 0)
    assert limiter.limiter.ceiling == 0.1
    for answer in (told(min_rate=0.1).throttled, told(min_rate=0.1).well):
        drained = answer(0, closed_ms=1_000, quota=1e-15)
        assert drained.limiter.ceiling == 0.1
        assert drained.slots(1) == [at(1)]


def test_slots_are_given_out_one_by_one_each_once_and_only_a_little_ahead() -> None:
    limiter = known(10, decrease=1.0, rest_share=1.0, ahead_ms=200)
    assert limiter.slots(0, 2) == [at(0), at(0.1)]
    assert limiter.slots(0, 2) == [at(0.2)]
    assert limiter.slots(0, 2) == []
    assert limiter.held_by(DenialReason.PACE, 0).until == at(0.3)
    assert limiter.slots(0.15, 5) == [at(0.3)]
    assert limiter.slots(5, 2) == [at(5), at(5.1)], "what was not taken is not saved up"


def test_who_has_no_slot_comes_after_those_who_have_and_does_not_wait_for_one() -> None:
    limiter = known(10, decrease=1.0, rest_share=1.0)
    limiter.let_through(0)
    assert limiter.held_by(DenialReason.PACE, 0.05).until == at(0.1)
    limiter.let_through(0.05, SLOTTED)
    limiter.let_through(0.1)


# The breaker


def test_failures_in_a_row_break_the_circuit_for_a_while() -> None:
    limiter = told(failures_in_a_row=3, break_ms=1_000).failed(0, 2).let_through(0)
    limiter.failed(0)
    for passage in (FIRST, RETRY, SLOTTED):
        held = limiter.held_by(DenialReason.BREAKER, 0.999, passage)
        assert held.until == at(1)
        assert "3 requests in a row failed" in held.reason
    assert limiter.slots(0.999) == []


def test_failures_that_a_success_lies_between_break_nothing() -> None:
    limiter = told(failures_in_a_row=3)
    for now in range(10):
        limiter.failed(now, 2).well(now)
    limiter.let_through(10)
    assert limiter.limiter == CLEAN


def test_throttles_never_break_the_circuit_and_one_between_failures_ends_their_row() -> None:
    limiter = told(failures_in_a_row=3)
    for now in range(10):
        limiter.throttled(now, 0)
    limiter.failed(20, 2).throttled(21, 0).failed(22, 2)
    assert limiter.limiter.broken_at is None


def test_after_the_rest_one_request_at_a_time_probes() -> None:
    limiter = told(probe_ms=5_000).broken().let_through(1)
    assert "one probes now" in limiter.held_by(DenialReason.BREAKER, 1).reason


def test_who_comes_while_one_probes_is_not_put_off_for_as_long_as_a_lost_probe_is_waited_for() -> None:
    limiter = told(probe_ms=5_000).broken().let_through(1)
    assert limiter.held_by(DenialReason.BREAKER, 1.5).until == at(2.5)
    assert limiter.held_by(DenialReason.BREAKER, 5.5).until == at(6)


def test_a_probe_can_be_a_slot_that_is_taken_at_a_claim_and_used_later() -> None:
    limiter = told(probe_ms=5_000).broken()
    assert limiter.slots(1) == [at(1)]
    assert limiter.slots(1) == []
    limiter.held_by(DenialReason.BREAKER, 1.2)
    limiter.let_through(1.2, SLOTTED)
    limiter.held_by(DenialReason.BREAKER, 1.3)


def test_whoever_claims_and_then_sends_nothing_keeps_the_probe_from_others_for_a_moment_only() -> None:
    limiter = told(probe_ms=30_000).broken()
    assert limiter.slots(1) == [at(1)]
    limiter.held_by(DenialReason.BREAKER, 1.999)
    assert limiter.slots(2) == [at(2)]
    limiter.let_through(3)


def test_a_slot_becomes_a_probe_that_is_waited_for_only_when_its_request_is_let_through() -> None:
    limiter = told(probe_ms=5_000).broken()
    assert limiter.slots(1) == [at(1)]
    limiter.let_through(1.9, SLOTTED).held_by(DenialReason.BREAKER, 6.8)
    limiter.let_through(6.9)


def test_of_two_slots_for_one_probe_that_are_both_used_only_the_first_passes() -> None:
    limiter = told(probe_ms=5_000).broken()
    assert [*limiter.slots(1), *limiter.slots(2)] == [at(1), at(2)]
    limiter.let_through(2.1, SLOTTED).held_by(DenialReason.BREAKER, 2.2, SLOTTED)
    limiter.held_by(DenialReason.BREAKER, 7, SLOTTED)


def test_whoever_wanted_no_more_than_the_probe_is_not_told_that_anything_is_held_back() -> None:
    _, taken, held = slots(told().broken().limiter, 1, at(1), POLICY)
    assert (taken, held) == ([at(1)], None)


def test_a_probe_that_is_lost_makes_room_for_another_after_a_while() -> None:
    limiter = told(probe_ms=5_000).broken().let_through(1)
    limiter.held_by(DenialReason.BREAKER, 5.999)
    limiter.let_through(6)
    limiter.held_by(DenialReason.BREAKER, 6)


def test_a_slot_from_before_the_break_is_no_second_probe() -> None:
    limiter = told(break_ms=1_000, probe_ms=5_000).broken().let_through(1.5, SLOTTED)
    limiter.held_by(DenialReason.BREAKER, 1.5)


def test_a_probe_that_fails_doubles_the_rest_up_to_the_longest() -> None:
    limiter = told(break_ms=1_000, max_break_ms=5_000).broken()
    rests, now = [], 1.0
    for _ in range(5):
        limiter.let_through(now).failed(now)
        until = limiter.held_by(DenialReason.BREAKER, now).until
        rests.append((until - at(now)).total_seconds())
        now += rests[-1]
    assert rests == [2, 4, 5, 5, 5]


def test_a_probe_that_goes_well_closes_the_circuit_and_the_next_break_is_short_again() -> None:
    limiter = told(break_ms=1_000).broken().let_through(1).failed(1).let_through(3).well(3)
    assert limiter.limiter == CLEAN
    assert limiter.broken(4).held_by(DenialReason.BREAKER, 4).until == at(5)


@pytest.mark.parametrize("answer", ["well", "throttled"])
def test_any_answer_but_a_failure_closes_the_circuit(answer: str) -> None:
    limiter = told().broken().let_through(1)
    getattr(limiter, answer)(2)
    assert (limiter.limiter.failures, limiter.limiter.breaks, limiter.limiter.broken_at) == (0, 0, None)


def test_failures_of_before_the_break_that_come_late_are_ignored() -> None:
    limiter = told(break_ms=1_000).broken()
    before = limiter.limiter
    limiter.failed(0.5, 5, began=-1).failed(0.9, began=0)
    assert limiter.limiter == before
    limiter.let_through(1).failed(1.5, began=-1)
    assert "one probes now" in limiter.held_by(DenialReason.BREAKER, 1.5).reason, "nor do they pass for the probe"


@pytest.mark.parametrize("answer", ["well", "throttled"])
def test_an_answer_to_what_was_asked_before_the_break_does_not_close_the_circuit(answer: str) -> None:
    limiter = told(failures_in_a_row=3, break_ms=1_000, probe_ms=5_000, min_closed_ms=0).broken()
    getattr(limiter, answer)(0.5, began=-1)
    assert limiter.held_by(DenialReason.BREAKER, 0.999).until == at(1)
    limiter.let_through(1)
    getattr(limiter, answer)(1.5, began=0)
    assert "one probes now" in limiter.held_by(DenialReason.BREAKER, 1.5).reason


def test_a_probe_that_is_let_through_and_then_not_made_is_given_back() -> None:
    limiter = told(probe_ms=5_000).broken().let_through(1).not_sent(1.5, began=1)
    limiter.let_through(1.5)
    limiter.not_sent(1.6, began=1).held_by(DenialReason.BREAKER, 1.6)


def test_a_circuit_that_is_broken_very_often_can_still_be_broken_again() -> None:
    limiter = told(replace(CLEAN, breaks=100_000, broken_at=at(0), failures=100_000)).failed(1)
    assert limiter.held_by(DenialReason.BREAKER, 1).until == at(31)


# The budget


def test_so_many_retries_are_let_through_and_then_only_what_is_regained() -> None:
    limiter = told(retries_kept=3, retries_per_second=0.5).let_through(0, RETRY, times=3)
    held = limiter.held_by(DenialReason.BUDGET, 0, RETRY)
    assert held.until == at(2)
    limiter.held_by(DenialReason.BUDGET, 1.9, RETRY)
    limiter.let_through(2, RETRY).held_by(DenialReason.BUDGET, 2, RETRY)


def test_first_attempts_are_always_let_through_and_each_earns_a_share_of_a_retry() -> None:
    limiter = told(retries_kept=1, retries_per_request=0.2, retries_per_second=0.001).let_through(0, RETRY)
    for _ in range(3):
        limiter.let_through(0, times=4).held_by(DenialReason.BUDGET, 0, RETRY)
        limiter.let_through(0).let_through(0, RETRY)


def test_no_more_is_saved_up_than_is_kept() -> None:
    limiter = told(retries_kept=2, retries_per_second=1_000).let_through(0, RETRY).let_through(1_000, times=50)
    limiter.let_through(1_000, RETRY, times=2).held_by(DenialReason.BUDGET, 1_000, RETRY)


def test_a_retry_that_the_budget_holds_back_takes_nobodys_slot() -> None:
    paced = replace(CLEAN, ceiling=10, paced_from=at(0), retries=0.0, retries_at=at(0))
    limiter = told(paced, retries_per_second=0.001)
    limiter.held_by(DenialReason.BUDGET, 0, RETRY)
    limiter.let_through(0)


@pytest.mark.parametrize("slotted", [False, True])
def test_a_probe_is_not_held_back_by_the_budget(slotted: bool) -> None:
    limiter = told(replace(CLEAN, retries=0.0, retries_at=at(0)), retries_per_second=0.001).broken()
    if slotted:
        assert limiter.slots(1) == [at(1)]
    limiter.let_through(1, replace(RETRY, slotted=slotted))


# Clean again


def test_a_gate_is_clean_once_nothing_is_known_against_its_api_any_more() -> None:
    assert not told().throttled(0, 1).limiter.is_clean(at(0.5), POLICY)
    assert not told().throttled(0, 1).limiter.is_clean(at(5), POLICY)
    assert told().throttled(0, 1).limiter.is_clean(at(902), POLICY)
    assert not told().failed(0).limiter.is_clean(at(10_000), POLICY)
    assert told().failed(0).well(1).limiter.is_clean(at(1), POLICY)
    assert not told().broken().limiter.is_clean(at(10_000), POLICY)
    assert not told().let_through(0, RETRY).limiter.is_clean(at(0.1), POLICY)
    assert told().let_through(0, RETRY).limiter.is_clean(at(0.2), POLICY)


# Several at once, in one transaction


def a_book(
    limiter: LimiterState | None = None, now: float = 0, in_flight: int = 0, **policy: Any
) -> LimiterTransaction:
    return LimiterTransaction({} if limiter is None else {NAME: limiter}, at(now), LimiterPolicy(**policy), in_flight)


def test_no_more_calls_are_let_through_than_there_are_places() -> None:
    book = a_book(in_flight=3, calls=5)
    assert [book.admit(FIRST) for _ in range(2)] == [None, None]
    held = book.admit(FIRST)
    assert held is not None
    assert held.by is DenialReason.CALLS
    assert "5 calls are in flight" in held.reason
    assert book.admit(SLOTTED) is None, "who has a slot has a place"


def test_no_more_slots_are_given_out_than_there_are_places() -> None:
    book = a_book(in_flight=3, calls=5)
    free, held = book.room(NAME, 10)
    assert len(free) == 2
    assert held is not None
    assert held.by is DenialReason.CALLS
    assert book.take(NAME, 1) == [at(0)]
    assert len(book.room(NAME, 10)[0]) == 1
    assert book.room(NAME, 1)[1] is None


def test_who_finds_every_place_taken_leaves_the_gate_as_it_was() -> None:
    book = a_book(replace(CLEAN, ceiling=10, paced_from=at(0), retries=5.0, retries_at=at(0)), in_flight=1, calls=1)
    assert book.admit(RETRY) is not None
    assert book.kept() == {}


def test_what_holds_all_back_is_told_before_the_places() -> None:
    free, held = a_book(told().throttled(0, 5).limiter, in_flight=1, calls=1).room(NAME, 5)
    assert free == []
    assert held is not None
    assert held.by is DenialReason.GATE


def test_who_comes_after_a_throttle_in_the_same_transaction_is_held_back() -> None:
    book = a_book()
    assert book.admit(FIRST) is None
    book.observe(telling(Observation.THROTTLED, -1, closed_ms=1_000))
    held = book.admit(FIRST)
    assert held is not None
    assert held.by is DenialReason.GATE
    assert set(book.kept()) == {NAME}


def test_only_what_has_changed_is_written_and_what_has_become_clean_by_itself_is_dropped() -> None:
    closed = told().throttled(0, 1).limiter
    assert (a_book(closed, 0.5).kept(), a_book(closed, 0.5).dropped()) == ({}, [])
    assert (a_book(closed, 902).kept(), a_book(closed, 902).dropped()) == ({}, [NAME])
    new = a_book()
    new.observe(telling(Observation.SUCCESS, 0))
    assert (new.kept(), new.dropped()) == ({}, [])


# What answers tell


DRAINED = ExhaustedQuota(ms=7_000, per_second=50.0, why="nothing left")


@pytest.mark.parametrize("kind", list(e.FailureKind))
def test_a_failure_counts_against_the_api_unless_it_has_judged_the_request(kind: e.FailureKind) -> None:
    expected = Observation.SUCCESS if kind.is_final else Observation.FAILED
    assert heard(NAME, failed(kind, 400), at(1)) == telling(expected, 1)


def test_what_is_rejected_before_anything_is_asked_is_no_answer_of_the_api() -> None:
    assert heard(NAME, failed(e.FailureKind.REJECTED, None), at(1)) == telling(Observation.NOT_SENT, 1)
    limiter = told(failures_in_a_row=3).failed(0, 2)
    before = limiter.limiter
    assert limiter.not_sent(1).limiter == before
    paced = known(100)
    before = paced.limiter
    assert paced.not_sent(1).limiter == before


@pytest.mark.parametrize("outcome", [created(), channel(), failed(), failed(e.FailureKind.REJECTED)])
def test_whatever_the_answer_a_drained_quota_is_heard(outcome: Any) -> None:
    hearing = heard(NAME, replace(outcome, drained=DRAINED), at(1))
    assert (hearing.closed_ms, hearing.quota, hearing.why) == (7_000, 50.0, "nothing left")
    assert heard(NAME, outcome, at(1)).closed_ms is None


@pytest.mark.parametrize("outcome", [throttled, partial(failed, e.FailureKind.UNAVAILABLE, 503)])
@pytest.mark.parametrize(("asked_ms", "closed_ms"), [(2_000, 7_000), (9_000, 9_000)])
def test_of_retry_after_and_a_drained_quota_the_longer_counts(outcome: Any, asked_ms: int, closed_ms: int) -> None:
    hearing = heard(NAME, replace(outcome(retry_after_ms=asked_ms), drained=DRAINED), at(1))
    assert hearing.answered is (Observation.THROTTLED if outcome is throttled else Observation.FAILED)
    assert (hearing.closed_ms, hearing.quota) == (closed_ms, 50.0)
    assert hearing.why == ("nothing left" if closed_ms == 7_000 else "Retry-After of 9 s")


def test_a_failure_that_asks_for_a_wait_is_heard_as_both_and_one_that_asks_for_none_closes_nothing() -> None:
    down = partial(failed, e.FailureKind.IN_DOUBT, 503)
    hearing = heard(NAME, down(9_000), at(1))
    assert hearing == telling(Observation.FAILED, 1, closed_ms=9_000, why="Retry-After of 9 s")
    assert heard(NAME, down(0), at(1)).closed_ms is None


def of_webhook(outcome: Delivered, max_ms: int = 60_000) -> Feedback | None:
    return heard_of_webhook("hooks", outcome, at(1), max_ms)


def test_of_the_webhook_only_a_notice_taken_and_a_wish_for_peace_are_heard() -> None:
    assert of_webhook(delivered(204)) == replace(telling(Observation.SUCCESS, 1), limiter="hooks")
    assert of_webhook(delivered(500)) is None
    assert of_webhook(delivered(None)) is None
    hearing = of_webhook(delivered(429, 3_000))
    assert hearing is not None
    assert (hearing.answered, hearing.closed_ms) == (Observation.THROTTLED, 3_000)


@pytest.mark.parametrize("status", [429, 503])
def test_a_receiver_closes_its_gate_for_as_long_as_a_notice_is_kept_and_by_asking_for_more_it_closes_none(
    status: int,
) -> None:
    longest = of_webhook(delivered(status, 7_000), max_ms=7_000)
    assert longest is not None
    assert longest.closed_ms == 7_000
    assert of_webhook(delivered(status, 7_001), max_ms=7_000) is None


def test_ten_years_can_be_closed_for() -> None:
    ten_years = timedelta(days=3_650)
    limiter = told().throttled(0, ten_years.total_seconds())
    assert limiter.held_by(DenialReason.GATE, 0).until == at(0) + ten_years


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: 0} for name in ("first_rate", "boundless_rate", "min_rate", "decrease", "increase", "rest_share")),
        *({name: 1e-18} for name in ("eased", "doubled_s", "retries_per_second")),
        *({name: -1} for name in ("ahead_ms", "spare_slots", "at_once", "together_ms", "retries_per_request")),
        *({name: -1} for name in ("min_closed_ms", "cut_ms", "rest_ms", "proven_ms", "forgotten_ms")),
        *({name: -1} for name in ("break_ms", "max_break_ms", "probe_ms")),
        *({name: 0.999} for name in ("retries_kept", "failures_in_a_row", "calls_per_process", "calls")),
        *({name: wrong} for name in ("decrease", "first_rate") for wrong in (float("nan"), float("inf"))),
        {"break_ms": 10**18},
    ],
    ids=str,
)
def test_a_policy_by_which_nothing_would_ever_pass_is_refused_by_name(wrong: dict[str, Any]) -> None:
    [name] = wrong
    with pytest.raises(ValueError, match=rf"LimiterPolicy\.{name} must be"):
        LimiterPolicy(**wrong)


def test_each_number_of_a_policy_has_a_least_one() -> None:
    given = [name for names in passing._AT_LEAST.values() for name in names]
    assert sorted(given) == sorted(LimiterPolicy.__struct_fields__)
