"""How long to wait before a request is sent again. Pure: jitter and time come in as arguments, all waits are whole ms."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum

import msgspec

DEFAULT_RETRY_AFTER_MS = 2_000
# Above this a delay is as good as never, and adding it to a time must not overflow.
LONGEST_RETRY_AFTER_MS = 10 * 365 * 24 * 3_600_000


class InDoubt(StrEnum):
    """What is to follow an attempt whose answer is lost, so that a session may exist at CXone."""

    RETRY_WITH_KEY = "retry_with_key"
    """The same key again: the server makes one session for one key, so a retry brings the one that exists, or makes it."""
    RETRY_AND_RECORD = "retry_and_record"
    """Another attempt; a second session that comes to light is recorded as a duplicate."""
    PARK = "park"
    """Nothing, until a person has decided."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a request is sent again, and when it is given up.

    `most_failures` counts attempts that were sent and failed; a throttle is the server's wish, not a failure, and only `deadline_ms`
    (since the request was accepted) ends a session that is throttled for ever.
    """

    base_ms: int = 500
    cap_ms: int = 60_000
    most_failures: int = 8
    deadline_ms: int = 3_600_000
    in_doubt: InDoubt = InDoubt.RETRY_AND_RECORD


class RetryAfter(msgspec.Struct, frozen=True, kw_only=True):
    """A `Retry-After` header: the text as given (`None`: absent; cut, and odd letters escaped), and what it was read as."""

    given: str | None
    ms: int
    why: str


def backoff_ms(tries: int, policy: RetryPolicy, jitter: float) -> int:
    """Exponential backoff with full jitter: between 0 and `base · 2^(tries-1)`, at most the cap.

    `tries` counts from 1; `jitter` is uniform in [0, 1).
    """
    ceiling = min(policy.cap_ms, policy.base_ms * 2 ** min(tries - 1, 32))
    return int(ceiling * jitter)


def read_retry_after(given: str | None, date: str | None, now: datetime) -> RetryAfter:
    """Read `Retry-After` (RFC 9110, section 10.2.3): whole seconds, or an HTTP-date read against the response's own `Date`.

    Absent, negative or nonsense values are read as 2 s (contract, "Answers that are not success").
    """
    if given is None:
        return RetryAfter(given=None, ms=DEFAULT_RETRY_AFTER_MS, why="no Retry-After, so 2 s")
    text = given.strip()
    shown = ascii(text)[1:-1][:64]
    if text.isascii() and text.isdigit():
        ms = LONGEST_RETRY_AFTER_MS if len(text) > 12 else min(int(text) * 1_000, LONGEST_RETRY_AFTER_MS)
        return RetryAfter(given=shown, ms=ms, why=f"Retry-After of {ms} ms")
    moment = _http_date(text)
    if moment is None:
        return RetryAfter(given=shown, ms=DEFAULT_RETRY_AFTER_MS, why="Retry-After unreadable, so 2 s")
    wait = moment - ((_http_date(date) if date else None) or now)
    whole = -(-wait // timedelta(milliseconds=1))  # rounded up: never earlier than the server said
    ms = max(0, min(whole, LONGEST_RETRY_AFTER_MS))
    return RetryAfter(given=shown, ms=ms, why=f"Retry-After date, {ms} ms ahead")


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
