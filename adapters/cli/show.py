"""Output: tables for people, JSON for programs, progress on stderr."""

import asyncio
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from guestledger.adapters.cli import streams

MAX_IN_TABLE = 1_000
WIDE = 160
_MIN_WIDTH, _PIPE_WIDTH = 80, 240
_NUMBERS = {"ms", "attempts", "v", "position", "behind", "for s", "lag", "first position", "last", "size"}

Row = TypeVar("Row")
Cells = Mapping[str, Callable[[Row], object]]


def write_json(value: Any) -> None:
    """Write one line of JSON to stdout."""
    streams.write(streams.json_line(value))


def write_line(text: str) -> None:
    """Write one line to stdout."""
    streams.write(f"{text}\n".encode())


def camel_json(struct: Any) -> Any:
    """Return a struct, and those in it, as objects with camelCase fields."""
    import msgspec

    from guestledger.adapters.forms.camel import camel

    return msgspec.to_builtins(camel(struct))


def camel_fields(struct: type[Any]) -> tuple[str, ...]:
    """Return the names of its fields as `camel_json` has them."""
    from guestledger.adapters.forms.camel import camel_fields

    return camel_fields(struct)


def console(min_width: int = _MIN_WIDTH) -> Console:
    """Return stdout for a person, without markup: texts come from guests and servers.

    At least `min_width` columns wide; a pipe is wide enough for most rows to stay on one line.
    """
    found = Console(markup=False, emoji=False, highlight=False)
    width = max(found.width, min_width) if found.is_terminal else _PIPE_WIDTH
    return Console(markup=False, emoji=False, highlight=False, width=width)


def table(*columns: str, wraps: Container[str] = ()) -> Table:
    """Return an empty table that cuts nothing off. Where it is too narrow, the columns in `wraps` continue below."""
    made = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left")
    for column in columns:
        made.add_column(
            Text(column, no_wrap=False),
            no_wrap=column not in wraps,
            overflow="fold",
            justify="right" if column in _NUMBERS else "left",
        )
    return made


def add_row(to: Table, *values: object) -> None:
    """Add a row; `None` is an empty cell."""
    # A plain string would be cut in a column that does not wrap.
    to.add_row(*(Text("" if value is None else streams.plain(str(value)), no_wrap=False) for value in values))


def filled(cells: Cells[Row], rows: Sequence[Row], limit: int | None, *, wraps: Container[str]) -> Table:
    """Return a table of `rows` with a column for each of `cells`: at most `limit` rows, by default `MAX_IN_TABLE`."""
    made = table(*cells, wraps=wraps)
    shown = rows[: limit or MAX_IN_TABLE]
    for row in shown:
        add_row(made, *(cell(row) for cell in cells.values()))
    if len(rows) > len(shown):
        made.caption = f"the newest {len(shown)}: filter, use --limit for more, or --json for all"
    return made


def wanted_rows(limit: int | None, *, json: bool) -> int | None:
    """Return how many rows to read; `None`: all. For a table one more than it shows, so that it can say so."""
    return limit if json else (limit or MAX_IN_TABLE) + 1


def ago(moment: datetime | None) -> str | None:
    """Format how long ago a UTC time was, by this machine's clock."""
    if moment is None:
        return None
    seconds = round((datetime.now(UTC) - moment).total_seconds())
    span = abs(seconds)
    for unit, size, limit in (("s", 1, 60), ("min", 60, 60), ("h", 3_600, 48), ("days", 86_400, 0)):
        if not limit or span < size * limit:
            text = f"{span // size} {unit}"
            break
    return f"{text} ago" if seconds >= 0 else f"in {text}"


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
    text = streams.plain(str(found))
    return text if limit is None or len(text) <= limit else f"{text[: limit - 3]}..."


def flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return nested values by their dotted paths."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{path}{name}.") if isinstance(value, Mapping) else {path + name: value}
    return found


def is_unset(found: Any) -> bool:
    """Return whether a field has no value, or only fields without one."""
    if isinstance(found, Mapping):
        return all(map(is_unset, found.values()))
    return found is None or found in ("", ())


@contextmanager
def progress(total: int | None, what: str) -> Iterator[Progress]:
    """Show a bar on stderr if that is a terminal and the block takes over a second. One task, number 0.

    Needs a running event loop.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    bar.add_task(what, total=total)
    showing = asyncio.get_running_loop().call_later(1, bar.start)
    try:
        yield bar
    finally:
        showing.cancel()
        bar.stop()
