"""`RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4), read for a used-up quota. Pure.

Both are lists of strings, the names of policies, with parameters (RFC 9651): `r` units left and `t` seconds until there are more;
`q` units in each window of `w` seconds; `pk`, the partition that it goes for. What is malformed is ignored as a whole (section 5).
"""

from collections.abc import Iterator
from decimal import Decimal
from math import ceil
from typing import Any

import http_sf

from guestledger.engine.limits.quota import ExhaustedQuota
from guestledger.engine.limits.retry import MAX_RETRY_AFTER_MS

MAX_FIELD = 8_192
"""No real one is longer, and to read one must not hold up all else."""


def read_drained(rate_limit: str | None, policy: str | None) -> ExhaustedQuota | None:
    """The used-up quota that takes longest to be filled again; `None` where none is used up, or nothing of it can be read."""
    used_up = [(name, left) for name, left in _items(rate_limit) if type(left.get("r")) is int and left["r"] == 0]
    if not used_up:
        return None
    stated = {(name, parameters.get("pk")): parameters for name, parameters in _items(policy)}
    drained = [
        _drained(left, stated.get((name, left.get("pk"))) or stated.get((name, None), {})) for name, left in used_up
    ]
    return max((one for one in drained if one is not None), key=lambda one: one.ms, default=None)


def _drained(left: dict[str, Any], policy: dict[str, Any]) -> ExhaustedQuota | None:
    quota, window = _whole(policy.get("q")), _whole(policy.get("w"))
    reset = _whole(left.get("t"))
    seconds = window if reset is None else reset
    if not seconds:
        return None
    return ExhaustedQuota(
        ms=min(seconds * 1_000, MAX_RETRY_AFTER_MS),
        per_second=quota / window if quota and window else None,
        why=f"RateLimit says that nothing is left for {seconds} s",
    )


def _whole(number: object) -> int | None:
    """A number that is not negative, rounded up: whoever says 1.5 s, though only whole ones may be said, means no less."""
    if isinstance(number, int | Decimal) and not isinstance(number, bool) and number >= 0:
        return ceil(number)
    return None


def _items(field: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    if not field or len(field) > MAX_FIELD:
        return
    try:
        members: Any = http_sf.parse(field.encode("ascii"), tltype="list")
    except ValueError:  # a UnicodeEncodeError is one too
        return
    for member in members:
        match member:
            case (str() as name, dict() as parameters):
                yield name, parameters
