"""`guestledger sessions`, `metrics` and `audit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.table import Table

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.messages import session_reason
from guestledger.adapters.cli.options import Channel, Json, Limit, Since, Until, choice
from guestledger.adapters.cli.running import reading, run

commands = typer.Typer()
_OUTCOMES = ("created", "refused", "rejected", "abandoned", "withdrawn")
_WRAPS = ("channel", "remote session", "reason")


@commands.command()
def sessions(
    channel: Channel = None,
    status: Annotated[
        list[str] | None, typer.Option(help="Only this status, such as active or parked. Repeatable.")
    ] = None,
    in_doubt: Annotated[
        bool, typer.Option("--in-doubt", help="Only those with an attempt still in doubt, whatever came after it.")
    ] = False,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """List the sessions, newest first. `--since` and `--until` are about when they were opened."""

    async def read() -> None:
        wanted = guestledger.SessionFilter(
            channel_id=channel,
            statuses=tuple(choice(guestledger.Status, text, "--status") for text in status or ()),
            since=since,
            until=until,
            in_doubt=in_doubt,
            newest_first=True,
            limit=show.wanted_rows(limit, json=json),
        )
        async with reading() as ledger:
            rows = ledger.sessions(wanted)
            if json:
                async for row in rows:
                    show.write_json(show.camel_json(row))
                return
            found = [row async for row in rows]
        console = show.console()
        console.print(show.filled(_session_cells(console.width), found, limit, wraps=_WRAPS))

    run(read())


@commands.command()
def metrics(channel: Channel = None, since: Since = None, until: Until = None, json: Json = False) -> None:
    """Show success rate, latency and counts. Times are truncated to minutes."""

    async def read() -> None:
        wanted = guestledger.MetricsFilter(channel_id=channel, since=since, until=until)
        async with reading() as ledger:
            found = await ledger.metrics(wanted)
        if json:
            show.write_json(_metrics_json(found))
        else:
            show.console().print(metrics_table(found))

    run(read())


@commands.command()
def audit(
    channel: Channel = None,
    since: Since = None,
    until: Until = None,
    status: Annotated[
        str | None, typer.Option(help="Only this compliance status, such as verified or refused.")
    ] = None,
    session: Annotated[str | None, typer.Option(help="Only this session, by either of its ids.")] = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """Show the audit log, newest first. `--json` is in the contract's format and contains IP addresses."""

    async def read() -> None:
        wanted_status = None if status is None else choice(guestledger.ComplianceStatus, status, "--status")
        async with reading() as ledger:
            stream_id = None if session is None else (await ledger.session(session)).id
            wanted = guestledger.AuditFilter(
                channel_id=channel,
                since=since,
                until=until,
                status=wanted_status,
                id=stream_id,
                newest_first=True,
                limit=show.wanted_rows(limit, json=json),
            )
            entries = ledger.audit(wanted)
            if json:
                async for entry in entries:
                    show.write_json(guestledger.contract_form(entry))
                return
            found = [entry async for entry in entries]
        console = show.console()
        console.print(show.filled(_audit_cells(console.width), found, limit, wraps=_WRAPS))

    run(read())


def metrics_table(metrics: guestledger.Metrics) -> Table:
    """Return the metrics, one a row."""
    made = show.table("metric", "value")
    show.add_row(made, "success rate", f"{metrics.success_rate:.2f}")
    show.add_row(made, "sessions tracked", metrics.tracked)
    if metrics.pending is not None:
        show.add_row(made, "still pending", metrics.pending)
        show.add_row(made, "attempts still in doubt", metrics.in_doubt)
        show.add_row(made, "possible duplicates", metrics.possible_duplicates)
    if metrics.latency is not None:
        show.add_row(made, "average latency", f"{metrics.latency.average:.0f} ms")
        for name in ("p50", "p95", "p99"):
            show.add_row(made, f"{name} latency", f"{getattr(metrics.latency, name)} ms")
    for name, count in metrics.counts.items():
        show.add_row(made, name.replace("_", " "), count)
    return made


def _metrics_json(metrics: guestledger.Metrics) -> dict[str, Any]:
    latency = metrics.latency
    return {
        "successRate": round(metrics.success_rate, 2),
        "averageLatency": None if latency is None else round(latency.average, 1),
        "totalTracked": metrics.tracked,
        "latency": None if latency is None else {"p50": latency.p50, "p95": latency.p95, "p99": latency.p99},
        "pending": metrics.pending,
        "inDoubt": metrics.in_doubt,
        "possibleDuplicates": metrics.possible_duplicates,
        "outcomes": {name: metrics.counts[name] for name in _OUTCOMES},
        "counts": metrics.counts,
    }


def _session_cells(width: int) -> show.Cells[guestledger.SessionRow]:
    cells: dict[str, Callable[[guestledger.SessionRow], object]] = {
        "id": lambda row: row.id,
        "status": lambda row: row.status,
        "opened": lambda row: show.ago(row.opened_at),
        "channel": lambda row: row.channel_id,
    }
    if width >= show.WIDE:
        cells |= {
            "ms": lambda row: row.latency_ms,
            "remote session": lambda row: row.session_id,
            "opened at": lambda row: show.time(row.opened_at),
            "attempts": lambda row: row.attempts,
            "in doubt": lambda row: ", ".join(map(str, row.in_doubt)) or None,
            "erased": lambda row: show.time(row.contact_erased_at),
        }
    cells["reason"] = session_reason
    return cells


def _audit_cells(width: int) -> show.Cells[guestledger.AuditEntry]:
    """Without IP address and fingerprint: `--json` has those."""
    cells: dict[str, Callable[[guestledger.AuditEntry], object]] = {
        "id": lambda entry: entry.id,
        "compliance": lambda entry: entry.compliance_status,
        "recorded": lambda entry: show.ago(entry.timestamp),
    }
    if width >= show.WIDE:
        cells |= {
            "time": lambda entry: show.time(entry.timestamp),
            "channel": lambda entry: entry.channel_id,
            "remote session": lambda entry: entry.session_id,
            "consent": lambda entry: "recorded" if entry.consent_recorded else "refused",
            "token expires": lambda entry: show.time(entry.token_expiry),
            "ms": lambda entry: entry.initialization_latency_ms,
            "erased": lambda entry: show.time(entry.erased_at),
        }
    return cells
