"""`guestledger erase`."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.error_lines import error_line
from guestledger.adapters.cli.options import By, login
from guestledger.adapters.cli.running import run, say

commands = typer.Typer()

_REPLAYED = "erased again after an older backup was restored"


@commands.command()
def erase(
    subject: Annotated[str | None, typer.Option(help="All sessions of the person with this subjectId.")] = None,
    session: Annotated[str | None, typer.Option(help="One session, by either id.")] = None,
    certificate: Annotated[
        str | None, typer.Option(metavar="ID", help="Only print the certificate of this erasure again.")
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(exists=True, help="Erase again what this journal lists: after an older backup was restored."),
    ] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Finish the erasures that were interrupted.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why, for the history. No personal data.")] = None,
    by: By = None,
    journal: Annotated[
        Path | None, typer.Option(help="The journal of erasures. Default: GUESTLEDGER_ERASURE_JOURNAL.")
    ] = None,
) -> None:
    """Erase a person's data for good, and print the certificate: one JSON object a line.

    The data and their keys are destroyed; the log and its hashes stay. Sessions without an outcome end first. Run an
    interrupted erasure again to finish it. Exit code 1 if there is nothing to erase.
    """
    chosen = sum((subject is not None, session is not None, certificate is not None, replay is not None, unfinished))
    if chosen != 1:
        raise typer.BadParameter("give one of --subject, --session, --certificate, --replay and --unfinished")
    if reason is None and (subject is not None or session is not None):
        raise typer.BadParameter("say why", param_hint="--reason")

    async def work() -> Sequence[guestledger.ErasureCertificate]:
        settings = _settings(journal)
        if replay is not None:
            return await _replay(settings, replay, reason or _REPLAYED, by or login())
        async with guestledger.connect(settings, scheduler=False) as ledger:
            if certificate is not None:
                return [await ledger.erasures.certificate(_erasure_id(certificate))]
            with show.progress(None, "erasing"):
                if unfinished:
                    return await ledger.erasures.finish()
                asked = {"reason": reason or "", "requested_by": by or login()}
                return [await ledger.erase(subject_id=subject, session=session, **asked)]

    certificates = run(_or_none(work()), interrupted="interrupted: run it again, or `guestledger erase --unfinished`")
    for found in certificates or ():
        show.write_json(show.camel_json(found))
    if certificates is None:
        raise typer.Exit(1)
    if certificate is None:
        say(_summary(certificates))


async def _or_none(
    work: Coroutine[Any, Any, Sequence[guestledger.ErasureCertificate]],
) -> Sequence[guestledger.ErasureCertificate] | None:
    """What the work returns; `None`, after a line that says so, if there is nothing to erase."""
    try:
        return await work
    except guestledger.NothingToErase as error:
        say(error_line(error))
        return None


def _settings(journal: Path | None) -> guestledger.Settings:
    from msgspec.structs import replace

    settings = guestledger.Settings.from_env()
    return settings if journal is None else replace(settings, erasure_journal=journal)


def _erasure_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not the id of an erasure", param_hint="--certificate") from None


def _summary(certificates: Sequence[guestledger.ErasureCertificate]) -> str:
    if not certificates:
        return "nothing was left to erase"
    sessions, rows, keys, detached = (
        sum(getattr(one, name) for one in certificates) for name in ("sessions", "rows", "keys", "detached")
    )
    left = f"; {detached} of the sessions are in detached partitions, and have no event" if detached else ""
    return f"erasures: {len(certificates)}, sessions: {sessions}, sealed rows: {rows}, keys: {keys}{left}"


async def _replay(
    settings: guestledger.Settings, file: Path, reason: str, requested_by: str
) -> Sequence[guestledger.ErasureCertificate]:
    from msgspec.structs import replace

    from guestledger.adapters.erasure_journal import FileJournal

    entries = await FileJournal(file).entries()
    # Without the journal: with it, this ledger is not opened yet, and these erasures are in it already.
    async with guestledger.connect(replace(settings, erasure_journal=None), scheduler=False) as ledger:
        with show.progress(None, "erasing"):
            return await ledger.erasures.replay(entries, reason=reason, requested_by=requested_by)
