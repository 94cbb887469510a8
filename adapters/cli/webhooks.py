"""`guestledger webhooks`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.error_lines import error_line
from guestledger.adapters.cli.options import By, Json, Limit, Since, Until, login
from guestledger.adapters.cli.running import opened, run, say
from guestledger.adapters.forms.messages import letter_reason

commands = typer.Typer(no_args_is_help=True, help="List failed webhook deliveries and send them again.")


@commands.command("list")
def list_all(since: Since = None, until: Until = None, limit: Limit = None, json: Json = False) -> None:
    """List the dead letters, newest first: notices whose delivery failed for good."""

    async def read() -> None:
        async with opened() as ledger:
            with show.progress(None, "reading the log"):
                letters = await ledger.webhooks.dead_letters()
        found = [
            letter
            for letter in reversed(letters)
            if (since is None or letter.abandoned_at >= since) and (until is None or letter.abandoned_at < until)
        ]
        if json:
            for letter in found[:limit]:
                show.write_json(show.camel_json(letter))
        else:
            console = show.console()
            console.print(show.filled(_cells(console.width), found, limit, wraps=("channel", "reason")))

    run(read())


@commands.command()
def redeliver(
    sessions: Annotated[
        list[str] | None, typer.Argument(metavar="[SESSION]...", help="The sessions, by either id.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
    reason: Annotated[
        str, typer.Option(help="Why, for the history. No personal data.")
    ] = "requested on the command line",
    by: By = None,
    json: Json = False,
) -> None:
    """Send notices again, with the ids they had; a worker sends them. Exit code 1 if one cannot be sent."""
    if bool(sessions) == everything:
        raise typer.BadParameter("name sessions, or give --all", param_hint="SESSION")
    refused = run(_redeliver(sessions or [], by or login(), reason, json=json))
    raise typer.Exit(1 if refused else 0)


async def _redeliver(sessions: list[str], requested_by: str, reason: str, *, json: bool) -> int:
    """Return how many requests were refused."""
    settings = guestledger.Settings.from_env()
    if settings.webhook_url is None:
        raise guestledger.InvalidSettings("GUESTLEDGER_WEBHOOK_URL is not set")
    refused = 0
    async with opened() as ledger:
        wanted = sessions or [str(letter.id) for letter in await ledger.webhooks.dead_letters()]
        with show.progress(len(wanted), "requesting") as bar:
            for session in wanted:
                refused += not await _requested(ledger, session, requested_by, reason, json=json)
                bar.advance(bar.task_ids[0])
    if not json:
        say(f"{len(wanted) - refused} notices are due again: `guestledger worker` sends them")
    return refused


async def _requested(ledger: guestledger.Ledger, session: str, requested_by: str, reason: str, *, json: bool) -> bool:
    try:
        found = await ledger.webhooks.redeliver(session, requested_by=requested_by, reason=reason)
    except (guestledger.RedeliveryRefused, guestledger.SessionNotFound, guestledger.UnknownEvent) as error:
        say(error_line(error))
        return False
    if json:
        show.write_json({"id": found.id, "sessionId": found.session_id, "dueAt": found.webhook_retry_at})
    return True


def _cells(width: int) -> show.Cells[guestledger.DeadLetter]:
    cells: dict[str, Callable[[guestledger.DeadLetter], object]] = {
        "id": lambda letter: letter.id,
        "given up": lambda letter: show.ago(letter.abandoned_at),
    }
    if width >= show.WIDE:
        cells |= {
            "at": lambda letter: show.time(letter.abandoned_at),
            "channel": lambda letter: letter.channel_id,
            "attempts": lambda letter: letter.attempts,
        }
    cells["reason"] = letter_reason
    return cells
