"""`Retry-After` (RFC 9110, section 10.2.3). Pure."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from guestledger.adapters.http.unix_time import unix_time
from guestledger.engine.limits.retry import DEFAULT_RETRY_AFTER_MS, MAX_RETRY_AFTER_MS, RetryAfter, WaitBasis

MAX_SHOWN = 64
_MAX_PARTS = 32
NOTHING_ASKED = RetryAfter(given=None, ms=DEFAULT_RETRY_AFTER_MS, basis=WaitBasis.RETRY_AFTER_MISSING)
_MAX_DIGITS = 15
_SECONDS = re.compile(r"(?P<whole>[0-9]+)(?:\.(?P<fraction>[0-9]+))?")


def read_retry_after(
    given: str | None, date: str | None, now: datetime, max_ms: int = MAX_RETRY_AFTER_MS
) -> RetryAfter:
    """Read seconds, an HTTP-date or a Unix time; the last two relative to the response's own `Date`.

    Of several values the longest counts; fractions are rounded up. A missing or unreadable value means 2 s, a longer one
    than `max_ms` means `max_ms`.
    """
    if given is None:
        return NOTHING_ASKED
    text = given.strip()
    shown = ascii(text)[1:-1][:MAX_SHOWN]
    # The comma of a date separates the name of the day, which is redundant.
    parts = text.split(",", _MAX_PARTS)[:_MAX_PARTS]
    waits = [wait for part in parts if (wait := _wait(part.strip(), date, now))]
    if not waits:
        return RetryAfter(given=shown, ms=DEFAULT_RETRY_AFTER_MS, basis=WaitBasis.RETRY_AFTER_UNREADABLE)
    ms, basis = max(waits)
    if ms > max_ms:
        ms, basis = max_ms, WaitBasis.RETRY_AFTER_CAPPED
    return RetryAfter(given=shown, ms=ms, basis=basis)


def _wait(text: str, date: str | None, now: datetime) -> tuple[int, WaitBasis] | None:
    if seconds := _SECONDS.fullmatch(text):
        whole = seconds["whole"].lstrip("0")
        extra = 1 if (seconds["fraction"] or "").strip("0") else 0
        number = int(whole[:_MAX_DIGITS] or "0") + extra
        moment, basis = unix_time(number) if len(whole) <= _MAX_DIGITS else None, WaitBasis.RETRY_AFTER_EPOCH
        if moment is None:
            return min(number * 1_000, MAX_RETRY_AFTER_MS), WaitBasis.RETRY_AFTER
    else:
        moment, basis = _http_date(text), WaitBasis.RETRY_AFTER_DATE
    if moment is None:
        return None
    wait = moment - sent_at(date, now)
    ms = -(-wait // timedelta(milliseconds=1))  # rounded up
    return max(0, min(ms, MAX_RETRY_AFTER_MS)), basis


def sent_at(date: str | None, now: datetime) -> datetime:
    """When a response with this `Date` was sent, by the server's clock; `now` if it does not say."""
    return (_http_date(date) if date else None) or now


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
