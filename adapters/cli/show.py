"""How things are shown: tables for a person, JSON for a program. Neither shows more personal data than was asked for."""

import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from engine.domain.events import wire_name
from engine.domain.personal import public
from engine.projections.audit import AuditEntry
from engine.projections.metrics import Metrics
from engine.projections.sessions import SessionRow
from engine.replay import Frame

MOST_IN_TABLE = 1_000


def write_json(value: Any) -> None:
    """One line of JSON on stdout."""
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


async def session_table(rows: AsyncIterator[SessionRow]) -> Table:
    """Sessions, one a row."""
    table = _table("id", "status", "channel", "CXone's session", "opened", "attempts", "ms", "reason")
    async for row in _first(rows, table):
        latency = "" if row.latency_ms is None else str(row.latency_ms)
        table.add_row(
            str(row.id),
            row.status,
            row.channel_id,
            row.session_id,
            _time(row.opened_at),
            str(row.attempts),
            latency,
            row.reason,
        )
    return table


async def audit_table(entries: AsyncIterator[AuditEntry]) -> Table:
    """Audit entries, one a row, without the guest's address and fingerprint: `--json` shows those."""
    table = _table("id", "compliance", "channel", "CXone's session", "time", "consent", "gdpr", "token expires", "ms")
    async for entry in _first(entries, table):
        latency = "" if entry.initialization_latency_ms is None else str(entry.initialization_latency_ms)
        table.add_row(
            str(entry.id),
            entry.compliance_status,
            entry.channel_id,
            entry.session_id,
            _time(entry.timestamp),
            "recorded" if entry.consent_recorded else "refused",
            "yes" if entry.gdpr_compliant else "no",
            _time(entry.token_expiry),
            latency,
        )
    return table


def metrics_table(metrics: Metrics) -> Table:
    """The metrics, one figure a row."""
    table = _table("metric", "value")
    table.add_row("success rate", f"{metrics.success_rate:.2f}")
    table.add_row("sessions tracked", str(metrics.tracked))
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


def timeline(frames: Sequence[Frame]) -> Table:
    """A session's history, one event a row: what happened, where it led, and what was next."""
    table = _table("v", "recorded at", "event", "state", "next", "not before")
    day = frames[0].recorded.recorded_at.date()
    table.title = f"{frames[0].state.id}, {day} (UTC)"
    for frame in frames:
        step, not_before = _next(frame)
        table.add_row(
            str(frame.recorded.version),
            _time(frame.recorded.recorded_at, day),
            wire_name(frame.recorded.event),
            frame.state.status,
            step,
            _time(not_before, day),
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
    """A bar on stderr, for as long as the block lasts; nothing where stderr is no terminal. One task, number 0."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        bar.add_task(what, total=total)
        yield bar


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(
            column,
            no_wrap=column in ("id", "event", "next", "status", "state"),
            overflow="fold",
            justify="right" if column in ("ms", "attempts", "v") else "left",
        )
    return table


async def _first(rows: AsyncIterator[Any], table: Table) -> AsyncIterator[Any]:
    number = 0
    async for row in rows:
        number += 1
        if number > MOST_IN_TABLE:
            table.caption = f"the first {MOST_IN_TABLE}: filter, or use --json for all"
            return
        yield row


def _time(moment: datetime | None, day: date | None = None) -> str | None:
    """A time in UTC, to the millisecond; without its date where that is `day`."""
    if moment is None:
        return None
    text = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}"
    return text if moment.date() == day else f"{moment:%Y-%m-%d} {text}"
