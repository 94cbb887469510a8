"""`guestledger replay`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.options import Json, Looker, Reason, RevealIt, Since, Until, chosen_reveal, moment
from guestledger.adapters.cli.running import fail, run

commands = typer.Typer()


def _version_or_moment(text: str) -> int | datetime:
    return int(text) if text.isdecimal() else moment(text)


@commands.command()
def replay(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SESSION|FILE|FILE#SESSION]...",
            help="A session: its id, the engine's or the provider's, or its bundle. With --check, bundle files and directories.",
        ),
    ] = None,
    at: Annotated[
        Any | None, typer.Option(parser=_version_or_moment, metavar="VERSION|TIME", help="Stop after this point.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Check that this release takes the decisions that were taken, in all sessions."),
    ] = False,
    since: Since = None,
    until: Until = None,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="With --check: in so many processes.")] = 1,
    allow: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --check: the kinds of divergence to accept, one a line.")
    ] = None,
    reveal: RevealIt = False,
    reason: Reason = None,
    by: Looker = None,
    json: Json = False,
) -> None:
    """Replay a session's history: each event, the state after it, and the due steps.

    A bundle needs no database. Personal data is masked, except for `--reveal` with `--json`. With `--check`, exit code 1 if a
    session diverges.
    """
    if check:
        if at is not None or reveal:
            raise typer.BadParameter("does not go with --check", param_hint="--reveal" if reveal else "--at")
        from guestledger.adapters.cli.check import check as check_all

        check_all(sources or [], since=since, until=until, jobs=jobs, allow=allow, json=json)
    _check_alone(since=since, until=until, jobs=jobs, allow=allow)
    if len(sources or []) != 1:
        raise typer.BadParameter("name one session; --check takes all", param_hint="SESSION")
    [source] = sources or []
    wanted_reveal = chosen_reveal(reason, by, reveal=reveal)
    if reveal and not json:
        raise typer.BadParameter("goes only with --json: the table holds no personal data", param_hint="--reveal")
    from guestledger.adapters.cli.sources import history_of
    from guestledger.engine.operations.replay import replay as frames_of
    from guestledger.engine.operations.replay import until as frames_until

    async def read() -> None:
        history, policies = await history_of(source, wanted_reveal)
        frames = frames_of(history, policies[0])
        wanted = frames if at is None else frames_until(frames, at)
        if not wanted:
            fail(f"session {source} had no event yet at {at}: its first was recorded {frames[0].recorded.recorded_at}")
        if json:
            show.write_json(_json(wanted, revealed=reveal))
        else:
            console = show.console()
            console.print(timeline(wanted, console.width))

    run(read())


def _check_alone(**given: object) -> None:
    """Refuse the options of --check without it."""
    for name, value in given.items():
        if value not in (None, 1):
            raise typer.BadParameter("goes only with --check", param_hint=f"--{name}")


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
    last = frames[-1]
    return {
        "id": last.state.id,
        "sessionId": last.state.session_id,
        "status": last.state.status,
        "version": last.state.version,
        "frames": [_frame_json(frame, revealed=revealed) for frame in frames],
    }


def _frame_json(frame: guestledger.Frame, *, revealed: bool) -> dict[str, Any]:
    from guestledger.engine.domain.personal import public
    from guestledger.engine.log.codec import wire_name

    return {
        "version": frame.recorded.version,
        "position": frame.recorded.position,
        "recordedAt": frame.recorded.recorded_at,
        "actor": frame.recorded.actor,
        "event": wire_name(frame.recorded.event),
        "data": public(frame.recorded.event, revealed=revealed),
        "state": public(frame.state, revealed=revealed),
        "due": [show.camel_json(step) for step in frame.due],
    }
