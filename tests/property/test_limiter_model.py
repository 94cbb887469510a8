"""The limiter against its promises: requests, reservations, answers and time in any order."""

from datetime import UTC, datetime, timedelta
from itertools import accumulate
from math import ceil, inf, nextafter
from typing import NamedTuple

import hypothesis.strategies as st
import msgspec
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import SearchStrategy

from guestledger.engine.domain.outcomes import Throttled, feedback_of
from guestledger.engine.limits.admission import AdmissionRequest, DenialReason
from guestledger.engine.limits.feedback import Feedback, Observation, ThrottleScope
from guestledger.engine.limits.limiter import (
    _AHEAD_S,
    _BURST,
    _BURST_S,
    _EARLY_S,
    _SPARE,
    admit,
    observe,
    reserve,
    sending_wait,
)
from guestledger.engine.limits.pace import MAX_RATE, Pace
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import MAX_RETRY_AFTER_MS, QUOTA_BASES, RetryAfter, WaitBasis
from guestledger.engine.limits.state import LimiterState

NAME = "api.example.com sessions"
GRAIN = timedelta(microseconds=1)
"""The precision of times."""


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def a_request(*, retry: bool, reserved: bool = False) -> AdmissionRequest:
    return AdmissionRequest(limiter=NAME, retry=retry, reserved=reserved)


starts = st.sampled_from(
    [datetime(1, 1, 3, tzinfo=UTC), datetime(2024, 5, 20, tzinfo=UTC), datetime(9900, 1, 1, tzinfo=UTC)]
)
# No pause of an open circuit is shorter than the time within which a reservation is used.
policies: SearchStrategy[LimiterPolicy] = st.builds(
    LimiterPolicy,
    initial_rate=st.floats(0.01, 10_000),
    max_pause_ms=st.integers(1, 10**9),
    min_closed_ms=st.integers(0, 2_000),
    failures_in_a_row=st.integers(1, 4),
    break_ms=st.integers(501, 2_000),
    max_break_ms=st.integers(2_000, 60_000),
    probe_ms=st.integers(1, 60_000),
    retry_budget=st.floats(1, 5),
    retries_per_second=st.floats(0.001, 100),
)
spans = st.floats(0, 0.4) | st.floats(0, 5) | st.floats(0, 100_000)
waits = st.none() | st.integers(0, 5_000) | st.integers(0, MAX_RETRY_AFTER_MS)
quotas = st.none() | st.floats(1e-18, 1e15)


class Reservation(NamedTuple):
    at: datetime
    made_at: datetime


class LimiterModel(RuleBasedStateMachine):
    @initialize(start=starts, policy=policies)
    def begin(self, start: datetime, policy: LimiterPolicy) -> None:
        self.limiter, self.policy, self.now = LimiterState(), policy, start
        self.closed_until = start
        """The latest time that any answer has asked for, for all."""
        self.perhaps_until = start
        """As above, with the throttles of the scope `auto`: they close for all unless they come by chance."""
        self.probed_at: datetime | None = None
        self.probe_reserved_at: datetime | None = None
        self.last_time: datetime | None = None
        self.reservations: list[Reservation] = []
        self.in_flight: list[datetime] = []

    @rule(span=spans)
    def time_passes(self, span: float) -> None:
        self.now += seconds(span)
        used_until = self.now - seconds(_AHEAD_S)
        self.reservations = [one for one in self.reservations if one.made_at >= used_until]

    @rule(limit=st.integers(0, 20))
    def a_worker_claims(self, limit: int) -> None:
        probes, rate = self.limiter.broken_at is not None, self.limiter.rate(self.now)
        self.limiter, times, denied = reserve(self.limiter, limit, self.now)
        assert len(times) <= limit
        assert times == sorted(times)
        if len(times) < limit:
            assert denied is not None
            assert denied.until >= self.now
        for time in times:
            assert self.now <= time <= self.now + seconds(_AHEAD_S) + GRAIN
            if probes:
                self.check_probe_reservation()
            self.check_open()
            self.check_rate(time, None if probes else rate)
            self.reservations.append(Reservation(time, self.now))

    @rule(retry=st.booleans())
    def a_request_asks(self, retry: bool) -> None:
        before, probes = self.limiter, self.limiter.broken_at is not None
        rate = before.rate(self.now)
        self.limiter, denied = admit(self.limiter, a_request(retry=retry), self.now, self.policy)
        if denied is not None:
            assert denied.until >= self.now
            assert self.limiter == before
            assert retry or denied.by is not DenialReason.RETRY_BUDGET
            return
        self.check_admission(probes=probes)
        self.check_rate(self.now, None if probes else rate)
        self.in_flight.append(self.now)

    @precondition(lambda self: self.reservations)
    @rule(which=st.integers(0, 100), retry=st.booleans())
    def a_reservation_is_used(self, which: int, retry: bool) -> None:
        reservation = self.reservations.pop(which % len(self.reservations))
        before, self.now = self.limiter, max(self.now, reservation.at)
        self.limiter, denied = admit(self.limiter, a_request(retry=retry, reserved=True), self.now, self.policy)
        if denied is not None:
            assert self.limiter == before
            return
        self.check_open()
        if self.limiter.broken_at is not None:
            self.check_admission(probes=True)
        self.in_flight.append(self.now)

    @precondition(lambda self: self.in_flight)
    @rule(
        which=st.integers(0, 100),
        observation=st.sampled_from(Observation),
        closed_ms=waits,
        closed_by=st.sampled_from([WaitBasis.RETRY_AFTER, WaitBasis.QUOTA]),
        quota=quotas,
    )
    def an_answer_comes(
        self, which: int, observation: Observation, closed_ms: int | None, closed_by: WaitBasis, quota: float | None
    ) -> None:
        began_at = self.in_flight.pop(which % len(self.in_flight))
        self.observe(
            Feedback(
                limiter=NAME,
                observation=observation,
                began_at=began_at,
                closed_ms=closed_ms,
                closed_by=closed_by,
                quota=quota,
            )
        )

    @precondition(lambda self: self.in_flight)
    @rule(
        which=st.integers(0, 100),
        closed_ms=waits,
        closed_by=st.sampled_from([WaitBasis.RETRY_AFTER, WaitBasis.QUOTA]),
        pause_ms=st.sampled_from([None, 5_000]),
        others=st.sampled_from([0, 5, 8, 20]),
    )
    def a_throttle_comes_perhaps_by_chance(
        self, which: int, closed_ms: int | None, closed_by: WaitBasis, pause_ms: int | None, others: int
    ) -> None:
        """With the scope `auto`; `others`, sent with it, are answered after it, and after a failure that closes for all."""
        began_at = self.in_flight.pop(which % len(self.in_flight))
        throttle = Feedback(
            limiter=NAME,
            observation=Observation.THROTTLED,
            began_at=began_at,
            closed_ms=closed_ms,
            closed_by=closed_by,
            scope=ThrottleScope.AUTO,
        )
        self.observe(throttle)
        if pause_ms is not None:
            failed = Observation.FAILED
            self.observe(Feedback(limiter=NAME, observation=failed, began_at=began_at, closed_ms=pause_ms))
        for _ in range(others):
            self.observe(Feedback(limiter=NAME, observation=Observation.SUCCESS, began_at=began_at))

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 100), ms=st.integers(0, MAX_RETRY_AFTER_MS))
    def a_throttle_speaks_of_one_request(self, which: int, ms: int) -> None:
        began_at = self.in_flight.pop(which % len(self.in_flight))
        asked = RetryAfter(given=None, ms=ms, basis=WaitBasis.RETRY_AFTER)
        feedback = feedback_of(NAME, Throttled(status=429, retry_after=asked, scope=ThrottleScope.REQUEST), began_at)
        assert feedback.closed_ms is None
        self.observe(feedback)

    def observe(self, feedback: Feedback) -> None:
        broken_at, breaks = self.limiter.broken_at, self.limiter.breaks
        self.limiter = observe(self.limiter, feedback, self.now, self.policy)
        if broken_at is not None and feedback.began_at <= broken_at:
            assert (self.limiter.broken_at, self.limiter.breaks) == (broken_at, breaks)
        elif feedback.observation in (Observation.SUCCESS, Observation.THROTTLED):
            assert self.limiter.broken_at is None
        if feedback.observation is Observation.NOT_SENT and feedback.began_at == self.probed_at:
            self.probed_at = None
        closed_ms = feedback.closed_ms
        if feedback.observation is Observation.THROTTLED:
            closed_ms = max(closed_ms or 0, self.policy.min_closed_ms)
        if closed_ms is not None:
            self.check_pause(feedback, self.now + timedelta(milliseconds=min(closed_ms, self.policy.max_pause_ms)))
        if self.limiter.broken_at != broken_at:
            self.probed_at = self.probe_reserved_at = None

    def check_pause(self, feedback: Feedback, until: datetime) -> None:
        self.last_time = None
        self.perhaps_until = max(self.perhaps_until, until)
        if feedback.scope is not ThrottleScope.AUTO or feedback.closed_by in QUOTA_BASES:
            self.closed_until = max(self.closed_until, until)
        elif self.limiter.pace is None or not self.limiter.pace.by_chance:
            assert self.limiter.closed_until is not None
            assert self.limiter.closed_until >= until

    def check_probe_reservation(self) -> None:
        """A claim reserves the probe for a moment, and only while no probe is in flight."""
        assert self.limiter.broken_at is not None
        assert self.probed_at is None or self.now >= self.probed_at + timedelta(milliseconds=self.policy.probe_ms)
        assert self.probe_reserved_at is None or self.now >= self.probe_reserved_at + seconds(1)
        self.probe_reserved_at = self.now

    def check_open(self) -> None:
        assert self.now >= self.closed_until
        assert self.limiter.closed_until is None or self.now >= self.limiter.closed_until

    def check_admission(self, *, probes: bool) -> None:
        self.check_open()
        if not probes:
            return
        assert self.limiter.broken_until is None or self.now >= self.limiter.broken_until
        assert self.probed_at is None or self.now >= self.probed_at + timedelta(milliseconds=self.policy.probe_ms)
        self.probed_at, self.probe_reserved_at = self.now, None

    def check_rate(self, time: datetime, rate: float | None) -> None:
        if rate is not None and self.last_time is not None:
            assert time - self.last_time >= seconds(1 / (rate * (1 + _SPARE))) - GRAIN
        self.last_time = time if rate is not None else None

    @invariant()
    def it_is_closed_for_exactly_as_long_as_was_asked(self) -> None:
        """Not for longer, nor shorter, unless throttles may have come by chance."""
        denied = self.limiter.denial(self.now)
        if denied is not None and denied.by is DenialReason.CLOSED:
            assert self.closed_until <= denied.until <= self.perhaps_until
        else:
            assert self.now >= self.closed_until

    @invariant()
    def its_numbers_can_be_stored(self) -> None:
        rate = self.limiter.rate(self.now)
        assert rate is None or rate > 0
        if (pace := self.limiter.pace) is not None:
            most = max(MAX_RATE, self.policy.initial_rate)
            assert pace.floor <= pace.rate <= nextafter(most, inf), "the first rate is computed from the floor"
            numbers = (
                pace.pause_s,
                pace.hold,
                pace.expected,
                pace.throttles,
                *(n for point in pace.curve for n in msgspec.structs.astuple(point)),
            )
            assert all(0 <= number < inf for number in numbers)
            assert msgspec.json.decode(msgspec.json.encode(pace), type=Pace) == pace
        assert 0 <= self.limiter.retries_left(self.now, self.policy) <= self.policy.retry_budget

    def teardown(self) -> None:
        """After long enough without trouble, nothing is known against the API."""
        if not hasattr(self, "limiter"):
            return
        ends = (self.limiter.closed_until, self.limiter.broken_until, self.limiter.probe_until, self.now)
        now = max(end for end in ends if end is not None)
        limiter, denied = admit(self.limiter, a_request(retry=False), now + seconds(1_000), self.policy)
        assert denied is None
        success = Feedback(limiter=NAME, observation=Observation.SUCCESS, began_at=now + seconds(1_000))
        limiter = observe(limiter, success, now + seconds(1_001), self.policy)
        assert limiter.is_clean(now + seconds(2_000_000), self.policy)


TestLimiterModel = LimiterModel.TestCase


@given(
    rate=st.floats(0.1, 500),
    moves=st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 50), st.booleans()), min_size=5, max_size=40),
)
def test_a_constant_rate_is_not_exceeded_in_any_second(rate: float, moves: list[tuple[float, int, bool]]) -> None:
    policy = LimiterPolicy()
    now = datetime(2024, 5, 20, tzinfo=UTC)
    limiter = LimiterState(closed_until=now, pace=Pace(rate=rate, floor=0.01, learned_at=now))
    admitted: list[datetime] = []
    for span, limit, claims in moves:
        now += seconds(span)
        if claims:
            limiter, times, _ = reserve(limiter, limit, now)
            admitted += times
        else:
            limiter, denied = admit(limiter, a_request(retry=False), now, policy)
            admitted += [] if denied else [now]
    for first in admitted:
        reserved = ceil(rate * (1 + _SPARE)) + 1
        assert sum(first <= time < first + seconds(1) - GRAIN for time in admitted) <= reserved


@given(
    rate=st.floats(0.1, 500),
    batches=st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 50)), min_size=2, max_size=30),
)
def test_early_requests_leave_at_the_rate_however_they_ask(rate: float, batches: list[tuple[float, int]]) -> None:
    policy, now = LimiterPolicy(), datetime(2024, 5, 20, tzinfo=UTC)
    limiter = LimiterState(closed_until=now, pace=Pace(rate=rate, floor=0.01, learned_at=now))
    leaving: list[datetime] = []
    for span, number in batches:
        now += seconds(span)
        for _ in range(number):
            wait = sending_wait(limiter, now)
            request = AdmissionRequest(limiter=NAME, retry=False, reserved=True, early=True)
            limiter, denied = admit(limiter, request, now, policy)
            if denied is None:
                assert wait <= seconds(_EARLY_S) + GRAIN
                leaving.append(now + wait)
    # How far each is behind an even pace: by no less than any before it, but for the burst.
    behind = [moment - leaving[0] - seconds(number / rate) for number, moment in enumerate(leaving)]
    burst = seconds(max(_BURST / rate, _BURST_S)) + GRAIN * len(leaving)
    for least, one in zip(accumulate(behind, max), behind, strict=True):
        assert one >= least - burst
