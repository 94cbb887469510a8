"""`guestledger replay`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.files import check_new, write_new
from guestledger.adapters.cli.options import Json, Looker, Reason, RevealIt, Since, Until, chosen_reveal, moment
from guestledger.adapters.cli.running import fail, run, say

commands = typer.Typer()


def version_or_moment(text: str) -> int | datetime:
    """Parse a version or a time. Raise `typer.BadParameter`."""
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
        Any | None, typer.Option(parser=version_or_moment, metavar="VERSION|TIME", help="Stop after this point.")
    ] = None,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B", help="Show what changed from A to B: versions or times. 0 is before the first event."
        ),
    ] = None,
    step: Annotated[
        bool, typer.Option("--step", help="Show each event in full. On a terminal: one by one, for the Enter key.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page for a ticket to this file: one file, no script.")
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
    """Replay a session: each event with its decision, what it changed, the due steps, and what the session waited for.

    Personal data is masked, except for `--reveal` with `--json` or `--html`. The file must not exist before. A bundle needs no
    database. With `--check`, exit code 1 if a session diverges.
    """
    if check:
        _refuse("does not go with --check", at=at, diff=diff, step=step, html=html, reveal=reveal)
        from guestledger.adapters.cli.check import check as check_all

        check_all(sources or [], since=since, until=until, jobs=jobs, allow=allow, json=json)
    _refuse("goes only with --check", since=since, until=until, jobs=jobs > 1, allow=allow)
    if len(sources or []) != 1:
        raise typer.BadParameter("name one session; --check takes all", param_hint="SESSION")
    [source] = sources or []
    wanted_reveal = chosen_reveal(reason, by, reveal=reveal)
    points = _points(diff)
    _check_output(json=json, step=step, diff=diff is not None, html=html is not None)
    if at is not None and diff is not None:
        raise typer.BadParameter("does not go with --diff, which has two points", param_hint="--at")
    if reveal and not json and html is None:
        raise typer.BadParameter(
            "goes only with --json or --html: what is printed for people holds no personal data", param_hint="--reveal"
        )
    if html is not None:
        check_new(html)

    async def work() -> None:
        frames = await _frames(source, wanted_reveal)
        if points is not None:
            _show_difference(frames, *points, json=json, revealed=reveal)
            return
        await _show(_wanted(frames, at, source), json=json, step=step, html=html, revealed=reveal)

    run(work(), interrupted="interrupted: nothing was changed")


async def _frames(source: str, reveal: guestledger.Reveal | None) -> Sequence[guestledger.Frame]:
    from guestledger.adapters.cli.sources import history_of
    from guestledger.engine.domain.errors import in_short
    from guestledger.engine.replay.timeline import timeline

    history, policies = await history_of(source, reveal)
    try:
        return timeline(history, policies)
    except Exception as error:  # noqa: BLE001 - such as an impossible history in a bundle: it can hold anything
        fail(f"{source} cannot be replayed by this release: {in_short(error, 'guestledger')}")


def _points(diff: tuple[str, str] | None) -> tuple[int | datetime, int | datetime] | None:
    try:
        return None if diff is None else (version_or_moment(diff[0]), version_or_moment(diff[1]))
    except typer.BadParameter as error:
        raise typer.BadParameter(error.message, param_hint="--diff") from None


def _refuse(why: str, **options: object) -> None:
    """Raise `typer.BadParameter` for the first option that is given."""
    for name, value in options.items():
        if value not in (None, False):
            raise typer.BadParameter(why, param_hint=f"--{name}")


def _check_output(**chosen: bool) -> None:
    names = [f"--{name}" for name, is_chosen in chosen.items() if is_chosen]
    if len(names) > 1 and names != ["--json", "--diff"]:
        raise typer.BadParameter(f"does not go with {names[0]}", param_hint=names[1])


def _wanted(
    frames: Sequence[guestledger.Frame], at: int | datetime | None, session: str
) -> Sequence[guestledger.Frame]:
    from guestledger.engine.replay.timeline import until

    wanted = frames if at is None else until(frames, at)
    if not wanted:
        fail(f"session {session} had no event yet at {at}: its first was recorded {frames[0].recorded.recorded_at}")
    return wanted


async def _show(
    frames: Sequence[guestledger.Frame], *, json: bool, step: bool, html: Path | None, revealed: bool
) -> None:
    if json:
        from guestledger.adapters.forms.frames import replay_form

        show.write_json(replay_form(frames, revealed=revealed))
    elif html is not None:
        from guestledger.adapters.pages.timeline import timeline_page

        write_new(html, timeline_page(frames, revealed=revealed).encode())
        say(f"{len(frames)} events written to {html}")
    else:
        from guestledger.adapters.cli.stepping import step_through
        from guestledger.adapters.cli.timeline import console, timeline

        out = console()
        if step:
            await step_through(frames, out)
        else:
            out.print(timeline(frames, out))


def _show_difference(
    frames: Sequence[guestledger.Frame], start: int | datetime, end: int | datetime, *, json: bool, revealed: bool
) -> None:
    from guestledger.engine.replay.timeline import diff

    found = diff(frames, start, end)
    if json:
        from guestledger.adapters.forms.frames import difference_form

        show.write_json(difference_form(found, revealed=revealed))
    else:
        from guestledger.adapters.cli.stepping import difference_page
        from guestledger.adapters.cli.timeline import console

        out = console()
        out.print(difference_page(found, out))
