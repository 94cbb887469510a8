"""`guestledger why`: what a session waits for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import typer

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.options import Json, Session
from guestledger.adapters.cli.running import opened, run

commands = typer.Typer()


@commands.command()
def why(session: Session, json: Json = False) -> None:
    """Show what a session waits for, and until when. Run it with the workers' settings."""

    async def explain() -> None:
        async with opened() as ledger:
            found = await ledger.why(session)
        if json:
            show.write_json(_json(found))
            return
        console = show.console()
        for line in _lines(found):
            console.print(line, soft_wrap=True)

    run(explain())


def _json(found: guestledger.Explanation) -> dict[str, Any]:
    return {
        "id": found.id,
        "status": found.status,
        "next": found.step,
        "now": found.now,
        "holds": found.holds,
        "movesAt": found.moves_at,
        "deadline": found.deadline,
        "outlook": found.outlook,
    }


def _lines(found: guestledger.Explanation) -> Iterator[str]:
    yield f"session {found.id} is {found.status}, at {_time(found.now)} (all times are UTC)"
    for blocker in found.holds:
        until = f" until {_time(blocker.until)}" if blocker.until else ""
        yield f"held by {blocker.by}{until}: {blocker.reason}"
    if found.moves_at is not None:
        yield f"moves at {_time(found.moves_at)}" if found.holds else "due now"
    if found.deadline is not None:
        yield f"deadline {_time(found.deadline)}"
    yield found.outlook


def _time(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")
