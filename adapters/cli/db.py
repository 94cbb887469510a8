"""`guestledger db`: the ledger's database."""

from __future__ import annotations

import typer

import guestledger
from guestledger.adapters.cli.running import opened, run, say

commands = typer.Typer(no_args_is_help=True, help="Create, upgrade or stop the database.")


@commands.command()
def upgrade() -> None:
    """Create the ledger's schema, or upgrade it to this release."""

    async def upgrade_it() -> None:
        settings = guestledger.Settings.from_env()
        await guestledger.upgrade_database(settings)
        say(f"the ledger in schema {settings.schema} is up to date")

    run(upgrade_it())


@commands.command()
def restored() -> None:
    """Say that an older backup was restored: the log begins another life, and consumers stop until they are set back."""

    async def begin() -> None:
        async with opened() as ledger:
            incarnation = await ledger.events.begin_incarnation()
            head, consumers = await ledger.events.head(), await ledger.events.consumers()
        say(f"the log continues after position {head}, in its life {incarnation}")
        for row in consumers:
            say(
                f"consumer {row.name!r} had read position {row.ahead_at} or more and stands at {row.position}: "
                f"`guestledger consumers --set-back {row.name}` once what it feeds is put right"
            )

    run(begin())


@commands.command()
def stop() -> None:
    """Stop the embedded database. The next command starts it again."""

    async def stop_it() -> None:
        stopped = await guestledger.stop_database(guestledger.Settings.from_env())
        say("the embedded database is stopped" if stopped else "the embedded database was not running")

    run(stop_it())
