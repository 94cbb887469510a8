"""`guestledger events` and `consumers`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from datetime import date
from typing import Annotated, Any

import typer
from rich.table import Table

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.csv_lines import CsvLines
from guestledger.adapters.cli.options import (
    Csv,
    Fingerprint,
    Format,
    Ip,
    Json,
    Looker,
    Reason,
    RevealIt,
    Since,
    Subject,
    Until,
    chosen_format,
    chosen_reveal,
    guest_filter,
)
from guestledger.adapters.cli.running import fail, opened, run

commands = typer.Typer()


@commands.command()
def events(
    after: Annotated[int, typer.Option(min=-1, max=2**62, help="Start after this position.")] = -1,
    type_: Annotated[list[str] | None, typer.Option("--type", help="Only this event type. Repeatable.")] = None,
    since: Since = None,
    until: Until = None,
    follow: Annotated[bool, typer.Option("--follow", help="Then wait for new events, until interrupted.")] = False,
    actor: Annotated[
        str | None, typer.Option(help="Only what this person or process recorded, such as ops-jane.")
    ] = None,
    subject: Subject = None,
    ip: Ip = None,
    fingerprint: Fingerprint = None,
    reveal: RevealIt = False,
    reason: Reason = None,
    by: Looker = None,
    limit: Annotated[int | None, typer.Option(min=1, max=2**62, help="End after this many.")] = None,
    json: Json = False,
    csv: Csv = False,
) -> None:
    """Print the event log in order. Personal data is masked, except for `--reveal` with `--json` or `--csv`."""
    form = chosen_format(json=json, csv=csv)
    wanted_reveal = chosen_reveal(reason, by, reveal=reveal)
    if reveal and form is Format.TABLE:
        raise typer.BadParameter(
            "goes only with --json or --csv: the lines for people hold no data", param_hint="--reveal"
        )
    guest = guest_filter(subject, ip, fingerprint)
    try:
        wanted = guestledger.EventFilter(types=tuple(type_ or ()), since=since, until=until, actor=actor, guest=guest)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--type") from None
    if follow and until is not None:
        raise typer.BadParameter("does not go with --follow", param_hint="--until")
    work = _events(after, wanted, wanted_reveal, _Lines(limit, form), follow=follow)
    run(_until_signalled(work) if follow else work)


@commands.command()
def consumers(
    json: Json = False,
    forget: Annotated[
        str | None, typer.Option(metavar="NAME", help="Delete the checkpoint of a consumer that no longer exists.")
    ] = None,
    set_back: Annotated[
        str | None,
        typer.Option("--set-back", metavar="NAME", help="Let a consumer continue that was ahead of a log set back."),
    ] = None,
    to: Annotated[
        int | None,
        typer.Option(min=-1, max=2**62, help="With --set-back: after this position, by default its checkpoint."),
    ] = None,
) -> None:
    """List the named consumers of the log: the position of each, and how many events follow it.

    A consumer that is ahead had read events that the log lost with the restoring of an older backup. It stands still until
    it is set back.
    """
    if to is not None and set_back is None:
        raise typer.BadParameter("goes only with --set-back", param_hint="--to")
    run(_consumers(forget, set_back, to, json=json))


async def _events(
    after: int,
    wanted: guestledger.EventFilter,
    reveal: guestledger.Reveal | None,
    lines: _Lines,
    *,
    follow: bool,
) -> None:
    async with opened() as ledger:
        look = None if reveal is None else ledger.look(reveal)
        if follow:
            async for batch in ledger.events.tail(after=after, wanted=wanted):
                if not await lines.write(batch.events, look):
                    break
        else:
            async for found in ledger.events.read(after=after, wanted=wanted):
                if not await lines.write(found, look):
                    break


async def _consumers(forget: str | None, set_back: str | None, to: int | None, *, json: bool) -> None:
    async with opened() as ledger:
        if forget is not None and not await ledger.events.forget_consumer(forget):
            fail(f"there is no consumer {forget!r}: `guestledger consumers` lists them")
        if set_back is not None and not await ledger.events.set_consumer_back(set_back, to):
            fail(f"there is no consumer {set_back!r}: `guestledger consumers` lists them")
        rows = await ledger.events.consumers()
    if json:
        for row in rows:
            show.write_json(row)
    else:
        show.console().print(_table(rows))


async def _until_signalled(work: Coroutine[Any, Any, None]) -> None:
    with suppress(asyncio.CancelledError):
        await work


class _Lines:
    def __init__(self, limit: int | None, form: Format) -> None:
        self._left = limit
        self._day: date | None = None
        self._row: Callable[[Any], None] | None = show.write_json if form is Format.JSON else None
        if form is Format.CSV:
            from guestledger.adapters.forms.camel import camel_fields
            from guestledger.adapters.forms.events import EventForm

            self._row = CsvLines(camel_fields(EventForm)).write

    async def write(self, events: Sequence[guestledger.RecordedEvent], look: guestledger.Look | None) -> bool:
        """Write these, one a line; people get a line for each new day too. False: no more are wanted."""
        from guestledger.adapters.forms.events import event_form
        from guestledger.engine.log.codec import wire_name

        events = events[: self._left]
        self._left = None if self._left is None else self._left - len(events)
        for recorded in events if look is None else await look.events(events):
            if self._row is not None:
                self._row(event_form(recorded, revealed=look is not None))
                continue
            day = recorded.recorded_at.date()
            if day != self._day:
                self._day = day
                sys.stdout.write(f"{day} (UTC)\n")
            time = recorded.recorded_at.time().isoformat("milliseconds")
            name = wire_name(recorded.event)
            sys.stdout.write(f"{recorded.position:7} {time} {recorded.stream_id} {recorded.version:2} {name}\n")
        sys.stdout.flush()
        return self._left != 0


def _table(rows: Iterable[guestledger.ConsumerRow]) -> Table:
    table = show.table("consumer", "position", "lag", "running", "ahead at", wraps=("consumer",))
    for row in rows:
        show.add_row(table, row.name, row.position, row.lag, "yes" if row.running else "no", row.ahead_at)
    return table
