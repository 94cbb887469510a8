"""How long to wait before a request is sent again. Pure: jitter and time come in as arguments, all waits are whole ms."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum

import msgspec

DEFAULT_RETRY_AFTER_MS = 2_000
# Above this a delay is as good as never, and adding it to a time must not overflow.
MAX_RETRY_AFTER_MS = 10 * 365 * 24 * 3_600_000

_SECONDS = re.compile(r"(?P<whole>[0-9]+)(?:\.(?P<parts>[0-9]+))?")
_MAX_PARTS = 32


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

    `max_failures` counts attempts that were sent and failed; a throttle is the server's wish, not a failure, and only `deadline_ms`
    (since the request was accepted) ends a session that is throttled for ever.
    """

    base_ms: int = 500
    cap_ms: int = 60_000
    max_failures: int = 8
    deadline_ms: int = 3_600_000
    in_doubt: InDoubt | None = None
    """What follows an attempt whose answer was lost. `None`: what the profile says of CXone, else another attempt."""


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

    Of several, as on several lines that were joined by commas (section 5.3), the longest that can be read counts, and parts of a
    second, though they may not be asked for, count as a whole one: it is never earlier than somebody asked.
    Absent, negative or nonsense values are read as 2 s (contract, "Answers that are not success").
    """
    if given is None:
        return RetryAfter(given=None, ms=DEFAULT_RETRY_AFTER_MS, why="no Retry-After, so 2 s")
    text = given.strip()
    shown = ascii(text)[1:-1][:64]
    # The comma of a date ends the name of its day, which tells nothing that the rest does not.
    read = [wait for part in text.split(",", _MAX_PARTS)[:_MAX_PARTS] if (wait := _wait(part.strip(), date, now))]
    if not read:
        return RetryAfter(given=shown, ms=DEFAULT_RETRY_AFTER_MS, why="Retry-After unreadable, so 2 s")
    ms, why = max(read)
    return RetryAfter(given=shown, ms=ms, why=why)


def _wait(text: str, date: str | None, now: datetime) -> tuple[int, str] | None:
    """How many ms, and why so; `None` where `text` is neither seconds nor a date."""
    if seconds := _SECONDS.fullmatch(text):
        whole = seconds["whole"].lstrip("0")
        parts = 1 if (seconds["parts"] or "").strip("0") else 0
        asked = MAX_RETRY_AFTER_MS if len(whole) > 12 else (int(whole or "0") + parts) * 1_000
        ms = min(asked, MAX_RETRY_AFTER_MS)
        return ms, f"Retry-After of {ms} ms"
    moment = _http_date(text)
    if moment is None:
        return None
    wait = moment - ((_http_date(date) if date else None) or now)
    whole_ms = -(-wait // timedelta(milliseconds=1))  # rounded up: never earlier than the server said
    ms = max(0, min(whole_ms, MAX_RETRY_AFTER_MS))
    return ms, f"Retry-After date, {ms} ms ahead"


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
