"""`guestledger sessions` and `metrics`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from rich.table import Table

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.csv_lines import CsvLines
from guestledger.adapters.cli.options import (
    Channel,
    Csv,
    Fingerprint,
    Format,
    Ip,
    Json,
    Limit,
    Since,
    Subject,
    Until,
    choice,
    chosen_format,
    guest_filter,
)
from guestledger.adapters.cli.running import reading, run
from guestledger.adapters.forms.messages import session_reason

commands = typer.Typer()
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
    subject: Subject = None,
    ip: Ip = None,
    fingerprint: Fingerprint = None,
    limit: Limit = None,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """List the sessions, newest first. `--since` and `--until` are about when they were opened."""
    form = chosen_format(json=json, csv=csv)

    async def read() -> None:
        wanted = guestledger.SessionFilter(
            channel_id=channel,
            statuses=tuple(choice(guestledger.Status, text, "--status") for text in status or ()),
            since=since,
            until=until,
            in_doubt=in_doubt,
            guest=guest_filter(subject, ip, fingerprint),
            newest_first=True,
            limit=show.wanted_rows(limit, json=form is not Format.TABLE),
        )
        async with reading() as ledger:
            rows = ledger.sessions(wanted)
            if form is not Format.TABLE:
                write = (
                    show.write_json
                    if form is Format.JSON
                    else CsvLines(show.camel_fields(guestledger.SessionRow)).write
                )
                async for row in rows:
                    write(show.camel_json(row))
                return
            found = [row async for row in rows]
        console = show.console()
        console.print(show.filled(_session_cells(console.width), found, limit, wraps=_WRAPS))

    run(read())


@commands.command()
def metrics(
    channel: Channel = None,
    since: Since = None,
    until: Until = None,
    by_day: Annotated[bool, typer.Option("--by-day", help="One row for each day (UTC) and channel.")] = False,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="With --by-day: print CSV.")] = False,
) -> None:
    """Show success rate, latency and counts. Times are truncated to minutes."""
    form = chosen_format(json=json, csv=csv)
    if csv and not by_day:
        raise typer.BadParameter("goes only with --by-day", param_hint="--csv")

    async def read() -> None:
        wanted = guestledger.MetricsFilter(channel_id=channel, since=since, until=until)
        async with reading() as ledger:
            if by_day:
                _show_days(await ledger.projections.metrics_by_day(wanted), form)
                return
            found = await ledger.metrics(wanted)
        if json:
            from guestledger.adapters.forms.metrics import metrics_form

            show.write_json(metrics_form(found))
        else:
            show.console().print(metrics_table(found))

    run(read())


def metrics_table(metrics: guestledger.Metrics) -> Table:
    """Return the metrics, one a row."""
    from guestledger.adapters.forms.metrics import PERCENTILES

    made = show.table("metric", "value")
    show.add_row(made, "success rate", f"{metrics.success_rate:.2f}")
    show.add_row(made, "sessions tracked", metrics.tracked)
    if metrics.pending is not None:
        show.add_row(made, "still pending", metrics.pending)
        show.add_row(made, "attempts still in doubt", metrics.in_doubt)
        show.add_row(made, "possible duplicates", metrics.possible_duplicates)
    if metrics.latency is not None:
        show.add_row(made, "average latency", f"{metrics.latency.average:.0f} ms")
        for name in PERCENTILES:
            show.add_row(made, f"{name} latency", f"{getattr(metrics.latency, name)} ms")
    for name, count in metrics.counts.items():
        show.add_row(made, name.replace("_", " "), count)
    return made


def _show_days(found: list[guestledger.DailyMetrics], form: Format) -> None:
    from guestledger.adapters.forms.camel import camel_fields
    from guestledger.adapters.forms.metrics import OUTCOMES, PERCENTILES, DayForm, day_form

    if form is Format.TABLE:
        made = show.table("day", "channel", "tracked", *OUTCOMES, "average ms", *PERCENTILES, wraps=_WRAPS)
        for day in map(day_form, found):
            numbers = (
                day.total_tracked,
                *(getattr(day, name) for name in (*OUTCOMES, "average_latency", *PERCENTILES)),
            )
            show.add_row(made, day.day, day.channel_id, *numbers)
        show.console().print(made)
        return
    write = show.write_json if form is Format.JSON else CsvLines(camel_fields(DayForm)).write
    for row in found:
        write(day_form(row))


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
