"""`guestledger partitions`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.table import Table

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.options import Json
from guestledger.adapters.cli.running import opened, run, say

commands = typer.Typer(no_args_is_help=True, help="List, detach and attach the monthly partitions of the log.")


def _month(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m").date()  # noqa: DTZ007 - a month has no time zone
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a month such as 2026-11") from None


Month = Annotated[date, typer.Argument(parser=_month, metavar="MONTH", help="Such as 2026-11.")]


@commands.command("list")
def list_all(json: Json = False) -> None:
    """List the partitions, oldest first; last the one for unpartitioned events, normally empty."""

    async def read() -> None:
        async with opened() as ledger:
            found = await ledger.partitions.list()
        if not json:
            show.console().print(_table(found))
            return
        for partition in found:
            show.write_json(
                {
                    "month": partition.month and f"{partition.month:%Y-%m}",
                    "attached": partition.attached,
                    "firstPosition": partition.first_position,
                    "lastPosition": partition.last_position,
                    "bytes": partition.bytes,
                }
            )

    run(read())


@commands.command()
def detach(month: Month) -> None:
    """Detach a past month from the log. Its table remains, to be dumped and dropped. Sessions, audit log and metrics
    keep its data.
    """
    from guestledger.adapters.database import open_archive

    async def detach_it() -> None:
        async with open_archive(guestledger.Settings.from_env()) as archive:
            detached = await archive.detach(month)
        say(f"{month:%Y-%m} is detached: {detached.events} events, verified against their hashes")

    run(detach_it())


@commands.command()
def attach(month: Month) -> None:
    """Attach a detached month again, if its table holds exactly the events that were detached."""
    from guestledger.adapters.database import open_archive

    async def attach_it() -> None:
        async with open_archive(guestledger.Settings.from_env()) as archive:
            attached = await archive.attach(month)
        say(f"{month:%Y-%m} is attached: {attached.events} events, the same that were detached")

    run(attach_it())


@commands.command()
def settle() -> None:
    """Create the missing partitions of unpartitioned events and move the events there."""
    from guestledger.adapters.database import open_archive

    async def settle_them() -> None:
        async with open_archive(guestledger.Settings.from_env()) as archive:
            moved = await archive.settle()
        say(f"{moved} events moved into new partitions")

    run(settle_them())


def _table(found: Sequence[guestledger.Partition]) -> Table:
    table = show.table("month", "first position", "last", "size", "state", wraps=("state",))
    for partition in found:
        show.add_row(
            table,
            f"{partition.month:%Y-%m}" if partition.month else "none",
            partition.first_position,
            partition.last_position,
            None if partition.bytes is None else decimal(partition.bytes),
            _state(partition),
        )
    return table


def _state(partition: guestledger.Partition) -> str:
    if not partition.attached:
        return "detached" if partition.bytes is not None else "detached, not in this database"
    if partition.month is None and partition.first_position is not None:
        return "not empty: `guestledger partitions settle`"
    return "attached"
