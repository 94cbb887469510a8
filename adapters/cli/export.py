"""`guestledger export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guestledger.adapters.cli import show
from guestledger.adapters.cli.files import check_new, write_new
from guestledger.adapters.cli.options import By, Person, SessionOption, check_person, login
from guestledger.adapters.cli.running import reading, run, say

commands = typer.Typer()


@commands.command()
def export(
    reason: Annotated[str, typer.Option(help="Why, for the record. No personal data.")],
    subject: Person = None,
    session: SessionOption = None,
    by: By = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the JSON to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page for people to this file.")] = None,
) -> None:
    """Print everything held on a person as JSON, in clear: sessions, consent, events, what was sent to others, what was erased.

    Who exports, and why, is recorded in the log first. The files are for their owner only, and must not exist before. Hand them over safely, and delete them: they hold personal
    data, and guest tokens that were not purged yet.
    """
    check_person(subject, session)
    run(_export(subject, session, reason, by or login(), output, html))


async def _export(
    subject: str | None, session: str | None, reason: str, by: str, output: Path | None, html: Path | None
) -> None:
    import msgspec

    from guestledger.adapters.cli.pages import export_page

    for path in (output, html):
        if path is not None:
            check_new(path)
    async with reading() as ledger:
        found = await ledger.export(subject_id=subject, session=session, reason=reason, by=by)
    if output is not None:
        write_new(output, msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    if html is not None:
        write_new(html, export_page(found).encode())
    if output is None and html is None:
        show.write_json(found)
    else:
        say(f"{len(found.sessions)} sessions exported")
    if found.detached:
        say(f"{len(found.detached)} sessions are missing: their partitions are detached")
