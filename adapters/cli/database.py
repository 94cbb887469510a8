"""`guestledger db`: the database that holds the ledger."""

import typer

from guestledger.adapters.cli.running import run, say
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import stop_database, upgrade_database

commands = typer.Typer(no_args_is_help=True, help="The database.")


@commands.command("upgrade")
def upgrade() -> None:
    """Make the ledger's schema, or bring it up to this release."""

    async def upgraded() -> None:
        settings = Settings.from_env()
        await upgrade_database(settings)
        say(f"the ledger in schema {settings.schema} is up to date")

    run(upgraded())


@commands.command("stop")
def stop() -> None:
    """Shut the embedded database down. The next command starts it again."""

    async def stop_it() -> None:
        stopped = await stop_database(Settings.from_env())
        say("the embedded database is shut down" if stopped else "the embedded database was not running")

    run(stop_it())
