"""Gates for tests of something else: they hold back only what they must."""

from engine.domain.passing import GatePolicy

BRISK = GatePolicy(
    first_rate=2_000.0,
    least_rate=500.0,
    least_closed_ms=0,
    failures_in_a_row=1_000,
    break_ms=10,
    longest_break_ms=20,
    probe_ms=500,
    retries_per_second=1_000.0,
)
