"""What the rate limiter says to a due step: asked as a claim asks it, then as the append or the look-up does."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec.structs import replace

from guestledger.engine.domain.due import PROVIDER_STEPS
from guestledger.engine.domain.policy import Policy, deadline_of
from guestledger.engine.domain.session import Session
from guestledger.engine.limits.admission import AdmissionRequest, DenialReason, Denied
from guestledger.engine.limits.capacity import at_limit, capacity
from guestledger.engine.limits.limiter import admit
from guestledger.engine.limits.state import LimiterState
from guestledger.engine.operations.conditions import Condition, ConditionName
from guestledger.engine.ports.due_steps import DueRow, WorkStatus

CONDITIONS = {
    DenialReason.CLOSED: ConditionName.PAUSE,
    DenialReason.CIRCUIT_OPEN: ConditionName.CIRCUIT,
    DenialReason.RATE: ConditionName.RATE,
    DenialReason.CONCURRENCY: ConditionName.CONCURRENCY,
    DenialReason.RETRY_BUDGET: ConditionName.RETRY_BUDGET,
}
"""The condition that each denial is about."""


class _Denial(NamedTuple):
    until: datetime
    denied: Denied


class LimiterPath:
    """The way of a claimed step past its limiter, from `now` on. `now` becomes the time at which it is past it."""

    def __init__(
        self, state: Session, policy: Policy, work: WorkStatus, row: DueRow, known: LimiterState | None, now: datetime
    ) -> None:
        self.now = now
        self._session = state
        self._work = work
        self._row = row
        self._sends = row.step in PROVIDER_STEPS
        self._limiter = known or LimiterState()
        self._policy = policy.limiter if self._sends else replace(policy.limiter, calls=None)
        self._restricts = known is not None or self._policy.calls is not None
        self._deadline = deadline_of(state, policy.creation) if self._sends else None
        self._denials: dict[ConditionName, _Denial] = {}

    def conditions(self) -> list[Condition]:
        """Each condition, in the order in which the limiter looks at them."""
        self._claim()
        in_time = self._deadline is not None and self.now <= self._deadline
        if in_time:
            self._ask_admission()
        found = [self._pause(), self._circuit(), self._rate()]
        if self._sends:
            found.append(self._concurrency())
        if in_time:  # else nothing is sent
            found.append(self._budget())
        return [*found, *self._before_deadline()]

    def _claim(self) -> None:
        """Ask for capacity until the claim gets a place."""
        while self._restricts:
            # What is ahead and in flight now says nothing about later.
            later = self.now > self._work.now
            ahead, in_flight = (0, 0) if later else (self._row.ahead, self._work.in_flight)
            free, denied = capacity(self._limiter, ahead + 1, in_flight, self.now, self._policy)
            if len(free) > ahead or (denied is not None and denied.by is DenialReason.CONCURRENCY and later):
                return
            denied = denied or at_limit(in_flight + len(free), self.now, self._policy)
            assert denied is not None, "without capacity there is a denial"
            until, rate = denied.until, self._limiter.rate(self.now)
            if denied.by is DenialReason.RATE and rate:
                until += timedelta(seconds=(ahead - len(free)) / rate)
            self._wait(until, denied)

    def _ask_admission(self) -> None:
        request = AdmissionRequest(limiter="", retry=self._session.is_retried, reserved=True)
        _, denied = admit(self._limiter, request, self.now, self._policy)
        if denied is not None:
            self._wait(denied.until, denied)

    def _wait(self, until: datetime, denied: Denied) -> None:
        self._denials[CONDITIONS[denied.by]] = _Denial(until, denied)
        self.now = max(self.now, until)

    def _pause(self) -> Condition:
        state = self._limiter
        in_force = state.closed_until is not None and state.closed_until > self._work.now
        return Condition(
            name=ConditionName.PAUSE,
            met=ConditionName.PAUSE not in self._denials,
            until=self._until(ConditionName.PAUSE),
            at=state.closed_until if in_force else None,
            closed_by=state.closed_by if in_force else None,
        )

    def _circuit(self) -> Condition:
        denial = self._denials.get(ConditionName.CIRCUIT)
        return Condition(
            name=ConditionName.CIRCUIT,
            met=denial is None,
            until=self._until(ConditionName.CIRCUIT),
            failures=self._limiter.failures,
            probing=denial is not None and denial.denied.probing,
            limit=self._policy.failures_in_a_row,
        )

    def _rate(self) -> Condition:
        denial = self._denials.get(ConditionName.RATE)
        return Condition(
            name=ConditionName.RATE,
            met=denial is None,
            until=self._until(ConditionName.RATE),
            rate=self._limiter.rate(self.now) if denial is None else denial.denied.rate,
            ahead=self._row.ahead,
        )

    def _concurrency(self) -> Condition:
        calls = self._policy.calls
        return Condition(
            name=ConditionName.CONCURRENCY,
            met=ConditionName.CONCURRENCY not in self._denials,
            until=self._until(ConditionName.CONCURRENCY),
            in_flight=None if calls is None else self._work.in_flight,
            limit=calls,
        )

    def _budget(self) -> Condition:
        left = self._limiter.retries_left(self._work.now, self._policy) if self._session.is_retried else None
        return Condition(
            name=ConditionName.RETRY_BUDGET,
            met=ConditionName.RETRY_BUDGET not in self._denials,
            until=self._until(ConditionName.RETRY_BUDGET),
            rate=None if left is None else self._policy.retries_per_second,
            retries_left=left,
            limit=None if left is None else self._policy.retry_budget,
        )

    def _before_deadline(self) -> Iterator[Condition]:
        if self._deadline is not None:
            met = self.now <= self._deadline
            yield Condition(name=ConditionName.DEADLINE, met=met, until=None, at=self._deadline, planned_at=self.now)

    def _until(self, name: ConditionName) -> datetime | None:
        denial = self._denials.get(name)
        return None if denial is None else denial.until
