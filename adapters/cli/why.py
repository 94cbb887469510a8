"""`guestledger why`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import typer

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.messages import STEPS, blocker_sentence
from guestledger.adapters.cli.options import Json, Session
from guestledger.adapters.cli.running import opened, run
from guestledger.adapters.cli.streams import plain

commands = typer.Typer()


@commands.command()
def why(session: Session, json: Json = False) -> None:
    """Show what a session waits for, and until when. Run it with the workers' settings."""

    async def explain() -> None:
        async with opened() as ledger:
            found = await ledger.why(session)
        if json:
            show.write_json(show.camel_json(found))
            return
        console = show.console()
        for line in _lines(found):
            console.print(plain(line), soft_wrap=True)

    run(explain())


def _lines(found: guestledger.Explanation) -> Iterator[str]:
    yield f"session {found.id} is {found.status}, at {_time(found.now)} (all times are UTC)"
    if found.erased_at is not None:
        yield f"the guest's personal data was erased at {_time(found.erased_at)}"
    for blocker in found.blockers:
        yield f"  {_blocker(blocker)}"
    for step in found.steps:
        yield f"{step.step}: {STEPS.get(step.step, step.step.replace('_', ' '))}"
        for blocker in step.blockers:
            yield f"  {_blocker(blocker)}"
        if not step.blockers:
            yield "  due now, waits for a worker: `guestledger worker`"
        elif step.moves_at is not None:
            yield f"  moves at {_time(step.moves_at)}, if a worker runs"
    if found.deadline is not None:
        yield f"deadline {_time(found.deadline)}"
    if not found.steps and not found.blockers:
        yield "nothing more is due, ever"


def _blocker(blocker: guestledger.Blocker) -> str:
    until = f"until {_time(blocker.until)}: " if blocker.until else ""
    return until + blocker_sentence(blocker)


def _time(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")
