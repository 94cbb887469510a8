"""Outages in the log of a process: a warning when each begins, with counts, and never one a session."""

import logging
from datetime import datetime, timedelta

from guestledger.engine.domain.policy import Policy
from guestledger.engine.limits.state import LimiterState
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.due_steps import Backlog, DueSteps
from guestledger.engine.ports.rate_limiter import RateLimiter

waiting = logging.getLogger("guestledger.waiting")

# A pause, or a third failure, within this time of the last one belongs to the same outage.
_SAME_OUTAGE = timedelta(minutes=10)
# A look may have read a limiter before this process changed it.
_MAX_LOOK_AGE = timedelta(seconds=5)
_REPORTED_FAILURE = 3


class OutageReporter:
    """Compares limiters, webhook calls and backlog with what it has reported.

    A scheduler also looks at the limiters that other processes changed.
    """

    def __init__(self, *, clock: Clock, policy: Policy) -> None:
        self._clock = clock
        self._max_age = timedelta(milliseconds=policy.max_backlog_age_ms)
        self._changed_at: dict[str, datetime] = {}
        self._pauses: dict[str, tuple[datetime, timedelta]] = {}  # the end of the last one, the longest reported one
        self._broken_since: dict[str, datetime] = {}
        self._failed_at: dict[str, datetime] = {}
        self._backlog: Backlog | None = None
        self._backlog_reported = False

    def limiter_changed(self, name: str, state: LimiterState, now: datetime) -> None:
        """Note a state that this process is about to commit."""
        self._changed_at[name] = now
        self._report_limiter(name, state, now)

    def webhook_failed(self, receiver: str, failures: int) -> None:
        """Note that the last `failures` calls for one notice failed."""
        if failures != _REPORTED_FAILURE:
            return
        now, last = self._clock.now(), self._failed_at.get(receiver)
        self._failed_at[receiver] = now
        if last is None or now - last > _SAME_OUTAGE:
            owed = f"; {self._backlog.owed_webhooks} notices are owed" if self._backlog else ""
            waiting.warning(
                "webhook receiver %r: calls for one notice have failed %d times%s", receiver, failures, owed
            )

    async def look(self, due_steps: DueSteps, limiter: RateLimiter) -> None:
        """Read what all processes share, and report it. Raises `ServiceError`."""
        self._backlog = await due_steps.backlog()
        states, now = await limiter.states(), self._backlog.now
        for name in {*states, *self._broken_since}:
            if abs(now - self._changed_at.get(name, datetime.min.replace(tzinfo=now.tzinfo))) > _MAX_LOOK_AGE:
                self._report_limiter(name, states.get(name, LimiterState()), now)
        self._report_backlog(self._backlog)

    def _report_limiter(self, name: str, state: LimiterState, now: datetime) -> None:
        self._report_pause(name, state, now)
        self._report_circuit(name, state, now)

    def _report_pause(self, name: str, state: LimiterState, now: datetime) -> None:
        until = state.closed_until
        if until is None or until <= now:
            return
        ended, longest = self._pauses.get(name, (None, timedelta()))
        pause = until - now
        if ended is None or now - ended > _SAME_OUTAGE or pause > 2 * longest:
            longest = pause
            waiting.warning(
                "limiter %r is closed for %.3g s, until %s (%s)%s",
                name,
                pause.total_seconds(),
                f"{until:%Y-%m-%dT%H:%M:%SZ}",
                state.closed_by,
                self._waiting(),
            )
        self._pauses[name] = (until, longest)

    def _report_circuit(self, name: str, state: LimiterState, now: datetime) -> None:
        since = self._broken_since.get(name)
        if state.broken_at is not None and since is None:
            self._broken_since[name] = state.broken_at
            waiting.warning(
                "limiter %r: the circuit is open after %d failures in a row; single probes are sent until one succeeds%s",
                name,
                state.failures,
                self._waiting(),
            )
        elif state.broken_at is None and since is not None:
            del self._broken_since[name]
            open_for = max(0.0, (now - since).total_seconds())
            waiting.warning("limiter %r: the circuit is closed again after %.3g s%s", name, open_for, self._waiting())

    def _report_backlog(self, found: Backlog) -> None:
        age = timedelta() if found.oldest_accepted_at is None else found.now - found.oldest_accepted_at
        if age > self._max_age and not self._backlog_reported:
            self._backlog_reported = True
            waiting.warning(
                "backlog: %d accepted sessions wait, the oldest for %d s", found.waiting, age.total_seconds()
            )
        elif age <= self._max_age / 2:
            self._backlog_reported = False

    def _waiting(self) -> str:
        """How many sessions wait, as of the last look."""
        return f"; {self._backlog.waiting} sessions wait" if self._backlog is not None and self._backlog.waiting else ""
