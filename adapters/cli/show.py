"""Output: tables for people, JSON for programs, progress on stderr."""

import asyncio
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from guestledger.adapters.cli import streams
from guestledger.adapters.forms.values import ago, flat, is_unset, span, time, value

__all__ = [
    "MAX_IN_TABLE",
    "WIDE",
    "Cells",
    "add_row",
    "ago",
    "camel_fields",
    "camel_json",
    "console",
    "filled",
    "flat",
    "is_unset",
    "progress",
    "span",
    "table",
    "time",
    "value",
    "wanted_rows",
    "write_json",
    "write_line",
]

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
    from guestledger.adapters.forms import camel

    return camel.camel_json(struct)


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
