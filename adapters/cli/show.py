"""How things are shown: tables for a person, JSON for a program. Neither shows more personal data than was asked for."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any, TypeVar

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from engine.domain.personal import public
from engine.domain.wire import wire_name
from engine.projections.audit import AuditEntry
from engine.projections.metrics import Metrics
from engine.projections.sessions import SessionRow
from engine.replay import Frame

MOST_IN_TABLE = 1_000
_WIDE = 120

Shown = TypeVar("Shown")


def write_json(value: Any) -> None:
    """One line of JSON on stdout."""
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def console() -> Console:
    """Stdout for a person; where it is no terminal, wide enough for every row to stay on its line."""
    found = Console()
    return found if found.is_terminal else Console(width=2 * _WIDE)


async def session_table(rows: AsyncIterator[SessionRow], width: int) -> Table:
    """Sessions, one a row; a narrow terminal gets the columns that matter most."""
    cells: dict[str, Callable[[SessionRow], object]] = {
        "id": lambda row: row.id,
        "status": lambda row: row.status,
        "channel": lambda row: row.channel_id,
        "ms": lambda row: row.latency_ms,
    }
    if width >= _WIDE:
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
    if width >= _WIDE:
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
    table = _table("metric", "value")
    table.add_row("success rate", f"{metrics.success_rate:.2f}")
    table.add_row("sessions tracked", str(metrics.tracked))
    if metrics.pending is not None:
        table.add_row("still pending", str(metrics.pending))
    if metrics.latency is not None:
        table.add_row("average latency", f"{metrics.latency.average:.0f} ms")
        for name in ("p50", "p95", "p99"):
            table.add_row(f"{name} latency", f"{getattr(metrics.latency, name)} ms")
    for name, count in metrics.counts.items():
        table.add_row(name.replace("_", " "), str(count))
    return table


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
    table = _table("v", "recorded at", "event", "state", "next", "not before")
    day = frames[0].recorded.recorded_at.date()
    table.title = f"{frames[0].state.id}, {day} (UTC)"
    between = " " if width >= _WIDE else "\n"
    for frame in frames:
        step, not_before = _next(frame)
        table.add_row(
            str(frame.recorded.version),
            _time(frame.recorded.recorded_at, day, between),
            wire_name(frame.recorded.event),
            frame.state.status,
            step,
            _time(not_before, day, between),
        )
    return table


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
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    bar.add_task(what, total=total)
    showing = asyncio.get_running_loop().call_later(1, bar.start)
    try:
        yield bar
    finally:
        showing.cancel()
        bar.stop()


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(
            column,
            no_wrap=column not in ("reason", "channel", "event"),
            overflow="fold",
            justify="right" if column in ("ms", "attempts", "v") else "left",
        )
    return table


async def _filled(cells: Mapping[str, Callable[[Shown], object]], rows: AsyncIterator[Shown]) -> Table:
    table = _table(*cells)
    async for row in rows:
        if table.row_count == MOST_IN_TABLE:
            table.caption = f"the first {MOST_IN_TABLE}: filter, or use --json for all"
            break
        values = (cell(row) for cell in cells.values())
        table.add_row(*("" if value is None else str(value) for value in values))
    return table


def _time(moment: datetime | None, day: date | None = None, between: str = " ") -> str | None:
    """A time in UTC, to the millisecond; without its date, and what goes between the two, where that is `day`."""
    if moment is None:
        return None
    text = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}"
    return text if moment.date() == day else f"{moment:%Y-%m-%d}{between}{text}"


def _camel(name: str) -> str:
    first, *more = name.split("_")
    return first + "".join(map(str.capitalize, more))
