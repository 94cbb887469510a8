"""Unix times in place of spans or dates. Pure."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_S, _FIRST_MS = 10**9, 10**12
"""September 2001, in seconds and in milliseconds."""


def unix_time(number: float) -> datetime | None:
    """The moment (UTC), if `number` can only be a Unix time in seconds or milliseconds.

    As a span in seconds it would be 31 years or more. Accepts times from 2001 to 5138.
    """
    if _FIRST_S <= number < 100 * _FIRST_S:
        return _EPOCH + timedelta(seconds=number)
    if _FIRST_MS <= number < 100 * _FIRST_MS:
        return _EPOCH + timedelta(milliseconds=number)
    return None
