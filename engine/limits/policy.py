"""How carefully an API is treated: the numbers of the rate limiter."""

import msgspec

from guestledger.engine.limits.retry import MAX_RETRY_AFTER_MS


class LimiterPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of one limiter. Rates are requests per second.

    Raises `ValueError`, naming the field, for a number that would admit nothing or overflow a time.
    """

    initial_rate: float = 10.0
    """The rate after the first 429. Each answer adds 1, until the next 429."""
    unlimited_rate: float = 5_000.0
    """A rate that has risen this far is no limit any more."""
    min_rate: float = 0.1
    min_closed_ms: int = 500
    """A 429 closes the limiter for at least this long."""
    max_pause_ms: int = 1_800_000
    """The longest pause that a server can impose, on all or on one session; longer ones are cut."""
    cut_ms: int = 1_000
    """The rate is cut at most once in this time."""
    decrease: float = 0.8
    """The share of the excessive rate with which the limiter opens again."""
    increase: float = 0.2
    """The rise per second after that, as a share of the excessive rate."""
    rest_share: float = 0.95
    """Where the steep rise stops, as a share of the excessive rate."""
    rest_ms: int = 60_000
    """How long the rate rests there, counted in answers, before it rises further."""
    proven_ms: int = 3_000
    eased: float = 0.985
    """The factor for the excessive rate after a 429 at a rate that held for `proven_ms`."""
    doubled_s: float = 20.0
    """The rate doubles within this many seconds after the rest."""
    forgotten_ms: int = 900_000
    """The limit is forgotten after this long without a 429."""
    ahead_ms: int = 100
    """How far ahead a worker reserves."""
    spare_reservations: float = 0.15
    """The share of reservations beyond the rate: some are not used in time."""
    burst: int = 2
    """How many requests may pass together."""
    burst_ms: int = 40
    """Or as many as the rate gives in this time, if that is more: attempts are recorded in batches."""

    failures_in_a_row: int = 10
    break_ms: int = 1_000
    """The first pause of an open circuit. Each failed probe doubles it, up to `max_break_ms`."""
    max_break_ms: int = 30_000
    probe_ms: int = 30_000
    """How long a probe is waited for before another may be sent."""

    retry_budget: float = 100.0
    """The most retries that can be saved up. A retry costs 1."""
    retries_per_request: float = 0.2
    retries_per_second: float = 5.0

    calls_per_process: int = 256
    """The most requests to the provider in flight from one process."""
    calls: int | None = None
    """The most sessions with a request to the provider in flight, over all processes; `None`: no limit."""

    def __post_init__(self) -> None:
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
    _MIN_RATE: (
        "initial_rate",
        "unlimited_rate",
        "min_rate",
        "decrease",
        "increase",
        "rest_share",
        "eased",
        "doubled_s",
        "retries_per_second",
    ),
    0: (
        "min_closed_ms",
        "cut_ms",
        "rest_ms",
        "proven_ms",
        "forgotten_ms",
        "ahead_ms",
        "spare_reservations",
        "burst",
        "burst_ms",
        "break_ms",
        "max_break_ms",
        "probe_ms",
        "retries_per_request",
    ),
    1: ("max_pause_ms", "failures_in_a_row", "retry_budget", "calls_per_process", "calls"),
}
