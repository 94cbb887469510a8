"""`guestledger retention` and `hold`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.error_lines import error_line
from guestledger.adapters.cli.options import By, Json, Person, SessionOption, check_person, login
from guestledger.adapters.cli.running import opened, reading, run, say

commands = typer.Typer()


@commands.command()
def retention(json: Json = False) -> None:
    """Show how long contact data is kept after a session's end, and how many sessions are due, erased and held.

    Set GUESTLEDGER_RETENTION_DAYS for this command alone to see what a policy would erase, before the workers get it.
    """

    async def read() -> None:
        async with reading() as ledger:
            found = await ledger.retention.status()
        if json:
            show.write_json(show.camel_json(found))
        else:
            show.console().print(_table(found))

    run(read())


@commands.command()
def hold(
    subject: Person = None,
    session: SessionOption = None,
    reason: Annotated[str | None, typer.Option(help="Why, for the history. No personal data.")] = None,
    by: By = None,
    release: Annotated[bool, typer.Option("--release", help="End the hold: retention counts again.")] = False,
    list_all: Annotated[
        bool, typer.Option("--list", help="List the holds on persons, and the sessions under a hold.")
    ] = False,
    json: Json = False,
) -> None:
    """Keep the contact data of a person or a session, whatever the retention says, until the hold is released.

    A hold on a subject is for sessions that begin later too. Erasure is refused under a hold. Exit code 1 if the hold is
    refused.
    """
    if list_all:
        run(_list(json=json))
        return
    check_person(subject, session)
    if reason is None:
        raise typer.BadParameter("is missing", param_hint="--reason")
    raise typer.Exit(run(_hold(subject, session, reason, by or login(), release=release, json=json)))


async def _hold(subject: str | None, session: str | None, reason: str, by: str, *, release: bool, json: bool) -> int:
    async with opened() as ledger:
        person: dict[str, Any] = {"subject_id": subject, "session": session, "reason": reason}
        try:
            if release:
                done = await ledger.retention.release(**person, released_by=by)
            else:
                done = await ledger.retention.hold(**person, placed_by=by)
        except guestledger.HoldRefused as error:
            say(error_line(error))
            return 1
    if json:
        show.write_json(show.camel_json(done))
        return 0
    before = f", {len(done.unchanged)} were before" if done.unchanged else ""
    detached = f", {len(done.detached)} are in detached partitions" if done.detached else ""
    say(f"{len(done.changed)} sessions are {'released' if release else 'held'}{before}{detached}")
    return 0


async def _list(*, json: bool) -> None:
    async with reading() as ledger:
        holds = await ledger.retention.holds()
        found = [row async for row in ledger.sessions(guestledger.SessionFilter(held=True, newest_first=True))]
    if json:
        for hold in holds:
            show.write_json({"of": "person", **show.camel_json(hold)})
        for row in found:
            show.write_json(
                {
                    "of": "session",
                    "id": row.id,
                    "status": row.status,
                    "heldSince": row.held_since,
                    "endedAt": row.ended_at,
                }
            )
        return
    persons = show.table("person held since", "by", "reason")
    for hold in holds:
        show.add_row(persons, show.time(hold.placed_at), hold.placed_by, hold.reason)
    sessions = show.table("session", "status", "held since", "ended at")
    for row in found:
        show.add_row(sessions, row.id, row.status, show.time(row.held_since), show.time(row.ended_at))
    for table in (persons, sessions):
        show.console().print(table)


def _table(found: guestledger.RetentionStatus) -> Table:
    days = found.retention_days
    made = show.table("retention", "value")
    show.add_row(made, "contact data is kept", "until it is erased" if days is None else f"{days} days after the end")
    show.add_row(made, "sessions with contact data", found.kept)
    show.add_row(made, "  of them not over yet", found.open)
    show.add_row(made, "  of them under a legal hold", found.held)
    show.add_row(made, "  of them due for erasure", found.due)
    show.add_row(made, "  of them due, but detached", found.detached)
    show.add_row(made, "sessions without contact data", found.erased)
    show.add_row(made, "oldest contact data", show.time(found.oldest))
    return made
