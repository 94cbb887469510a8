"""Times and spans as people write them."""

import re
from datetime import UTC, datetime, time, timedelta

_AGO = re.compile(
    r"(\d+) ?(?:(s|sec|seconds?)|(m|min|minutes?)|(h|hours?)|(d|days?)|(w|weeks?))(?: ago)?", re.ASCII | re.IGNORECASE
)
_TIME_OF_DAY = re.compile(r"(\d{1,2}):\d\d(?::\d\d)?(?:Z|[+-]\d\d:?\d\d)?", re.ASCII | re.IGNORECASE)
_UNITS = ("seconds", "minutes", "hours", "days", "weeks")


def moment(text: str) -> datetime:
    """Parse a time (UTC unless it has an offset), or a span before now such as `2 days ago` or `90m`.

    Raise `ValueError`.
    """
    try:
        if (ago := _span(text)) is not None:
            return datetime.now(UTC) - ago
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"{text!r} is not a time such as 2024-05-20T14:22:00Z or '2 days ago'") from None
    except OverflowError:
        raise ValueError(f"{text!r} is not within the years 1 to 9999 in UTC") from None


def span(text: str) -> timedelta:
    """Parse a span such as `10m` or `2 hours`. Raise `ValueError`."""
    try:
        found = None if text.strip().endswith("ago") else _span(text)
    except OverflowError:
        found = None
    if not found:
        raise ValueError(f"{text!r} is not a span such as 10m or '2 hours'")
    return found


def around(text: str) -> datetime:
    """Parse a time of day, such as `02:14` or `02:14+02:00`: the latest one that has passed. Else as `moment`."""
    given = _TIME_OF_DAY.fullmatch(text.strip())
    if given is None:
        return moment(text)
    try:
        wanted = time.fromisoformat(given[0] if len(given[1]) == 2 else f"0{given[0]}")
    except ValueError:
        raise ValueError(f"{text!r} is not a time of day such as 02:14 or 02:14+02:00") from None
    now = datetime.now(UTC)
    today = datetime.combine(now.astimezone(wanted.tzinfo or UTC).date(), wanted, wanted.tzinfo or UTC)
    return (today if today <= now else today - timedelta(days=1)).astimezone(UTC)


def _span(text: str) -> timedelta | None:
    given = _AGO.fullmatch(text.strip())
    if given is None:
        return None
    unit = next(name for name, found in zip(_UNITS, given.groups()[1:], strict=True) if found)
    return timedelta(**{unit: int(given[1])})
