"""A policy made in code is checked where it is made."""

from typing import Any

import pytest

from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.limits.retry import RetryPolicy


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (RetryPolicy, {"max_failures": 0}),
        (RetryPolicy, {"deadline_ms": -1}),
        (DeliveryPolicy, {"waits_ms": (1, -1)}),
        (DeliveryPolicy, {"jitter_percent": 101}),
        (Policy, {"retention_days": 5_000_000}),
    ],
)
def test_a_policy_out_of_bounds_is_refused_with_its_field(kind: type, given: dict[str, Any]) -> None:
    [name] = given
    with pytest.raises(ValueError, match=rf"^{kind.__name__}\.{name} must be `int` "):
        kind(**given)
