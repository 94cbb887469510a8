"""Options that several commands share."""

from __future__ import annotations

import getpass
import re
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import Annotated, TypeVar

import typer

import guestledger

Choice = TypeVar("Choice", bound=StrEnum)


_AGO = re.compile(
    r"(\d+) ?(?:(s|sec|seconds?)|(m|min|minutes?)|(h|hours?)|(d|days?)|(w|weeks?))(?: ago)?", re.ASCII | re.IGNORECASE
)
_TIME_OF_DAY = re.compile(r"(\d{1,2}):\d\d(?::\d\d)?(?:Z|[+-]\d\d:?\d\d)?", re.ASCII | re.IGNORECASE)
_UNITS = ("seconds", "minutes", "hours", "days", "weeks")


def moment(text: str) -> datetime:
    """Parse a time (UTC unless it has an offset), or a span before now such as `2 days ago` or `90m`.

    Raise `typer.BadParameter`.
    """
    try:
        if (ago := _span(text)) is not None:
            return datetime.now(UTC) - ago
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time such as 2024-05-20T14:22:00Z or '2 days ago'") from None
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is not within the years 1 to 9999 in UTC") from None


def span(text: str) -> timedelta:
    """Parse a span such as `10m` or `2 hours`. Raise `typer.BadParameter`."""
    try:
        found = None if text.strip().endswith("ago") else _span(text)
    except OverflowError:
        found = None
    if not found:
        raise typer.BadParameter(f"{text!r} is not a span such as 10m or '2 hours'")
    return found


def around(text: str) -> datetime:
    """Parse a time of day, such as `02:14` or `02:14+02:00`: the latest one that has passed. Else as `moment`."""
    given = _TIME_OF_DAY.fullmatch(text.strip())
    if given is None:
        return moment(text)
    try:
        wanted = time.fromisoformat(given[0] if len(given[1]) == 2 else f"0{given[0]}")
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time of day such as 02:14 or 02:14+02:00") from None
    now = datetime.now(UTC)
    today = datetime.combine(now.astimezone(wanted.tzinfo or UTC).date(), wanted, wanted.tzinfo or UTC)
    return (today if today <= now else today - timedelta(days=1)).astimezone(UTC)


def _span(text: str) -> timedelta | None:
    given = _AGO.fullmatch(text.strip())
    if given is None:
        return None
    unit = next(name for name, found in zip(_UNITS, given.groups()[1:], strict=True) if found)
    return timedelta(**{unit: int(given[1])})


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


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def chosen_format(*, json: bool, csv: bool) -> Format:
    """Return the format of the output. Raise `typer.BadParameter` for both options."""
    if json and csv:
        raise typer.BadParameter("does not go with --json", param_hint="--csv")
    return Format.CSV if csv else Format.JSON if json else Format.TABLE


def guest_filter(subject: str | None, ip: str | None, fingerprint: str | None) -> guestledger.GuestFilter:
    """Return which guest is wanted. Raise `typer.BadParameter`."""
    try:
        return guestledger.GuestFilter(subject_id=subject, ip_address=ip, fingerprint=fingerprint)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--ip") from None


def chosen_reveal(reason: str | None, by: str | None, *, reveal: bool) -> guestledger.Reveal | None:
    """Return why personal data is shown, if it is. Raise `typer.BadParameter`."""
    if not reveal:
        if reason is not None or by is not None:
            raise typer.BadParameter("goes only with --reveal", param_hint="--reason" if reason else "--by")
        return None
    if reason is None:
        raise typer.BadParameter("needs --reason, which is recorded in the log", param_hint="--reveal")
    try:
        return guestledger.Reveal(reason=reason, by=by or login())
    except guestledger.InvalidRequest as error:
        raise typer.BadParameter(error.reason, param_hint=f"--{error.field}") from None


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Csv = Annotated[
    bool, typer.Option("--csv", help="Print CSV. Cells that a spreadsheet would compute begin with an apostrophe.")
]
Subject = Annotated[
    str | None, typer.Option("--subject", help="Only this person, by the subjectId of the requests. Needs the key.")
]
Ip = Annotated[str | None, typer.Option("--ip", help="Only guests from this IP address. Needs the key.")]
Fingerprint = Annotated[
    str | None, typer.Option("--fingerprint", help="Only the guest with this fingerprint. Needs the key.")
]
RevealIt = Annotated[
    bool, typer.Option("--reveal", help="Show contact data in clear. Who looked, and why, is recorded in the log.")
]
Reason = Annotated[str | None, typer.Option("--reason", help="With --reveal: why, for the log. No personal data.")]
Looker = Annotated[str | None, typer.Option("--by", help="With --reveal: who looks. Default: the login name.")]
Channel = Annotated[str | None, typer.Option(help="Only this channel.")]
Since = Annotated[
    datetime | None, typer.Option(parser=moment, metavar="TIME", help="From this time on: UTC, or '2 days ago'.")
]
Until = Annotated[
    datetime | None, typer.Option(parser=moment, metavar="TIME", help="Before this time: UTC, or '2 days ago'.")
]
Limit = Annotated[int | None, typer.Option(min=1, max=2**31, help="At most this many. Default: 1,000 in a table.")]
By = Annotated[str | None, typer.Option("--by", help="Who decides, for the history. Default: the login name.")]
Person = Annotated[str | None, typer.Option(metavar="ID", help="The person, by the `subjectId` of their requests.")]
SessionOption = Annotated[
    str | None, typer.Option("--session", metavar="ID", help="One session: the engine's id or the provider's.")
]
Session = Annotated[str, typer.Argument(help="The session's id: the engine's or the provider's.")]
