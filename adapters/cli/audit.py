"""`guestledger audit`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

import typer

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
    Looker,
    Reason,
    RevealIt,
    Since,
    Subject,
    Until,
    choice,
    chosen_format,
    chosen_reveal,
    guest_filter,
    moment,
)
from guestledger.adapters.cli.running import reading, run
from guestledger.adapters.forms.messages import decision_words

commands = typer.Typer()
_WRAPS = ("channel", "remote session", "notice", "refused", "decision", "user agent")


@commands.command()
def audit(
    channel: Channel = None,
    status: Annotated[
        str | None, typer.Option(help="Only this compliance status, such as verified or refused.")
    ] = None,
    opened_since: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="Requests made from this time on.")
    ] = None,
    opened_until: Annotated[
        datetime | None, typer.Option(parser=moment, metavar="TIME", help="Requests made before this time.")
    ] = None,
    since: Since = None,
    until: Until = None,
    session: Annotated[str | None, typer.Option(help="Only this session, by either of its ids.")] = None,
    subject: Subject = None,
    ip: Ip = None,
    fingerprint: Fingerprint = None,
    consented: Annotated[bool, typer.Option("--consented", help="Only those whose consent was sufficient.")] = False,
    notice: Annotated[str | None, typer.Option(help="Only guests who were shown this privacy notice.")] = None,
    refused_flag: Annotated[
        str | None, typer.Option(help="Only refusals for this consent flag: dataProcessing or gdprCompliant.")
    ] = None,
    webhook: Annotated[
        list[str] | None,
        typer.Option(help="Only this state of the notice: not_owed, owed, delivered or failed. Repeatable."),
    ] = None,
    in_doubt: Annotated[
        bool, typer.Option("--in-doubt", help="Only those with an attempt that was in doubt at some time.")
    ] = False,
    parked: Annotated[
        bool, typer.Option("--parked", help="Only those that waited for a person's decision at some time.")
    ] = False,
    decided_by: Annotated[str | None, typer.Option(help="Only those that this person decided about last.")] = None,
    reveal: RevealIt = False,
    reason: Reason = None,
    by: Looker = None,
    limit: Limit = None,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """Show the audit log, newest request first. `--since` and `--until` are about when the outcome was recorded.

    JSON and CSV are in the contract's format, with more fields behind. IP address and fingerprint are empty without
    `--reveal`.
    """
    form = chosen_format(json=json, csv=csv)
    wanted_reveal = chosen_reveal(reason, by, reveal=reveal)
    wanted = guestledger.AuditFilter(
        channel_id=channel,
        status=None if status is None else choice(guestledger.ComplianceStatus, status, "--status"),
        opened_since=opened_since,
        opened_until=opened_until,
        since=since,
        until=until,
        guest=guest_filter(subject, ip, fingerprint),
        consent_recorded=consented or None,
        notice=notice,
        refused_flag=refused_flag,
        webhook=tuple(choice(guestledger.WebhookState, text, "--webhook") for text in webhook or ()),
        doubted=in_doubt,
        parked=parked,
        decided_by=decided_by,
        session=session,
        newest_first=True,
        limit=show.wanted_rows(limit, json=form is not Format.TABLE),
    )
    run(_audit(wanted, wanted_reveal, form, limit))


async def _audit(
    wanted: guestledger.AuditFilter,
    reveal: guestledger.Reveal | None,
    form: Format,
    limit: int | None,
) -> None:
    async with reading() as ledger:
        if form is not Format.TABLE:
            write = show.write_json if form is Format.JSON else CsvLines(guestledger.CONTRACT_FIELDS).write
            async for entry in ledger.audit(wanted, reveal=reveal):
                write(guestledger.contract_form(entry))
            return
        found = [entry async for entry in ledger.audit(wanted)]
        if reveal is not None:  # of what is shown, and no more
            shown = limit or show.MAX_IN_TABLE
            found = [*await ledger.look(reveal).entries(found[:shown]), *found[shown:]]
    console = show.console()
    console.print(show.filled(_cells(console.width, revealed=reveal is not None), found, limit, wraps=_WRAPS))


def _cells(width: int, *, revealed: bool) -> show.Cells[guestledger.AuditEntry]:
    cells: dict[str, Callable[[guestledger.AuditEntry], object]] = {
        "id": lambda entry: entry.id,
        "compliance": lambda entry: entry.compliance_status,
        "opened": lambda entry: show.ago(entry.opened_at),
    }
    if revealed:
        cells |= {
            "address": lambda entry: _clear(entry, "ip_address"),
            "subject": lambda entry: _clear(entry, "subject_id"),
        }
    if width >= show.WIDE:
        cells |= {
            "opened at": lambda entry: show.time(entry.opened_at),
            "outcome at": lambda entry: show.time(entry.timestamp),
            "channel": lambda entry: entry.channel_id,
            "remote session": lambda entry: entry.session_id,
            "ms": lambda entry: entry.initialization_latency_ms,
            "erased": lambda entry: show.time(entry.erased_at),
        }
    cells |= {
        "notice": lambda entry: entry.notice,
        "refused": lambda entry: ", ".join(entry.refused_flags) or None,
        "webhook": lambda entry: entry.webhook if entry.session_id else None,
        "decision": decision_words,
    }
    return cells


def _clear(entry: guestledger.AuditEntry, field: str) -> str | None:
    value = getattr(entry.guest, field, None)
    return "erased" if isinstance(value, guestledger.Sealed) else value
