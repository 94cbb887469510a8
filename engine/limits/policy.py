"""How carefully an API is treated: the numbers of the rate limiter."""

import msgspec

from guestledger.engine.limits.fields import check_fields
from guestledger.engine.limits.retry import MAX_RETRY_AFTER_MS


class LimiterPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of one limiter. Rates are requests per second.

    Raises `ValueError`, naming the field, for a number that would admit nothing or overflow a time.
    """

    initial_rate: float = 10.0
    """The rate after the first 429, per second; raise it for an API that bears much more."""
    min_closed_ms: int = 500
    """The shortest pause after a 429; lower it for an API that asks for less."""
    max_pause_ms: int = 1_800_000
    """The longest pause that a server can impose; lower it if your guests cannot wait that long."""

    failures_in_a_row: int = 10
    """So many failures open the circuit; lower it if a failing request is dear."""
    break_ms: int = 1_000
    """The first pause of an open circuit, doubled by each failed probe; raise it for an API that recovers slowly."""
    max_break_ms: int = 30_000
    """The longest pause of an open circuit; lower it to notice a recovery sooner."""
    probe_ms: int = 30_000
    """How long a probe is waited for; keep it above the time of your slowest answer."""

    retry_budget: float = 100.0
    """The most retries that can be saved up; lower it to protect a weak API."""
    retries_per_request: float = 0.2
    """What a first request adds to the budget; 0 for an API that must not be asked twice under load."""
    retries_per_second: float = 5.0
    """What a second adds to it; raise it for a faster catch-up after an outage."""

    calls_per_process: int = 256
    """The most requests in flight from one process; lower it if sockets or memory are scarce."""
    calls: int | None = None
    """The most sessions with a request in flight, over all processes; set it if the API counts connections."""

    def __post_init__(self) -> None:
        check_fields(self)
        for minimum, names in _MINIMUMS.items():
            for name in names:
                number = getattr(self, name)
                if number is not None and not (minimum <= number <= MAX_RETRY_AFTER_MS):
                    raise ValueError(
                        f"LimiterPolicy.{name} must be {minimum:g} or more, and at most {MAX_RETRY_AFTER_MS:g}"
                    )


# With a smaller rate or share, the time of the next request is no usable number.
_MIN_RATE = 0.001
_MINIMUMS: dict[float, tuple[str, ...]] = {
    _MIN_RATE: ("initial_rate", "retries_per_second"),
    0: ("min_closed_ms", "break_ms", "max_break_ms", "probe_ms", "retries_per_request"),
    1: ("max_pause_ms", "failures_in_a_row", "retry_budget", "calls_per_process", "calls"),
}
