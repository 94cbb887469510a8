"""`RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10). Pure.

`r`: units left, `t`: seconds until the reset, `q`: units per window of `w` seconds, `pk`: partition. A malformed field
is ignored as a whole (section 5).
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from math import ceil
from typing import Any

import http_sf
from msgspec.structs import replace

from guestledger.adapters.http.unix_time import unix_time
from guestledger.engine.limits.quota import ExhaustedQuota
from guestledger.engine.limits.retry import MAX_RETRY_AFTER_MS, WaitBasis

MAX_FIELD = 8_192
"""Parsing a longer field would block the event loop."""
MAX_WINDOW_S = 86_400
"""The average over a longer window says nothing about the rate; and it may be in milliseconds."""


def read_exhausted_quota(
    rate_limit: str | None, policy: str | None, now: datetime, max_ms: int = MAX_RETRY_AFTER_MS
) -> ExhaustedQuota | None:
    """The exhausted quota with the longest time to its reset, if any: at most `max_ms`.

    A reset that is a Unix time is relative to `now`.
    """
    used_up = [(name, left) for name, left in _items(rate_limit) if type(left.get("r")) is int and left["r"] == 0]
    if not used_up:
        return None
    stated = {(name, parameters.get("pk")): parameters for name, parameters in _items(policy)}
    quotas = [
        _exhausted(left, stated.get((name, left.get("pk"))) or stated.get((name, None), {}), now)
        for name, left in used_up
    ]
    longest = max((quota for quota in quotas if quota is not None), key=lambda quota: quota.ms, default=None)
    if longest is None or longest.ms <= max_ms:
        return longest
    return replace(longest, ms=max_ms, basis=WaitBasis.QUOTA_CAPPED)


def _exhausted(left: dict[str, Any], policy: dict[str, Any], now: datetime) -> ExhaustedQuota | None:
    quota, window = _whole(policy.get("q")), _whole(policy.get("w"))
    reset = _whole(left.get("t"))
    seconds = window if reset is None else reset
    moment = None if seconds is None else unix_time(seconds)
    if seconds is None or moment is None:
        ms, basis = (seconds or 0) * 1_000, WaitBasis.QUOTA
    else:
        ms, basis = -((now - moment) // timedelta(milliseconds=1)), WaitBasis.QUOTA_EPOCH
    if ms <= 0:
        return None
    per_second = quota / window if quota and window and window <= MAX_WINDOW_S else None
    return ExhaustedQuota(ms=min(ms, MAX_RETRY_AFTER_MS), per_second=per_second, basis=basis)


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
