"""Options that several commands share."""

import getpass
import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, TypeVar

import typer

Choice = TypeVar("Choice", bound=StrEnum)


_AGO = re.compile(
    r"(\d+) ?(?:(s|sec|seconds?)|(m|min|minutes?)|(h|hours?)|(d|days?)|(w|weeks?))(?: ago)?", re.ASCII | re.IGNORECASE
)
_UNITS = ("seconds", "minutes", "hours", "days", "weeks")


def moment(text: str) -> datetime:
    """Parse a time (UTC unless it has an offset), or a span before now such as `2 days ago` or `90m`.

    Raise `typer.BadParameter`.
    """
    try:
        if ago := _AGO.fullmatch(text.strip()):
            unit = next(name for name, given in zip(_UNITS, ago.groups()[1:], strict=True) if given)
            return datetime.now(UTC) - timedelta(**{unit: int(ago[1])})
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time such as 2024-05-20T14:22:00Z or '2 days ago'") from None
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is not within the years 1 to 9999 in UTC") from None


def choice(kind: type[Choice], text: str, option: str) -> Choice:
    """Parse a code of the engine. Raise `typer.BadParameter`."""
    try:
        return kind(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(kind)}", param_hint=option) from None


def check_person(subject: str | None, session: str | None) -> None:
    """Raise `typer.BadParameter` unless exactly one of the two is given."""
    if (subject is None) == (session is None):
        raise typer.BadParameter("give one of --subject and --session", param_hint="--subject")


def login() -> str:
    """Return the name of the user who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "command line"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Channel = Annotated[str | None, typer.Option(help="Only this channel.")]
Since = Annotated[
    datetime | None, typer.Option(parser=moment, metavar="TIME", help="From this time on: UTC, or '2 days ago'.")
]
Until = Annotated[
    datetime | None, typer.Option(parser=moment, metavar="TIME", help="Before this time: UTC, or '2 days ago'.")
]
Limit = Annotated[int | None, typer.Option(min=1, max=2**31, help="At most this many. Default: 1,000 in a table.")]
By = Annotated[str | None, typer.Option("--by", help="Who decides, for the history. Default: the login name.")]
Subject = Annotated[str | None, typer.Option(metavar="ID", help="The person, by the `subjectId` of their requests.")]
SessionOption = Annotated[
    str | None, typer.Option("--session", metavar="ID", help="One session: the engine's id or the provider's.")
]
Session = Annotated[str, typer.Argument(help="The session's id: the engine's or the provider's.")]
