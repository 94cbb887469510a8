"""`guestledger resolve`: what a person decides about a session that is parked on an attempt in doubt."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from guestledger.adapters.cli import show
from guestledger.adapters.cli.options import Json, login, moment
from guestledger.adapters.cli.running import fail, run, say
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.errors import ResolutionRefused
from guestledger.engine.domain.outcomes import Adoption, Resolution, Verdict

_MAX_TOKEN = 64 * 1024

Expiry = Annotated[
    datetime | None,
    typer.Option(parser=moment, metavar="TIME", help="adopt: when CXone lets its token expire (UTC)."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="adopt: a file with the guest's token, - for stdin; never an argument, which others could see.",
        allow_dash=True,
    ),
]

commands = typer.Typer()


@commands.command()
def resolve(
    session: Annotated[str, typer.Argument(help="A parked session, by its id.")],
    decision: Annotated[str, typer.Argument(metavar="retry|abandon|adopt", help="What is to become of it.")],
    reason: Annotated[str, typer.Option(help="Why; kept with the decision. No personal data.")],
    session_id: Annotated[
        str | None, typer.Option(help="adopt: the id of the session that you found at CXone.")
    ] = None,
    expires_at: Expiry = None,
    token_file: TokenFile = None,
    by: Annotated[str | None, typer.Option("--by", help="Who decides; kept. Default: the login's name.")] = None,
    json: Json = False,
) -> None:
    """Decide about a parked session: attempt it again, give it up, or adopt what you found at CXone. Exit code 1 if refused.

    Without its token an adopted session is accounted for and expires, but no guest can be let in with it from here.
    """
    resolution = _resolution(decision, session_id, expires_at, token_file)
    raise typer.Exit(run(_resolve(session, resolution, by or login(), reason, json=json)))


async def _resolve(session: str, resolution: Resolution, decided_by: str, reason: str, *, json: bool) -> int:
    async with connect(Settings.from_env(), scheduler=False) as ledger:
        try:
            found = await ledger.resolve(session, resolution, decided_by=decided_by, reason=reason)
        except ResolutionRefused as error:
            say(str(error))
            return 1
    if json:
        show.write_json({"id": found.id, "sessionId": found.session_id, "status": found.status})
    else:
        goes_on = ": `guestledger worker` attempts it again" if resolution is Verdict.RETRY else ""
        say(f"session {found.id} is {found.status}{goes_on}")
    return 0


def _resolution(
    decision: str, session_id: str | None, expires_at: datetime | None, token_file: Path | None
) -> Resolution:
    if decision == "adopt":
        if session_id is None or expires_at is None:
            raise typer.BadParameter("adopt needs --session-id and --expires-at", param_hint="DECISION")
        token = None if token_file is None else _token(token_file)
        return Adoption(session_id=session_id, expires_at=expires_at, guest_token=token)
    if session_id is not None or expires_at is not None or token_file is not None:
        raise typer.BadParameter("--session-id, --expires-at and --token-file go with adopt", param_hint="DECISION")
    try:
        return Verdict(decision)
    except ValueError:
        raise typer.BadParameter("is one of retry, abandon and adopt", param_hint="DECISION") from None


def _token(file: Path) -> str:
    """The first line of a file or of stdin. What is wrong with it is told without it."""
    try:
        if str(file) == "-":
            given = sys.stdin.buffer.read(_MAX_TOKEN)
        else:
            with file.open("rb") as opened:
                given = opened.read(_MAX_TOKEN)
        return given.decode("ascii").strip()
    except UnicodeDecodeError:
        fail("the token is not ASCII text")
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}")
