"""Values as people read them: times, spans, and the fields of events and states."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol, TypeVar

from guestledger.adapters.forms.text import plain

__all__ = ["about", "ago", "flat", "given", "is_unset", "plain", "seen", "span", "time", "value"]


class _Changed(Protocol):
    @property
    def before(self) -> Any: ...
    @property
    def after(self) -> Any: ...


Change = TypeVar("Change", bound=_Changed)


def ago(moment: datetime | None) -> str | None:
    """Format how long ago a UTC time was, by this machine's clock."""
    if moment is None:
        return None
    seconds = round((datetime.now(UTC) - moment).total_seconds())
    text = about(abs(seconds))
    return f"{text} ago" if seconds >= 0 else f"in {text}"


def about(seconds: float) -> str:
    """Format a span in its largest unit, such as `12 min`."""
    whole = round(seconds)
    for unit, size, limit in (("s", 1, 60), ("min", 60, 60), ("h", 3_600, 48)):
        if whole < size * limit:
            return f"{whole // size} {unit}"
    return f"{whole // 86_400} days"


def time(moment: datetime | None, day: date | None = None, between: str = " ") -> str | None:
    """Format a UTC time to the millisecond; without its date if that is `day`."""
    if moment is None:
        return None
    text = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}"
    return text if moment.date() == day else f"{moment:%Y-%m-%d}{between}{text}"


def span(length: timedelta) -> str:
    """Format how long something took, in the two largest units that say it: `43 ms`, `10 min 0.4 s`, `2 d 3 h`."""
    ms = length / timedelta(milliseconds=1)
    if ms < 1_000:
        return f"{round(ms, 1):g} ms"
    if ms < 60_000:
        return f"{round(ms / 1_000, 3):g} s"
    if ms < 3_600_000:
        minutes, tenths = divmod(round(ms / 100), 600)
        return f"{minutes} min {tenths / 10:g} s" if tenths else f"{minutes} min"
    unit, size, below, part = ("h", 60, "min", 1) if ms < 48 * 3_600_000 else ("d", 1_440, "h", 60)
    whole, rest = divmod(round(ms / 60_000), size)
    return f"{whole} {unit} {rest // part} {below}" if rest // part else f"{whole} {unit}"


def value(found: Any, day: date | None = None, limit: int | None = None) -> str:
    """Format the value of a field on one line, cut off after `limit` characters; times of `day` without their date."""
    import msgspec

    if is_unset(found):
        return "none"
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, datetime):
        return time(found, day) or ""
    if isinstance(found, msgspec.Struct):
        return "set"
    if isinstance(found, tuple):
        found = ", ".join(str(msgspec.to_builtins(item)) for item in found)
    text = plain(str(found))
    return text if limit is None or len(text) <= limit else f"{text[: limit - 3]}..."


def is_unset(found: Any) -> bool:
    """Return whether a field has no value, or only fields without one."""
    if isinstance(found, Mapping):
        return all(map(is_unset, found.values()))
    return found is None or found in ("", ())


def flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return nested values by their dotted paths."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{path}{name}.") if isinstance(value, Mapping) else {path + name: value}
    return found


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are set, by their paths."""
    return {path: value for path, value in flat(values).items() if not is_unset(value)}


def seen(changes: Iterable[Change]) -> list[Change]:
    """Return the changes that can be seen: some fields have two values that both mean none."""
    return [change for change in changes if not (is_unset(change.before) and is_unset(change.after))]
