"""`guestledger webhooks`: the notices that were given up, and sending them anew."""

from typing import Annotated, Any

import typer
from rich.table import Table

from guestledger.adapters.cli import show
from guestledger.adapters.cli.options import Json, login
from guestledger.adapters.cli.running import run, say
from guestledger.adapters.settings import InvalidSettings, Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.errors import RedeliveryRefused, SessionNotFound, UnknownEvent
from guestledger.engine.ledger import Ledger
from guestledger.engine.operations.redeliver import DeadLetter

commands = typer.Typer(no_args_is_help=True, help="The analytics webhook: its dead letters, and redelivery.")

Reason = Annotated[str, typer.Option(help="Why; kept with the request. No personal data.")]
By = Annotated[str | None, typer.Option("--by", help="Who asks; kept with the request. Default: the login's name.")]


@commands.command("list")
def list_all(json: Json = False) -> None:
    """List the dead letters, oldest first: notices that were given up."""
    run(_list_all(json=json))


@commands.command("redeliver")
def redeliver(
    sessions: Annotated[list[str] | None, typer.Argument(metavar="[SESSION]...", help="By either id.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
    reason: Reason = "asked for on the command line",
    by: By = None,
    json: Json = False,
) -> None:
    """Have notices sent anew, with the ids they had: `guestledger worker` sends them. Exit code 1 when one cannot be."""
    if bool(sessions) == everything:
        raise typer.BadParameter("name sessions, or give --all", param_hint="SESSION")
    raise typer.Exit(run(_redeliver(sessions or [], by or login(), reason, json=json)))


async def _list_all(*, json: bool) -> None:
    async with connect(Settings.from_env(), scheduler=False) as ledger:
        with show.progress(None, "reading the log"):
            letters = await ledger.dead_letters()
    if json:
        for letter in letters:
            show.write_json(_letter_json(letter))
    else:
        console = show.console()
        console.print(_table(letters, console.width))


async def _redeliver(sessions: list[str], requested_by: str, reason: str, *, json: bool) -> int:
    """Ask for these, or for every dead letter where none is named; one line each. Returns 1 when any was refused, else 0."""
    settings = Settings.from_env()
    if settings.webhook_url is None:
        raise InvalidSettings("no webhook is set: set GUESTLEDGER_WEBHOOK_URL")
    refused = 0
    async with connect(settings, scheduler=False) as ledger:
        wanted = sessions or [str(letter.id) for letter in await ledger.dead_letters()]
        with show.progress(len(wanted), "asking") as bar:
            for session in wanted:
                refused += not await _asked(ledger, session, requested_by, reason, json=json)
                bar.advance(bar.task_ids[0])
    if not json:
        say(f"{len(wanted) - refused} notices are due again: `guestledger worker` sends them")
    return 1 if refused else 0


async def _asked(ledger: Ledger, session: str, requested_by: str, reason: str, *, json: bool) -> bool:
    try:
        found = await ledger.redeliver_webhook(session, requested_by=requested_by, reason=reason)
    except (RedeliveryRefused, SessionNotFound, UnknownEvent) as error:  # of this one: the others are to be asked for
        say(str(error))
        return False
    if json:
        show.write_json({"id": found.id, "sessionId": found.session_id, "dueAt": found.webhook_retry_at})
    return True


def _table(letters: list[DeadLetter], width: int) -> Table:
    more = ("channel", "attempts") if width >= show.WIDE else ()
    table = show.table("id", "given up", *more, "reason", wraps=("channel", "reason"))
    for letter in letters[: show.MAX_IN_TABLE]:
        given_up = f"{letter.abandoned_at:%Y-%m-%d %H:%M:%S}"
        values = (letter.channel_id, letter.attempts) if more else ()
        show.add_row(table, letter.id, given_up, *values, letter.reason)
    if len(letters) > show.MAX_IN_TABLE:
        table.caption = f"the first {show.MAX_IN_TABLE}: use --json for all"
    return table


def _letter_json(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "channelId": letter.channel_id,
        "abandonedAt": letter.abandoned_at,
        "attempts": letter.attempts,
        "status": letter.status,
        "reason": letter.reason,
    }
