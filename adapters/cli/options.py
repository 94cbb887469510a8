"""Options that several commands share."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, TypeVar

import typer

import guestledger
from guestledger.adapters.forms import times

Choice = TypeVar("Choice", bound=StrEnum)


Parsed = TypeVar("Parsed")


def moment(text: str) -> datetime:
    """Parse a time as `times.moment` does. Raise `typer.BadParameter`."""
    return _parsed(times.moment, text)


def span(text: str) -> timedelta:
    """Parse a span as `times.span` does. Raise `typer.BadParameter`."""
    return _parsed(times.span, text)


def around(text: str) -> datetime:
    """Parse a time as `times.around` does. Raise `typer.BadParameter`."""
    return _parsed(times.around, text)


def _parsed(parse: Callable[[str], Parsed], text: str) -> Parsed:
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


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


def host(text: str) -> str:
    """Return an address to listen on. Raise `typer.BadParameter` for an empty one, which would mean every address."""
    if not text:
        raise typer.BadParameter("is empty: name an address such as 127.0.0.1")
    return text


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
