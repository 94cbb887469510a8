"""`guestledger bundle`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.files import check_new, write_new
from guestledger.adapters.cli.options import Looker, Reason, RevealIt, Since, Until, chosen_reveal
from guestledger.adapters.cli.running import fail, opened, reading, run, say
from guestledger.adapters.cli.sources import SUFFIX

if TYPE_CHECKING:
    from guestledger.adapters.cli.sources import History

commands = typer.Typer()
SESSIONS_A_FILE = 1_000


@commands.command()
def bundle(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file; with --since or --until, the directory. Must not exist.")
    ],
    sessions: Annotated[
        list[str] | None, typer.Argument(metavar="SESSION...", help="Their ids: the engine's or the provider's.")
    ] = None,
    since: Since = None,
    until: Until = None,
    reveal: RevealIt = False,
    reason: Reason = None,
    by: Looker = None,
) -> None:
    """Write sessions to a file that `guestledger replay` reads without a database.

    Instead of sessions, `--since` and `--until` name all that began then: a directory with 1,000 sessions a file. Personal data is
    left out, except for `--reveal`. Texts and names of staff stay. The files are for their owner only.
    """
    wanted_reveal = chosen_reveal(reason, by, reveal=reveal)
    ranged = since is not None or until is not None
    if bool(sessions) == ranged:
        raise typer.BadParameter("give session ids, or --since or --until", param_hint="SESSION")
    if reveal and ranged:
        raise typer.BadParameter("goes only with session ids", param_hint="--reveal")
    check_new(output)
    if ranged:
        with _directory(output) as place:
            written = run(_write_files(place, since, until))
            if not written:
                fail("no session began in this time: nothing was written")
    else:
        written = run(_write_file(output, sessions or [], wanted_reveal))
    say(f"{written} sessions written to {output}")


@contextmanager
def _directory(output: Path) -> Iterator[Path]:
    """Yield a new directory for its owner only, which takes the name `output` at the end, or is removed."""
    try:
        place = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror}")
    try:
        yield place
        place.rename(output)
    finally:
        shutil.rmtree(place, ignore_errors=True)


async def _write_file(path: Path, sessions: Sequence[str], reveal: guestledger.Reveal | None) -> int:
    async with reading() as ledger:
        found = [await ledger.history(session) for session in sessions]
        histories = {history[0].stream_id: history for history in found}
        if reveal is not None:
            shown = await ledger.look(reveal).events([event for history in histories.values() for event in history])
            histories = {stream: list(events) for stream, events in groupby(shown, key=attrgetter("stream_id"))}
        encoded = await _encoder(ledger)
    write_new(path, encoded(list(histories.values())))
    return len(histories)


async def _write_files(place: Path, since: datetime | None, until: datetime | None) -> int:
    written = 0
    async with opened() as ledger:
        encoded = await _encoder(ledger)
        with show.progress(None, "sessions") as bar:
            async for histories in _chunks(ledger.events.read_sessions(since=since, until=until)):
                write_new(place / f"{written // SESSIONS_A_FILE + 1:06}{SUFFIX}", encoded(histories))
                written += len(histories)
                bar.update(bar.task_ids[0], completed=written)
    return written


async def _encoder(ledger: guestledger.Ledger) -> partial[bytes]:
    """What is the same in each file of a bundle."""
    from guestledger.engine.replay.bundle import write_bundle

    return partial(
        write_bundle,
        policies=await ledger.replay.policies(),
        release=guestledger.__version__,
        ledger=await ledger.events.ledger_id(),
        written_at=datetime.now(UTC),
    )


async def _chunks(batches: AsyncIterator[list[list[guestledger.RecordedEvent]]]) -> AsyncIterator[list[History]]:
    chunk: list[History] = []
    async for batch in batches:
        for history in batch:
            chunk.append(history)
            if len(chunk) == SESSIONS_A_FILE:
                yield chunk
                chunk = []
    if chunk:
        yield chunk
