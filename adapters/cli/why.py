"""`guestledger why`: what a session waits for, and when that will move."""

from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from guestledger.adapters.cli import show
from guestledger.adapters.cli.options import Json
from guestledger.adapters.cli.running import run
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.operations.explain import Explanation

commands = typer.Typer()


@commands.command()
def why(
    session: Annotated[str, typer.Argument(help="The session, by either of its ids.")],
    json: Json = False,
) -> None:
    """Say what a session waits for now, and when that will move. To be run with the settings that the workers have."""
    run(_why(session, json=json))


async def _why(session: str, *, json: bool) -> None:
    async with connect(Settings.from_env(), scheduler=False) as ledger:
        waiting = await ledger.why(session)
    if json:
        show.write_json(_waiting_json(waiting))
    else:
        _tell(waiting, show.console())


def _waiting_json(waiting: Explanation) -> dict[str, Any]:
    return {
        "id": waiting.id,
        "status": waiting.status,
        "next": waiting.step,
        "now": waiting.now,
        "holds": waiting.holds,
        "movesAt": waiting.moves_at,
        "deadline": waiting.deadline,
        "outlook": waiting.outlook,
    }


def _tell(waiting: Explanation, console: Console) -> None:
    """A line on where it stands, one for each thing that holds it, then what comes next. Times are UTC."""
    lines = [f"session {waiting.id} is {waiting.status}, at {_time(waiting.now)} (all times are UTC)"]
    for held in waiting.holds:
        until = f" until {_time(held.until)}" if held.until else ""
        lines.append(f"held by {held.by}{until}: {held.reason}")
    if waiting.moves_at is not None:
        lines.append(f"moves at {_time(waiting.moves_at)}" if waiting.holds else "due now")
    if waiting.deadline is not None:
        lines.append(f"deadline {_time(waiting.deadline)}")
    for line in (*lines, waiting.outlook):
        console.print(line, soft_wrap=True)


def _time(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")
