"""The limiter, as a model: requests, slots, answers and time, in any order. What it promises is held against what was let through."""

from datetime import UTC, datetime, timedelta
from math import ceil, inf
from typing import NamedTuple

import hypothesis.strategies as st
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import SearchStrategy

from guestledger.engine.limits.admission import AdmissionRequest, DenialReason
from guestledger.engine.limits.feedback import Feedback, Observation
from guestledger.engine.limits.limiter import LimiterState, admit, observe, slots
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import MAX_RETRY_AFTER_MS

NAME = "api.example.com sessions"
GRAIN = timedelta(microseconds=1)
"""No time is finer."""


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def passage(*, retry: bool, slotted: bool = False) -> AdmissionRequest:
    return AdmissionRequest(limiter=NAME, retry=retry, slotted=slotted)


starts = st.sampled_from(
    [datetime(1, 1, 3, tzinfo=UTC), datetime(2024, 5, 20, tzinfo=UTC), datetime(9900, 1, 1, tzinfo=UTC)]
)
# Slots are used at once or not at all, and no break is as short as that.
policies: SearchStrategy[LimiterPolicy] = st.builds(
    LimiterPolicy,
    first_rate=st.floats(0.01, 10_000),
    min_rate=st.floats(0.01, 10),
    min_closed_ms=st.integers(0, 2_000),
    cut_ms=st.integers(0, 2_000),
    decrease=st.floats(0.1, 1),
    increase=st.floats(0.001, 1),
    rest_share=st.floats(0.1, 1),
    rest_ms=st.integers(0, 100_000),
    ahead_ms=st.integers(0, 500),
    at_once=st.integers(0, 5),
    forgotten_ms=st.integers(1, 10**9),
    failures_in_a_row=st.integers(1, 4),
    break_ms=st.integers(501, 2_000),
    max_break_ms=st.integers(2_000, 60_000),
    probe_ms=st.integers(1, 60_000),
    retries_kept=st.floats(1, 5),
    retries_per_second=st.floats(0.001, 100),
)
passing = st.floats(0, 0.4) | st.floats(0, 5) | st.floats(0, 100_000)
waits = st.none() | st.integers(0, 5_000) | st.integers(0, MAX_RETRY_AFTER_MS)
quotas = st.none() | st.floats(1e-18, 1e15)


class Slot(NamedTuple):
    at: datetime
    taken_at: datetime


class GateModel(RuleBasedStateMachine):
    @initialize(start=starts, policy=policies)
    def begin(self, start: datetime, policy: LimiterPolicy) -> None:
        self.limiter, self.policy, self.now = LimiterState(), policy, start
        self.closed_until = start
        """The latest time that any answer has asked for."""
        self.probed_at: datetime | None = None
        self.reserved_at: datetime | None = None
        self.last_slot: datetime | None = None
        self.slots: list[Slot] = []
        self.under_way: list[datetime] = []

    @rule(span=passing)
    def time_passes(self, span: float) -> None:
        self.now += seconds(span)
        good_until = self.now - seconds(self.policy.ahead_ms / 1_000)
        self.slots = [slot for slot in self.slots if slot.taken_at >= good_until]

    @rule(most=st.integers(0, 20))
    def somebody_claims(self, most: int) -> None:
        probes, rate = self.limiter.broken_at is not None, self.limiter.rate(self.now, self.policy)
        self.limiter, taken, held = slots(self.limiter, most, self.now, self.policy)
        assert len(taken) <= most
        assert taken == sorted(taken)
        if len(taken) < most:
            assert held is not None
            assert held.until >= self.now
        for slot in taken:
            assert self.now <= slot <= self.now + seconds(self.policy.ahead_ms / 1_000) + GRAIN
            if probes:
                self.reserve()
            assert self.now >= self.closed_until
            self.keeps_the_pace(slot, None if probes else rate)
            self.slots.append(Slot(slot, self.now))

    @rule(retry=st.booleans())
    def somebody_asks(self, retry: bool) -> None:
        before, probes, rate = (
            self.limiter,
            self.limiter.broken_at is not None,
            self.limiter.rate(self.now, self.policy),
        )
        self.limiter, held = admit(self.limiter, passage(retry=retry), self.now, self.policy)
        if held is not None:
            assert held.until >= self.now
            assert self.limiter == before
            assert retry or held.by is not DenialReason.BUDGET
            return
        self.let_through(probes=probes)
        self.keeps_the_pace(self.now, None if probes else rate)
        self.under_way.append(self.now)

    @precondition(lambda self: self.slots)
    @rule(which=st.integers(0, 100), retry=st.booleans())
    def a_slot_is_used(self, which: int, retry: bool) -> None:
        slot = self.slots.pop(which % len(self.slots))
        before, self.now = self.limiter, max(self.now, slot.at)
        self.limiter, held = admit(self.limiter, passage(retry=retry, slotted=True), self.now, self.policy)
        if held is not None:
            assert self.limiter == before
            return
        assert self.now >= self.closed_until
        if self.limiter.broken_at is not None:
            self.let_through(probes=True)
        self.under_way.append(self.now)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 100), answered=st.sampled_from(Observation), closed_ms=waits, quota=quotas)
    def an_answer_comes(self, which: int, answered: Observation, closed_ms: int | None, quota: float | None) -> None:
        began_at = self.under_way.pop(which % len(self.under_way))
        if answered is Observation.THROTTLED:
            closed_ms = max(closed_ms or 0, self.policy.min_closed_ms)
        broken_at, breaks = self.limiter.broken_at, self.limiter.breaks
        hearing = Feedback(limiter=NAME, answered=answered, began_at=began_at, closed_ms=closed_ms, why="", quota=quota)
        self.limiter = observe(self.limiter, hearing, self.now, self.policy)
        if broken_at is not None and began_at <= broken_at:
            assert (self.limiter.broken_at, self.limiter.breaks) == (broken_at, breaks)
        elif answered in (Observation.SUCCESS, Observation.THROTTLED):
            assert self.limiter.broken_at is None
        if answered is Observation.NOT_SENT and began_at == self.probed_at:
            self.probed_at = None
        if closed_ms is not None:
            self.closed_until = max(self.closed_until, self.now + timedelta(milliseconds=closed_ms))
            self.last_slot = None
        if self.limiter.broken_at != broken_at:
            self.probed_at = self.reserved_at = None

    def reserve(self) -> None:
        """One who claims has the right to probe, for a moment, and nobody has it while a probe is under way."""
        assert self.limiter.broken_at is not None
        assert self.probed_at is None or self.now >= self.probed_at + timedelta(milliseconds=self.policy.probe_ms)
        assert self.reserved_at is None or self.now >= self.reserved_at + seconds(1)
        self.reserved_at = self.now

    def let_through(self, *, probes: bool) -> None:
        assert self.now >= self.closed_until
        if not probes:
            return
        assert self.limiter.broken_until is None or self.now >= self.limiter.broken_until
        assert self.probed_at is None or self.now >= self.probed_at + timedelta(milliseconds=self.policy.probe_ms)
        self.probed_at, self.reserved_at = self.now, None

    def keeps_the_pace(self, slot: datetime, rate: float | None) -> None:
        if rate is not None and self.last_slot is not None:
            assert slot - self.last_slot >= seconds(1 / (rate * (1 + self.policy.spare_slots))) - GRAIN
        self.last_slot = slot if rate is not None else None

    @invariant()
    def it_is_closed_for_exactly_as_long_as_was_asked(self) -> None:
        held = self.limiter.shut(self.now)
        assert (held is not None and held.by is DenialReason.GATE) == (self.now < self.closed_until)
        if held is not None and held.by is DenialReason.GATE:
            assert held.until == self.closed_until

    @invariant()
    def what_it_says_can_be_stored(self) -> None:
        rate = self.limiter.rate(self.now, self.policy)
        assert rate is None or rate > 0
        assert self.limiter.ceiling is None or self.policy.min_rate <= self.limiter.ceiling < inf
        assert 0 <= self.limiter.retries_left(self.now, self.policy) <= self.policy.retries_kept

    def teardown(self) -> None:
        """When all goes well for long enough, nothing is known against the API any more."""
        if not hasattr(self, "limiter"):
            return
        ends = (self.limiter.closed_until, self.limiter.broken_until, self.limiter.probe_until, self.now)
        now = max(end for end in ends if end is not None)
        limiter, held = admit(self.limiter, passage(retry=False), now + seconds(1_000), self.policy)
        assert held is None
        well = Feedback(limiter=NAME, answered=Observation.SUCCESS, began_at=now + seconds(1_000))
        limiter = observe(limiter, well, now + seconds(1_001), self.policy)
        assert limiter.is_clean(now + seconds(2_000_000), self.policy)


TestGateModel = GateModel.TestCase


@given(
    rate=st.floats(0.1, 500),
    ahead_ms=st.integers(0, 1_000),
    moves=st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 50), st.booleans()), min_size=5, max_size=40),
)
def test_a_constant_rate_is_not_exceeded_in_any_second(
    rate: float, ahead_ms: int, moves: list[tuple[float, int, bool]]
) -> None:
    policy = LimiterPolicy(decrease=1.0, rest_share=1.0, ahead_ms=ahead_ms, spare_slots=0.0)
    now = datetime(2024, 5, 20, tzinfo=UTC)
    limiter, granted = LimiterState(ceiling=rate, paced_from=now), []
    for span, most, claims in moves:
        now += seconds(span)
        if claims:
            limiter, taken, _ = slots(limiter, most, now, policy)
            granted += taken
        else:
            limiter, held = admit(limiter, passage(retry=False), now, policy)
            granted += [] if held else [now]
    for first in granted:
        assert sum(first <= slot < first + seconds(1) - GRAIN for slot in granted) <= ceil(rate) + 1
