"""How things are shown: tables for a person, JSON for a program. Neither shows more personal data than was asked for."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any, TypeVar

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from guestledger.engine.domain.personal import public
from guestledger.engine.log.codec import wire_name
from guestledger.engine.operations.replay import Frame
from guestledger.engine.projections.audit import AuditEntry
from guestledger.engine.projections.metrics import Metrics
from guestledger.engine.projections.sessions import SessionRow

MAX_IN_TABLE = 1_000
WIDE = 160
_NARROWEST, _PIPED = 80, 240
_NUMBERS = {"ms", "attempts", "v", "position", "behind", "for s", "lag", "first position", "last", "size"}

Shown = TypeVar("Shown")


def write_json(value: Any) -> None:
    """One line of JSON on stdout."""
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def console() -> Console:
    """Stdout for a person: what is printed comes out as it stands, for it holds what guests and servers chose.

    Where it is no terminal, it is wide enough for most rows to stay on their line. No table is made for less than 80 columns: a
    terminal that has less wraps it by itself.
    """
    found = Console(markup=False, emoji=False, highlight=False)
    width = max(found.width, _NARROWEST) if found.is_terminal else _PIPED
    return Console(markup=False, emoji=False, highlight=False, width=width)


def table(*columns: str, wraps: Container[str] = ()) -> Table:
    """A table that cuts nothing off, to be filled by `add_row`.

    Where it is too narrow, the columns of `wraps` go on in a next line; as all those are to whose texts others set the length,
    for the others keep theirs.
    """
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
    """Add a row of these values, each as it stands; `None` is shown as nothing."""
    # A plain string in a column that does not wrap would be cut where there is no room even for those.
    to.add_row(*(Text("" if value is None else str(value), no_wrap=False) for value in values))


async def session_table(rows: AsyncIterator[SessionRow], width: int) -> Table:
    """Sessions, one a row; a narrow terminal gets the columns that matter most."""
    cells: dict[str, Callable[[SessionRow], object]] = {
        "id": lambda row: row.id,
        "status": lambda row: row.status,
        "channel": lambda row: row.channel_id,
        "ms": lambda row: row.latency_ms,
    }
    if width >= WIDE:
        cells |= {
            "CXone's session": lambda row: row.session_id,
            "opened": lambda row: _time(row.opened_at),
            "attempts": lambda row: row.attempts,
        }
    cells["reason"] = lambda row: row.reason
    return await _filled(cells, rows)


async def audit_table(entries: AsyncIterator[AuditEntry], width: int) -> Table:
    """Audit entries, one a row, without the guest's address and fingerprint: `--json` shows those."""
    cells: dict[str, Callable[[AuditEntry], object]] = {
        "id": lambda entry: entry.id,
        "compliance": lambda entry: entry.compliance_status,
        "time": lambda entry: _time(entry.timestamp),
    }
    if width >= WIDE:
        cells |= {
            "channel": lambda entry: entry.channel_id,
            "CXone's session": lambda entry: entry.session_id,
            "consent": lambda entry: "recorded" if entry.consent_recorded else "refused",
            "token expires": lambda entry: _time(entry.token_expiry),
            "ms": lambda entry: entry.initialization_latency_ms,
        }
    return await _filled(cells, entries)


def session_json(row: SessionRow) -> dict[str, Any]:
    """A session as one object, its fields named as in every other output."""
    return {_camel(name): value for name, value in msgspec.structs.asdict(row).items()}


def metrics_table(metrics: Metrics) -> Table:
    """The metrics, one figure a row."""
    made = table("metric", "value")
    add_row(made, "success rate", f"{metrics.success_rate:.2f}")
    add_row(made, "sessions tracked", metrics.tracked)
    if metrics.pending is not None:
        add_row(made, "still pending", metrics.pending)
    if metrics.latency is not None:
        add_row(made, "average latency", f"{metrics.latency.average:.0f} ms")
        for name in ("p50", "p95", "p99"):
            add_row(made, f"{name} latency", f"{getattr(metrics.latency, name)} ms")
    for name, count in metrics.counts.items():
        add_row(made, name.replace("_", " "), count)
    return made


def metrics_json(metrics: Metrics) -> dict[str, Any]:
    """The contract's three metrics, and what they are made of."""
    latency = metrics.latency
    return {
        "successRate": round(metrics.success_rate, 2),
        "averageLatency": None if latency is None else round(latency.average, 1),
        "totalTracked": metrics.tracked,
        "latency": None if latency is None else {"p50": latency.p50, "p95": latency.p95, "p99": latency.p99},
        "pending": metrics.pending,
        "outcomes": {name: metrics.counts[name] for name in ("created", "refused", "rejected", "abandoned")},
        "counts": metrics.counts,
    }


def timeline(frames: Sequence[Frame], width: int) -> Table:
    """A session's history, one event a row: what happened, where it led, and what was next.

    In a narrow terminal another day's date stands above its time, and the longest name takes a second line.
    """
    made = table("v", "recorded at", "event", "state", "next", "not before", wraps=("event",))
    day = frames[0].recorded.recorded_at.date()
    made.title = f"{frames[0].state.id}, {day} (UTC)"
    between = " " if width >= WIDE else "\n"
    for frame in frames:
        step, not_before = _next(frame)
        add_row(
            made,
            frame.recorded.version,
            _time(frame.recorded.recorded_at, day, between),
            wire_name(frame.recorded.event),
            frame.state.status,
            step,
            _time(not_before, day, between),
        )
    return made


def replay_json(frames: Sequence[Frame]) -> dict[str, Any]:
    """A session's history as one object, personal data masked."""
    last = frames[-1]
    return {
        "id": last.state.id,
        "sessionId": last.state.session_id,
        "status": last.state.status,
        "version": last.state.version,
        "frames": [_frame_json(frame) for frame in frames],
    }


def _frame_json(frame: Frame) -> dict[str, Any]:
    step, not_before = _next(frame)
    return {
        "version": frame.recorded.version,
        "position": frame.recorded.position,
        "recordedAt": frame.recorded.recorded_at,
        "actor": frame.recorded.actor,
        "event": wire_name(frame.recorded.event),
        "data": public(frame.recorded.event),
        "state": public(frame.state),
        "next": None if step is None else {"step": step, "notBefore": not_before},
    }


def _next(frame: Frame) -> tuple[str | None, datetime | None]:
    return (None, None) if frame.next is None else (type(frame.next).__name__, frame.next.not_before)


@contextmanager
def progress(total: int | None, what: str) -> Iterator[Progress]:
    """A bar on stderr, from one second on until the block ends; nothing where stderr is no terminal. One task, number 0.

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


async def _filled(cells: Mapping[str, Callable[[Shown], object]], rows: AsyncIterator[Shown]) -> Table:
    made = table(*cells, wraps=("channel", "CXone's session", "reason"))
    async for row in rows:
        if made.row_count == MAX_IN_TABLE:
            made.caption = f"the first {MAX_IN_TABLE}: filter, or use --json for all"
            break
        add_row(made, *(cell(row) for cell in cells.values()))
    return made


def _time(moment: datetime | None, day: date | None = None, between: str = " ") -> str | None:
    """A time in UTC, to the millisecond; without its date, and what goes between the two, where that is `day`."""
    if moment is None:
        return None
    text = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}"
    return text if moment.date() == day else f"{moment:%Y-%m-%d}{between}{text}"


def _camel(name: str) -> str:
    first, *more = name.split("_")
    return first + "".join(map(str.capitalize, more))
