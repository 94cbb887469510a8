"""`RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10). Pure.

`r`: units left, `t`: seconds until the reset, `q`: units per window of `w` seconds, `pk`: partition. A malformed field
is ignored as a whole (section 5).
"""

from collections.abc import Iterator
from decimal import Decimal
from math import ceil
from typing import Any

import http_sf

from guestledger.engine.limits.quota import ExhaustedQuota
from guestledger.engine.limits.retry import MAX_RETRY_AFTER_MS

MAX_FIELD = 8_192
"""Parsing a longer field would block the event loop."""


def read_exhausted_quota(rate_limit: str | None, policy: str | None) -> ExhaustedQuota | None:
    """The exhausted quota with the longest time to its reset, if any."""
    used_up = [(name, left) for name, left in _items(rate_limit) if type(left.get("r")) is int and left["r"] == 0]
    if not used_up:
        return None
    stated = {(name, parameters.get("pk")): parameters for name, parameters in _items(policy)}
    quotas = [
        _exhausted(left, stated.get((name, left.get("pk"))) or stated.get((name, None), {})) for name, left in used_up
    ]
    return max((quota for quota in quotas if quota is not None), key=lambda quota: quota.ms, default=None)


def _exhausted(left: dict[str, Any], policy: dict[str, Any]) -> ExhaustedQuota | None:
    quota, window = _whole(policy.get("q")), _whole(policy.get("w"))
    reset = _whole(left.get("t"))
    seconds = window if reset is None else reset
    if not seconds:
        return None
    return ExhaustedQuota(
        ms=min(seconds * 1_000, MAX_RETRY_AFTER_MS), per_second=quota / window if quota and window else None
    )


def _whole(number: object) -> int | None:
    """A number that is not negative, rounded up."""
    if isinstance(number, int | Decimal) and not isinstance(number, bool) and number >= 0:
        return ceil(number)
    return None


def _items(field: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    if not field or len(field) > MAX_FIELD:
        return
    try:
        members: Any = http_sf.parse(field.encode("ascii"), tltype="list")
    except ValueError:  # includes UnicodeEncodeError
        return
    for member in members:
        match member:
            case (str() as name, dict() as parameters):
                yield name, parameters
