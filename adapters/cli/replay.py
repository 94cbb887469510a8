"""`guestledger replay`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.options import Json, Looker, Reason, RevealIt, Session, chosen_reveal, moment
from guestledger.adapters.cli.running import fail, reading, run

commands = typer.Typer()


def _version_or_moment(text: str) -> int | datetime:
    return int(text) if text.isdecimal() else moment(text)


@commands.command()
def replay(
    session: Session,
    at: Annotated[
        Any | None, typer.Option(parser=_version_or_moment, metavar="VERSION|TIME", help="Stop after this point.")
    ] = None,
    reveal: RevealIt = False,
    reason: Reason = None,
    by: Looker = None,
    json: Json = False,
) -> None:
    """Replay a session's history: each event, the state after it, and the due steps.

    Personal data is masked, except for `--reveal` with `--json`.
    """
    wanted_reveal = chosen_reveal(reason, by, reveal=reveal)
    if reveal and not json:
        raise typer.BadParameter("goes only with --json: the table holds no personal data", param_hint="--reveal")
    from guestledger.engine.operations.replay import until

    async def read() -> None:
        async with reading() as ledger:
            frames = await ledger.replay(session, reveal=wanted_reveal)
        wanted = frames if at is None else until(frames, at)
        if not wanted:
            fail(f"session {session} had no event yet at {at}: its first was recorded {frames[0].recorded.recorded_at}")
        if json:
            show.write_json(_json(wanted, revealed=reveal))
        else:
            console = show.console()
            console.print(timeline(wanted, console.width))

    run(read())


def timeline(frames: Sequence[guestledger.Frame], width: int) -> Table:
    """Return one event a row."""
    from guestledger.engine.log.codec import wire_name

    made = show.table("v", "recorded at", "event", "state", "next", "due at", wraps=("event",))
    day = frames[0].recorded.recorded_at.date()
    made.title = f"{frames[0].state.id}, {day} (UTC)"
    between = " " if width >= show.WIDE else "\n"
    for frame in frames:
        due = min(frame.due, key=lambda step: step.due_at, default=None)
        show.add_row(
            made,
            frame.recorded.version,
            show.time(frame.recorded.recorded_at, day, between),
            wire_name(frame.recorded.event),
            frame.state.status,
            due.step if due else None,
            show.time(due.due_at if due else None, day, between),
        )
    return made


def _json(frames: Sequence[guestledger.Frame], *, revealed: bool) -> dict[str, Any]:
    from guestledger.adapters.forms.events import frame_form

    last = frames[-1]
    return {
        "id": last.state.id,
        "sessionId": last.state.session_id,
        "status": last.state.status,
        "version": last.state.version,
        "frames": [frame_form(frame, revealed=revealed) for frame in frames],
    }
