"""Limiters for tests: ask, observe, and look at the state."""

from datetime import datetime
from typing import Any

from msgspec.structs import replace

from guestledger.engine.limits.admission import AdmissionRequest, DenialReason, Denied
from guestledger.engine.limits.feedback import Feedback, Observation
from guestledger.engine.limits.limiter import admit, observe, reserve, sending_wait
from guestledger.engine.limits.pace import Pace
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import WaitBasis
from guestledger.engine.limits.state import LimiterState
from tests.unit.samples import at

NAME = "api.example.com sessions"
POLICY = LimiterPolicy()
CLEAN = LimiterState()
FIRST = AdmissionRequest(limiter=NAME, retry=False, reserved=False)
RETRY = replace(FIRST, retry=True)
RESERVED = replace(FIRST, reserved=True)
EARLY = replace(RESERVED, early=True)


def seen(observation: Observation, began: float, **given: Any) -> Feedback:
    return Feedback(limiter=NAME, observation=observation, began_at=at(began), **given)


class Limiter:
    """A limiter and its current state. Times are seconds."""

    def __init__(self, limiter: LimiterState = CLEAN, policy: LimiterPolicy = POLICY) -> None:
        self.state = limiter
        self.policy = policy

    def throttled(self, now: float, closed_s: float = 0, *, began: float | None = None, **given: Any) -> "Limiter":
        began = now if began is None else began
        given = {"closed_by": WaitBasis.RETRY_AFTER, "closed_ms": round(closed_s * 1_000), **given}
        return self._observe(seen(Observation.THROTTLED, began, **given), now)

    def failed(self, now: float, times: int = 1, *, began: float | None = None, **given: Any) -> "Limiter":
        for _ in range(times):
            self._observe(seen(Observation.FAILED, now if began is None else began, **given), now)
        return self

    def not_sent(self, now: float, *, began: float | None = None) -> "Limiter":
        return self._observe(seen(Observation.NOT_SENT, now if began is None else began), now)

    def succeeded(self, now: float, times: int = 1, *, began: float | None = None, **given: Any) -> "Limiter":
        for _ in range(times):
            self._observe(seen(Observation.SUCCESS, now if began is None else began, **given), now)
        return self

    def _observe(self, feedback: Feedback, now: float) -> "Limiter":
        self.state = observe(self.state, feedback, at(now), self.policy)
        return self

    def ask(self, now: float, admission: AdmissionRequest = FIRST) -> Denied | None:
        self.state, denied = admit(self.state, admission, at(now), self.policy)
        return denied

    def admitted(self, now: float, admission: AdmissionRequest = FIRST, times: int = 1) -> "Limiter":
        for _ in range(times):
            assert self.ask(now, admission) is None
        return self

    def denied_by(self, reason: DenialReason, now: float, admission: AdmissionRequest = FIRST) -> Denied:
        before = self.state
        denied = self.ask(now, admission)
        assert denied is not None
        assert denied.by is reason
        assert self.state == before, "a denial does not change the limiter"
        return denied

    def reserve(self, now: float, wanted: int = 1_000) -> list[datetime]:
        self.state, taken, _ = reserve(self.state, wanted, at(now))
        return taken

    def sending_wait(self, now: float) -> float:
        """How long a request that is admitted now waits, in seconds."""
        return sending_wait(self.state, at(now)).total_seconds()

    def rate(self, now: float) -> float | None:
        return self.state.rate(at(now))

    def broken(self, now: float = 0) -> "Limiter":
        return self.failed(now, self.policy.failures_in_a_row)


def new(limiter: LimiterState = CLEAN, **policy: Any) -> Limiter:
    return Limiter(limiter, replace(POLICY, **policy))


def known(rate: float, **policy: Any) -> Limiter:
    """A limiter that reopened at 0 s with this rate."""
    return new(paced(rate), **policy)


def paced(rate: float, since: float = 0) -> LimiterState:
    """The state of a limiter that reopened at `since` with this rate."""
    return replace(CLEAN, closed_until=at(since), pace=Pace(rate=rate, floor=0.1, learned_at=at(since)))
