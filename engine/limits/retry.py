"""How long to wait before a request is sent again, in whole ms."""

from enum import StrEnum
from typing import Annotated

import msgspec

from guestledger.engine.limits.fields import check_fields

DEFAULT_RETRY_AFTER_MS = 2_000
"""The wait after a 429 without a readable `Retry-After` (contract, "Answers that are not success")."""

MAX_RETRY_AFTER_MS = 10 * 365 * 24 * 3_600_000
"""Ten years: adding a longer wait to a time can overflow."""
Ms = Annotated[int, msgspec.Meta(ge=0, le=MAX_RETRY_AFTER_MS)]


class InDoubt(StrEnum):
    """What follows a lost answer: the provider may have made a session."""

    RETRY_WITH_KEY = "retry_with_key"
    """Retry: the server makes one session per key."""
    RETRY_AND_RECORD = "retry_and_record"
    """Retry, and record a second remote session as a duplicate."""
    PARK = "park"
    """Wait for a person to decide."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a request is sent again, and when it is given up.

    A throttle is not a failure: only `deadline_ms` (since the acceptance) ends a session that is always throttled.
    Raises `ValueError`, naming the field, for a value that does not fit.
    """

    base_ms: Ms = 500
    cap_ms: Ms = 60_000
    max_failures: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 8
    deadline_ms: Ms = 3_600_000
    in_doubt: InDoubt | None = None
    """`None`: the provider's profile decides."""

    def __post_init__(self) -> None:
        check_fields(self)


class WaitBasis(StrEnum):
    """What decided the minimum of a wait."""

    BACKOFF = "backoff"
    RETRY_AFTER = "retry_after"
    RETRY_AFTER_DATE = "retry_after_date"
    RETRY_AFTER_EPOCH = "retry_after_epoch"
    """A Unix time in place of seconds."""
    RETRY_AFTER_CAPPED = "retry_after_capped"
    """The server asked for more than the policy allows."""
    RETRY_AFTER_MISSING = "retry_after_missing"
    RETRY_AFTER_UNREADABLE = "retry_after_unreadable"
    QUOTA = "quota"
    """An exhausted quota."""
    QUOTA_EPOCH = "quota_epoch"
    """The quota's reset is a Unix time."""
    QUOTA_CAPPED = "quota_capped"
    """For longer than the policy allows."""
    SCHEDULE = "schedule"
    LIMITER = "limiter"
    NONE = "none"


QUOTA_BASES = (WaitBasis.QUOTA, WaitBasis.QUOTA_EPOCH, WaitBasis.QUOTA_CAPPED)
"""For a used-up quota."""


class RetryAfter(msgspec.Struct, frozen=True, kw_only=True):
    """A `Retry-After` header: its text (`None`: absent; shortened, escaped), and the ms it means."""

    given: str | None
    ms: int
    basis: WaitBasis


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """A wait and its reason: `ms` = `basis_ms` + `extra_ms` (backoff, jitter or spread)."""

    ms: int
    basis: WaitBasis
    basis_ms: int = 0
    extra_ms: int = 0
    given: str | None = None
    """The text of a `Retry-After` header, shortened and escaped. `None`: there was none."""


def backoff_ms(tries: int, policy: RetryPolicy, jitter: float) -> int:
    """Exponential backoff with full jitter: 0 to `base · 2^(tries-1)`, at most the cap.

    `tries` counts from 1; `jitter` is uniform in [0, 1).
    """
    ceiling = min(policy.cap_ms, policy.base_ms * 2 ** min(tries - 1, 32))
    return int(ceiling * jitter)


def backoff_wait(tries: int, policy: RetryPolicy, jitter: float, asked: RetryAfter | None) -> Wait:
    """The backoff, on top of what the server asked for."""
    extra_ms = backoff_ms(tries, policy, jitter)
    if asked is None:
        return Wait(ms=extra_ms, basis=WaitBasis.BACKOFF, extra_ms=extra_ms)
    return Wait(ms=asked.ms + extra_ms, basis=asked.basis, basis_ms=asked.ms, extra_ms=extra_ms, given=asked.given)
