"""`guestledger find`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated

import typer

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.messages import session_reason
from guestledger.adapters.cli.options import (
    Channel,
    Fingerprint,
    Ip,
    Json,
    Subject,
    around,
    choice,
    guest_filter,
    span,
)
from guestledger.adapters.cli.running import reading, run, say

commands = typer.Typer()
_WRAPS = ("channel", "event", "why")
_DEFAULT_LIMIT = 20


@commands.command()
def find(
    around_: Annotated[
        datetime | None,
        typer.Option(
            "--around",
            parser=around,
            metavar="TIME",
            help="Something happened to it around this time: 02:14 (the last one, UTC), 02:14+02:00, a full time, "
            "or '2 hours ago'.",
        ),
    ] = None,
    within: Annotated[
        timedelta | None,
        typer.Option(parser=span, metavar="SPAN", help="How far from --around, such as 30s or 2h. Default: 10m."),
    ] = None,
    ip: Ip = None,
    fingerprint: Fingerprint = None,
    subject: Subject = None,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="Only this session: the engine's id or the provider's.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Only the session with this idempotency key. Needs the encryption key.")
    ] = None,
    correlation: Annotated[
        str | None, typer.Option(metavar="ID", help="Only with this correlation id. Needs --around.")
    ] = None,
    channel: Channel = None,
    status: Annotated[
        list[str] | None, typer.Option(help="Only with this status now, such as throttled. Repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="At most this many.")] = _DEFAULT_LIMIT,
    json: Json = False,
) -> None:
    """Find the session that a complaint is about, nearest to the time first. Shows no personal data.

    Exit code 1: none was found.
    """
    if within is not None and around_ is None:
        raise typer.BadParameter("goes only with --around", param_hint="--within")
    try:
        wanted = guestledger.FindFilter(
            around=around_,
            within=within or timedelta(minutes=10),
            guest=guest_filter(subject, ip, fingerprint),
            session=session,
            idempotency_key=key,
            correlation_id=correlation,
            channel_id=channel,
            statuses=tuple(choice(guestledger.Status, text, "--status") for text in status or ()),
            limit=limit + 1,
        )
    except ValueError as error:
        hint = "; `guestledger sessions` lists by channel and status" if around_ is None else ""
        raise typer.BadParameter(f"{error}{hint}", param_hint="--around") from None
    run(_find(wanted, limit, json=json))


async def _find(wanted: guestledger.FindFilter, limit: int, *, json: bool) -> None:
    async with reading() as ledger:
        findings = await ledger.find(wanted)
    if not findings.found:
        say(_nothing(wanted, findings.earlier))
        raise typer.Exit(1)
    found = findings.found[:limit]
    if json:
        from guestledger.adapters.forms.finding import found_form

        for one in found:
            show.write_json(found_form(one, wanted.around))
        return
    _show(wanted, found, more=len(findings.found) > limit)


def _show(wanted: guestledger.FindFilter, found: tuple[guestledger.FoundSession, ...], *, more: bool) -> None:
    console = show.console()
    if wanted.around is not None:
        console.print(f"around {show.time(wanted.around)}, {_between(wanted)} (all times are UTC)", soft_wrap=True)
    cells = _cells(wanted, console.width)
    made = show.table(*cells, wraps=_WRAPS)
    for one in found:
        show.add_row(made, *(cell(one) for cell in cells.values()))
    if more:
        made.caption = f"the first {len(found)}: narrow it down, or use --limit"
    console.print(made)
    session = found[0].session.id if len(found) == 1 else "ID"
    after = f"next: `guestledger replay {session}` shows what happened, `guestledger why {session}` what it waits for"
    console.print(after, soft_wrap=True)


def _cells(wanted: guestledger.FindFilter, width: int) -> show.Cells[guestledger.FoundSession]:
    moment, wide = wanted.around, width >= show.WIDE
    cells: dict[str, Callable[[guestledger.FoundSession], object]] = {
        "id": lambda one: one.session.id,
        "status": lambda one: one.session.status,
    }
    if wide:
        cells["began"] = lambda one: show.time(one.session.opened_at)
    cells["event"] = lambda one: one.event
    if wide or moment is None:
        cells["at"] = lambda one: show.time(one.recorded_at)
    if moment is not None:
        cells["from then"] = lambda one: _distance(one, moment)
    if wide:
        cells["channel"] = lambda one: one.session.channel_id
    cells["why"] = lambda one: session_reason(one.session)
    return cells


def _nothing(wanted: guestledger.FindFilter, earlier: guestledger.FoundSession | None) -> str:
    """Say what was looked at."""
    names = {
        "of this guest": wanted.guest,
        "with this id": wanted.session,
        "with this idempotency key": wanted.idempotency_key,
        f"with the correlation id {wanted.correlation_id!r}": wanted.correlation_id,
        f"on channel {wanted.channel_id!r}": wanted.channel_id,
        f"with status {' or '.join(wanted.statuses)}": wanted.statuses,
    }
    which = "".join(f" {words}" for words, given in names.items() if given)
    if wanted.around is None:
        return f"there is no session{which}: what was erased, or is of another ledger, cannot be found"
    text = f"no session{which} had an event {_between(wanted)}"
    if earlier is None:
        return f"{text}: try a longer --within"
    return f"{text}; nearest earlier one: {earlier.session.id}, {earlier.event} at {show.time(earlier.recorded_at)}"


def _between(wanted: guestledger.FindFilter) -> str:
    return f"between {show.time(wanted.since)} and {show.time(wanted.until)}"


def _distance(one: guestledger.FoundSession, moment: datetime) -> str:
    seconds = (one.recorded_at - moment).total_seconds()
    return f"{abs(seconds):.0f} s {'after' if seconds >= 0 else 'before'}"
