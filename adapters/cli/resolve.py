"""`guestledger resolve`."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.error_lines import error_line
from guestledger.adapters.cli.lines import UnreadableInput, read_text
from guestledger.adapters.cli.options import By, Json, Session, login, moment
from guestledger.adapters.cli.running import fail, opened, run, say

_MAX_TOKEN = 64 * 1024

commands = typer.Typer()


class Decision(StrEnum):
    """What to do with a parked session."""

    RETRY = "retry"
    ABANDON = "abandon"
    ADOPT = "adopt"


@commands.command()
def resolve(
    session: Session,
    decision: Annotated[Decision, typer.Argument(help="What to do with it.")],
    reason: Annotated[str, typer.Option(help="Why, for the history. No personal data.")],
    session_id: Annotated[str | None, typer.Option(help="adopt: the id of the session found at the provider.")] = None,
    expires_at: Annotated[
        datetime | None,
        typer.Option(parser=moment, metavar="TIME", help="adopt: when its token expires (UTC)."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="adopt: a file with the guest's token; - for stdin.", allow_dash=True),
    ] = None,
    by: By = None,
    json: Json = False,
) -> None:
    """Decide about a parked session: retry it, abandon it, or adopt the session found at the provider.

    An adopted session without a token is accounted for and expires, but no guest can use it. Exit code 1 if the decision
    is refused.
    """

    async def decide() -> int:
        resolution = await _resolution(decision, session_id, expires_at, token_file)
        return await _resolve(session, resolution, by or login(), reason, json=json)

    raise typer.Exit(run(decide()))


async def _resolve(
    session: str, resolution: guestledger.Resolution, decided_by: str, reason: str, *, json: bool
) -> int:
    async with opened() as ledger:
        try:
            found = await ledger.resolve(session, resolution, decided_by=decided_by, reason=reason)
        except guestledger.ResolutionRefused as error:
            say(error_line(error))
            return 1
    if json:
        show.write_json({"id": found.id, "sessionId": found.session_id, "status": found.status})
    else:
        next_step = ": `guestledger worker` retries it" if resolution is guestledger.Verdict.RETRY else ""
        say(f"session {found.id} is {found.status}{next_step}")
    return 0


async def _resolution(
    decision: Decision, session_id: str | None, expires_at: datetime | None, token_file: Path | None
) -> guestledger.Resolution:
    if decision is Decision.ADOPT:
        if session_id is None or expires_at is None:
            raise typer.BadParameter("adopt needs --session-id and --expires-at", param_hint="DECISION")
        token = None if token_file is None else await _token(token_file)
        return guestledger.Adoption(session_id=session_id, expires_at=expires_at, guest_token=token)
    if session_id is not None or expires_at is not None or token_file is not None:
        raise typer.BadParameter("--session-id, --expires-at and --token-file go with adopt", param_hint="DECISION")
    return guestledger.Verdict(decision)


async def _token(file: Path) -> str:
    """Read a token from a file or stdin. It is never an argument, which other users could see, nor in an error."""
    try:
        given = await read_text(file, _MAX_TOKEN)
    except UnreadableInput as error:
        fail(f"{file} cannot be read: {error}")
    if not given.isascii():
        fail("the token is not ASCII text")
    return given.strip()
