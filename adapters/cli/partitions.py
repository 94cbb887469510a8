"""`guestledger partitions`: the parts that the log is stored in, and taking old ones out of it."""

from datetime import date, datetime
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.table import Table

from guestledger.adapters.cli import show
from guestledger.adapters.cli.options import Json
from guestledger.adapters.cli.running import run, say
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect, open_archive
from guestledger.engine.ports.partitions import Partition

commands = typer.Typer(no_args_is_help=True, help="The months that the log is stored in.")


def _month(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m").date()  # noqa: DTZ007 - a month is a month
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a month such as 2026-11") from None


Which = Annotated[date, typer.Argument(parser=_month, metavar="MONTH", help="Such as 2026-11.")]


@commands.command("list")
def list_all(json: Json = False) -> None:
    """List the months of the log, oldest first; last, what no month was made for, which is to be empty."""

    async def listed() -> list[Partition]:
        async with connect(Settings.from_env(), scheduler=False) as ledger:
            return await ledger.months()

    found = run(listed())
    if json:
        for month in found:
            show.write_json(
                {
                    "month": month.month and f"{month.month:%Y-%m}",
                    "attached": month.attached,
                    "firstPosition": month.first_position,
                    "lastPosition": month.last_position,
                    "bytes": month.bytes,
                }
            )
    else:
        show.console().print(_table(found))


@commands.command()
def detach(month: Which) -> None:
    """Take a month that is over out of the log. Its table stays, to be dumped and dropped; sessions, audit log and metrics
    keep what they say of it.
    """

    async def detached() -> int:
        async with open_archive(Settings.from_env()) as archive:
            return (await archive.detach(month)).events

    say(f"{month:%Y-%m} is detached, {run(detached())} events, each as it was recorded")


@commands.command()
def attach(month: Which) -> None:
    """Bring a detached month back into the log, if its table holds just what was detached."""

    async def attached() -> int:
        async with open_archive(Settings.from_env()) as archive:
            return (await archive.attach(month)).events

    say(f"{month:%Y-%m} is attached, {run(attached())} events, just as they were detached")


@commands.command()
def settle() -> None:
    """Make the months that are missing for events that are in the log, and move those there."""

    async def settled() -> int:
        async with open_archive(Settings.from_env()) as archive:
            return await archive.settle()

    say(f"{run(settled())} events moved into months of their own")


def _table(found: list[Partition]) -> Table:
    table = show.table("month", "first position", "last", "size", "state", wraps=("state",))
    for month in found:
        show.add_row(
            table,
            f"{month.month:%Y-%m}" if month.month else "none",
            month.first_position,
            month.last_position,
            None if month.bytes is None else decimal(month.bytes),
            _state(month),
        )
    return table


def _state(month: Partition) -> str:
    if not month.attached:
        return "detached" if month.bytes is not None else "detached, not in this database"
    if month.month is None and month.first_position is not None:
        return "not empty: `guestledger partitions settle`"
    return "attached"
