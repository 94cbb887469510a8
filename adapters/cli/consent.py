"""`guestledger consent` and `withdraw`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import typer

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.options import Json, login
from guestledger.adapters.cli.running import opened, run, say
from guestledger.adapters.cli.streams import plain
from guestledger.adapters.forms.consent_lines import consent_lines, stated

commands = typer.Typer()

SessionOrNone = Annotated[
    str | None, typer.Argument(metavar="[SESSION]", help="The session's id: the engine's or the provider's.")
]


@commands.command()
def consent(
    session: SessionOrNone = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check the terms that new records get: which mandatory fields are open?")
    ] = False,
    json: Json = False,
) -> None:
    """Show the consent record of a session, as of now, with the mandatory fields of ISO/IEC TS 27560.

    With `--check`, exit code 1 if mandatory fields are not stated.
    """
    if (session is None) != check:
        raise typer.BadParameter("name a session, or give --check", param_hint="SESSION")
    if session is None:
        raise typer.Exit(run(_check(json=json)))
    run(_show(session, json=json))


@commands.command()
def withdraw(
    session: SessionOrNone = None,
    subject: Annotated[
        str | None, typer.Option(help="Instead of SESSION: all sessions of this person, by your `subjectId`.")
    ] = None,
    marketing: Annotated[bool, typer.Option("--marketing", help="Only the consent to marketing.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why, for the history. No personal data. None is needed.")] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="Who asks for it, for the history. Default: the login name.")
    ] = None,
    json: Json = False,
) -> None:
    """Withdraw a guest's consent: its session ends, pending attempts stop, and the webhook's receiver gets a notice.

    `--marketing` changes the record alone. A consent that is withdrawn already stays as it is. Interrupted, it continues
    when it is run again. Exit code 1 if no session of the person is known.
    """
    if (session is None) == (subject is None):
        raise typer.BadParameter("name a session, or give --subject", param_hint="SESSION")
    found = run(_withdraw(session, subject, by or login(), reason, marketing_only=marketing, json=json))
    raise typer.Exit(0 if found else 1)


async def _check(*, json: bool) -> int:
    from guestledger.adapters.consent_terms import consent_terms
    from guestledger.engine.domain.consent_terms import not_stated

    found = consent_terms(guestledger.Settings.from_env().consent_terms, guestledger.ConsentTerms())
    missing = not_stated(found)
    if json:
        show.write_json({"version": found.version, "notStated": missing})
    elif missing:
        console = show.console()
        for field in missing:
            console.print(plain(f"not stated: {field}"), soft_wrap=True)
    else:
        say("the consent terms state every mandatory field")
    return 1 if missing else 0


async def _show(session: str, *, json: bool) -> None:
    async with opened() as ledger:
        record = await ledger.consents.record(session)
    if json:
        show.write_json(stated(record))
        return
    console = show.console()
    for line in consent_lines(record):
        console.print(plain(line), soft_wrap=True)


async def _withdraw(
    session: str | None, subject: str | None, by: str, reason: str | None, *, marketing_only: bool, json: bool
) -> int:
    """Return how many sessions were found."""
    found = 0
    async with opened() as ledger:
        with show.progress(None, "withdrawing") as bar:
            async for withdrawal in _withdrawals(ledger, session, subject, by, reason, marketing_only=marketing_only):
                found += 1
                bar.advance(bar.task_ids[0])
                _report(withdrawal, marketing_only=marketing_only, json=json)
    if not found:
        say("no session of this person is known, or the person was erased: nothing is recorded")
    return found


async def _withdrawals(
    ledger: guestledger.Ledger,
    session: str | None,
    subject: str | None,
    by: str,
    reason: str | None,
    *,
    marketing_only: bool,
) -> AsyncIterator[guestledger.Withdrawal]:
    if session is not None:
        yield await ledger.withdraw(session, requested_by=by, reason=reason, marketing_only=marketing_only)
        return
    assert subject is not None
    async for found in ledger.consents.withdraw_all(
        subject, requested_by=by, reason=reason, marketing_only=marketing_only
    ):
        yield found


def _report(withdrawal: guestledger.Withdrawal, *, marketing_only: bool, json: bool) -> None:
    session = withdrawal.session
    if json:
        show.write_json({"id": session.id, "status": session.status, "recorded": withdrawal.recorded})
    else:
        say(f"session {session.id}: {_outcome(withdrawal, marketing_only=marketing_only)}")


def _outcome(withdrawal: guestledger.Withdrawal, *, marketing_only: bool) -> str:
    session = withdrawal.session
    if withdrawal.recorded:
        if marketing_only:
            return f"the consent to marketing is withdrawn; the session stays {session.status}"
        notice = ", and `guestledger worker` sends the webhook notice" if session.webhook_owed else ""
        return f"the consent is withdrawn{notice}"
    if session.status is guestledger.Status.WITHDRAWN:
        return "the consent was withdrawn before: nothing is recorded"
    if session.status is guestledger.Status.REFUSED:
        return "the consent was refused, so there is none to withdraw"
    return "there is no consent to marketing, or it was withdrawn before: nothing is recorded"
