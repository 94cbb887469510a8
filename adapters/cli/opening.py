"""`guestledger open`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.batch import Answer, OpeningBatch
from guestledger.adapters.cli.error_lines import error_line
from guestledger.adapters.cli.lines import UnreadableInput, count_lines, numbered_lines, open_input, read_chunk
from guestledger.adapters.cli.running import fail, run, say, stopped
from guestledger.adapters.cli.stopping import stopping
from guestledger.adapters.cli.streams import OutputLost, json_line, send

commands = typer.Typer()


@commands.command("open")
def open_file(
    file: Annotated[Path, typer.Argument(help="Guest requests, one JSON object a line; - for stdin.", allow_dash=True)],
    concurrency: Annotated[int, typer.Option(min=1, max=1_000, help="How many sessions to open at once.")] = 64,
    wait: Annotated[bool, typer.Option(help="Wait for throttled sessions and attempts in doubt.")] = True,
    tokens: Annotated[bool, typer.Option("--tokens", help="Print each guest's token, a secret.")] = False,
) -> None:
    """Open a session for each guest request. Prints one JSON answer a line, in the order of the requests.

    SIGTERM and SIGINT stop the reading: requests in flight may finish within GUESTLEDGER_DRAIN_SECONDS, and each line read
    is answered. A second signal ends it at once. Exit code 1 if a session is not active.
    """
    raise typer.Exit(run(_open(file, concurrency, wait, tokens)))


async def _open(file: Path, concurrency: int, wait: bool, tokens: bool) -> int:
    try:
        source = await open_input(file)
    except UnreadableInput as error:
        fail(f"{file} cannot be read: {error}")
    settings = guestledger.Settings.from_env()
    settings.require_cxone()
    # A failing service is reported once, in the last line, not by the scheduler too.
    logging.getLogger("guestledger.waiting").setLevel(logging.ERROR)
    async with guestledger.connect(settings) as ledger:
        with show.progress(count_lines(source), "opening") as bar:
            answered = partial(bar.advance, bar.task_ids[0])
            batch = OpeningBatch(ledger, concurrency=concurrency, wait=wait, tokens=tokens, answered=answered)
            stop = partial(_stop, ledger, batch, settings.drain_seconds)
            stopping.then(stop)
            answers = _Answers(stop)
            await batch.run(numbered_lines(partial(read_chunk, source)), answers.write)
        if batch.unread is not None:
            say(f"{file} cannot be read{f' after line {batch.read}' if batch.read else ''}: {batch.unread}")
        if answers.lost is not None:
            say(f"the output cannot be written: {answers.lost}; {_left(batch)}")
            return 2
        if stopping.signal is not None:
            say(_left(batch))
            raise stopped()
        if batch.trouble is not None:
            say(f"{error_line(batch.trouble)}. {await _pending(ledger, batch)}: `guestledger worker` continues")
            return 2
        await batch.finish()
    if batch.unread is not None:
        return 2
    return 1 if batch.short else 0


async def _pending(ledger: guestledger.Ledger, batch: OpeningBatch) -> str:
    try:
        return f"{await ledger.scheduler.unfinished()} accepted requests stay pending"
    except guestledger.ServiceError:
        return f"{batch.left} lines are not accepted; accepted requests stay pending"


class _Answers:
    """Writes the answers. If that fails, `open` stops as on a signal: nothing in flight is cut off."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self.lost: OutputLost | None = None
        self._stop = stop

    async def write(self, answer: Answer) -> None:
        if self.lost is not None:
            return
        try:
            await send(json_line(answer))
        except OutputLost as lost:
            self.lost = lost
            self._stop()


def _stop(ledger: guestledger.Ledger, batch: OpeningBatch, seconds: float) -> None:
    ledger.scheduler.stop()  # both drain at the same time
    batch.stop(seconds)


def _left(batch: OpeningBatch) -> str:
    return (
        f"stopped after line {batch.read}: {batch.left} of the lines read are not accepted, {batch.cut_off} may be; "
        "accepted requests stay pending, `guestledger worker` continues them"
    )
