"""Options that several commands have, and how their values are read."""

import getpass
from datetime import UTC, datetime
from typing import Annotated

import typer


def moment(text: str) -> datetime:
    """A time in UTC, which it is in where it does not say. Raises `typer.BadParameter`."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time such as 2024-05-20T14:22:00Z") from None
    try:
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is not a time of the years 1 to 9999 in UTC") from None


def login() -> str:
    """The name of who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "command line"


Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for a program.")]
Channel = Annotated[str | None, typer.Option(help="Only this channel.")]
Since = Annotated[datetime | None, typer.Option(parser=moment, metavar="TIME", help="From this time on (UTC).")]
Until = Annotated[datetime | None, typer.Option(parser=moment, metavar="TIME", help="Before this time (UTC).")]
