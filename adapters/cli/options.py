"""Options that several commands share."""

import getpass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, TypeVar

import typer

Choice = TypeVar("Choice", bound=StrEnum)


def moment(text: str) -> datetime:
    """Parse a time; UTC unless it has an offset. Raise `typer.BadParameter`."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time such as 2024-05-20T14:22:00Z") from None
    try:
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is not within the years 1 to 9999 in UTC") from None


def choice(kind: type[Choice], text: str, option: str) -> Choice:
    """Parse a code of the engine. Raise `typer.BadParameter`."""
    try:
        return kind(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(kind)}", param_hint=option) from None


def login() -> str:
    """Return the name of the user who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "command line"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Channel = Annotated[str | None, typer.Option(help="Only this channel.")]
Since = Annotated[datetime | None, typer.Option(parser=moment, metavar="TIME", help="From this time on (UTC).")]
Until = Annotated[datetime | None, typer.Option(parser=moment, metavar="TIME", help="Before this time (UTC).")]
By = Annotated[str | None, typer.Option("--by", help="Who decides, for the history. Default: the login name.")]
Session = Annotated[str, typer.Argument(help="The session's id: the engine's or the provider's.")]
