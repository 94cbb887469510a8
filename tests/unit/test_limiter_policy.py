"""The numbers of a limiter policy."""

from typing import Any

import pytest

from guestledger.engine.limits import policy as limiter_policy
from guestledger.engine.limits.policy import LimiterPolicy


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: wrong} for name in ("initial_rate", "retries_per_second") for wrong in (0, 1e-18)),
        *({name: -1} for name in ("min_closed_ms", "break_ms", "max_break_ms", "probe_ms", "retries_per_request")),
        *({name: 0.999} for name in ("retry_budget", "failures_in_a_row", "calls_per_process", "calls")),
        *({name: wrong} for name in ("retries_per_request", "initial_rate") for wrong in (float("nan"), float("inf"))),
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
