"""A limiter policy for tests that are not about the limiter: it delays as little as possible."""

from guestledger.engine.limits.policy import LimiterPolicy

BRISK = LimiterPolicy(
    initial_rate=20_000.0,
    min_closed_ms=0,
    failures_in_a_row=1_000,
    break_ms=10,
    max_break_ms=20,
    probe_ms=500,
    retries_per_second=1_000.0,
)
