"""The numbers of a limiter policy."""

from typing import Any

import pytest

from guestledger.engine.limits import policy as limiter_policy
from guestledger.engine.limits.policy import LimiterPolicy


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: 0} for name in ("initial_rate", "unlimited_rate", "min_rate", "decrease", "increase", "rest_share")),
        *({name: 1e-18} for name in ("eased", "doubled_s", "retries_per_second")),
        *({name: -1} for name in ("ahead_ms", "spare_reservations", "burst", "burst_ms", "retries_per_request")),
        *({name: -1} for name in ("min_closed_ms", "cut_ms", "rest_ms", "proven_ms", "forgotten_ms")),
        *({name: -1} for name in ("break_ms", "max_break_ms", "probe_ms")),
        *({name: 0.999} for name in ("retry_budget", "failures_in_a_row", "calls_per_process", "calls")),
        *({name: wrong} for name in ("decrease", "initial_rate") for wrong in (float("nan"), float("inf"))),
        {"break_ms": 10**18},
    ],
    ids=str,
)
def test_an_invalid_limiter_policy_value_is_rejected_and_named(wrong: dict[str, Any]) -> None:
    [name] = wrong
    with pytest.raises(ValueError, match=rf"LimiterPolicy\.{name} must be"):
        LimiterPolicy(**wrong)


def test_every_limiter_policy_field_has_a_minimum() -> None:
    given = [name for names in limiter_policy._MINIMUMS.values() for name in names]
    assert sorted(given) == sorted(LimiterPolicy.__struct_fields__)
