"""`guestledger why`."""

from __future__ import annotations

import typer

from guestledger.adapters.cli import show
from guestledger.adapters.cli.condition_lines import lines
from guestledger.adapters.cli.options import Json, Session
from guestledger.adapters.cli.running import opened, run
from guestledger.adapters.cli.streams import plain

commands = typer.Typer()


@commands.command()
def why(session: Session, json: Json = False) -> None:
    """Show every condition that a session's next steps need: met or not, what helps, and when each step moves.

    Run it with the workers' settings.
    """

    async def explain() -> None:
        async with opened() as ledger:
            found = await ledger.why(session)
        if json:
            show.write_json(show.camel_json(found))
            return
        console = show.console()
        for line in lines(found):
            console.print(plain(line), soft_wrap=True)

    run(explain())
