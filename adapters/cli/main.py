"""`guestledger`: the commands. Each reads its settings, wires a ledger, does one thing, and says how it went.

Exit codes: 0 all went well; 1 some requests did not end active, a projection is not what the log says, or a redelivery or a
resolution was refused; 2 the command was used wrongly or a service cannot be reached, and one line on stderr says what to do;
130 or 143 it was told to stop by SIGINT or SIGTERM, except for `worker`, which ends with 0 then.
"""

import asyncio
import logging
import os
import sys
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.progress import Progress

from guestledger.adapters.cli import database, limits, partitions, projections, reading, resolving, show, webhooks, why
from guestledger.adapters.cli.demo import demo as run_demo
from guestledger.adapters.cli.opening import Opening, count_lines, numbered_lines
from guestledger.adapters.cli.running import fail, run, say, stopped
from guestledger.adapters.cli.stopping import stopping
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.errors import ServiceError, ServiceUnreachable
from guestledger.engine.ledger import Ledger

logger = logging.getLogger("guestledger")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Opens guest web-messaging sessions at NICE CXone, and can prove what happened in every one of them.",
    pretty_exceptions_enable=False,
)
app.add_typer(reading.commands)
app.add_typer(resolving.commands)
app.add_typer(why.commands)
app.add_typer(limits.commands)
app.add_typer(projections.commands, name="projections")
app.add_typer(partitions.commands, name="partitions")
app.add_typer(webhooks.commands, name="webhooks")
app.add_typer(database.commands, name="db")


@app.command("open")
def open_file(
    file: Annotated[Path, typer.Argument(help="Guest requests, one JSON object a line; - for stdin.", allow_dash=True)],
    concurrency: Annotated[int, typer.Option(min=1, max=1_000, help="Sessions opened at once.")] = 64,
    wait: Annotated[bool, typer.Option(help="Wait for those that are throttled or in doubt.")] = True,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show each guest's token. It is a secret.")] = False,
) -> None:
    """Open a session for each guest request. One JSON answer a line, in the order of the requests.

    SIGTERM and SIGINT end it: no more is read, what is in flight is finished for GUESTLEDGER_DRAIN_SECONDS, and each line that was
    read is answered. A second signal ends it at once.
    """
    try:
        # Not by sys.stdin, and not closed: a thread may be reading it when the command ends, and both would wait for that.
        source = os.fdopen(os.dup(0), "rb") if str(file) == "-" else file.open("rb")
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}")
    raise typer.Exit(run(_open(source, concurrency, wait, tokens)))


async def _open(source: BinaryIO, concurrency: int, wait: bool, tokens: bool) -> int:
    settings = Settings.from_env()
    settings.require_cxone()
    # A service that cannot be used is told of in one line, at the end, and not as it is met by the scheduler besides.
    logging.getLogger("guestledger.waiting").setLevel(logging.ERROR)
    async with connect(settings) as ledger:
        with show.progress(count_lines(source), "opening") as bar:
            answered = partial(bar.advance, bar.task_ids[0])
            opening = Opening(ledger, concurrency=concurrency, wait=wait, tokens=tokens, answered=answered)
            stopping.then(partial(_stop_opening, ledger, opening, settings.drain_seconds))
            await opening.run(numbered_lines(source), show.write_json)
        if stopping.signal is not None:
            say(_left(opening))
            raise stopped()
        if opening.trouble is not None:
            pending = await ledger.unfinished()
            say(f"{opening.trouble}. {pending} accepted requests stay pending: `guestledger worker` goes on with them.")
            return 2
        await opening.finish()
    return 1 if opening.short else 0


def _stop_opening(ledger: Ledger, opening: Opening, seconds: float) -> None:
    ledger.scheduler.stop()  # beside it: both have these seconds, and not one after the other
    opening.stop(seconds)


def _left(opening: Opening) -> str:
    return (
        f"told to stop after line {opening.read}: {opening.left} of the lines up to there are not accepted, {opening.cut_off} may "
        "be; what is accepted and not settled stays pending, `guestledger worker` goes on with it"
    )


@app.command()
def worker(
    until_idle: Annotated[
        bool,
        typer.Option(
            "--until-idle",
            help="End once all that is left waits for a token's expiry, for a person, or for a webhook's later retry.",
        ),
    ] = False,
) -> None:
    """Take due work forward: replay pending attempts, send webhooks, expire tokens, keep the projections up.

    It begins while CXone cannot be reached, too, with all that needs none. SIGTERM and SIGINT end it: what is in flight is
    finished for GUESTLEDGER_DRAIN_SECONDS, the rest is given back. A second signal ends it at once.
    """
    run(_work(until_idle=until_idle))


async def _work(*, until_idle: bool) -> None:
    settings = Settings.from_env()
    settings.require_cxone()
    try:
        await _work_until_stopped(settings, until_idle=until_idle)
    except asyncio.CancelledError:
        if stopping.signal is None:
            raise
        if until_idle:
            say("told to stop before it had begun")


async def _work_until_stopped(settings: Settings, *, until_idle: bool) -> None:
    async with connect(settings, scheduler=False) as ledger:
        try:
            await ledger.check()
        except ServiceUnreachable as error:  # expiries and webhooks need no CXone
            logger.warning("the worker begins all the same: %s", error)
        # Who may not even see the work is told so here, and not over and over by the scheduler.
        total = await ledger.unfinished()
        stopping.then(ledger.scheduler.stop)
        if not until_idle:
            await ledger.scheduler.run_forever()
            return
        done = await _until_idle(ledger, total)
        how, none = ("idle", "nothing was due") if stopping.signal is None else ("told to stop", "nothing was done")
        say(f"{how}; " + (", ".join(f"{number} {name}" for name, number in sorted(done.items())) or none))


async def _until_idle(ledger: Ledger, total: int) -> Counter[str]:
    with show.progress(total, "working") as bar:
        showing = [] if bar.disable else [asyncio.create_task(_show_progress(ledger, bar, total))]
        try:
            return await ledger.scheduler.run_until_idle()
        finally:
            for task in showing:
                task.cancel()
            await asyncio.gather(*showing, return_exceptions=True)


async def _show_progress(ledger: Ledger, bar: Progress, total: int) -> None:
    while True:
        await asyncio.sleep(0.5)
        with suppress(ServiceError):  # what comes of that, the work itself will tell
            left = await ledger.unfinished()
            bar.update(bar.task_ids[0], completed=max(0, total - left), total=max(total, left))


@app.command()
def demo(
    number: Annotated[int, typer.Option("--sessions", min=1, help="How many sessions to open.")] = 250,
) -> None:
    """Open sessions at a simulated CXone, a fifth of them throttled, on an embedded database of the demo's own."""
    raise typer.Exit(run(run_demo(number)))


def main() -> None:
    """The command, once it is read in."""
    stopping.install()
    logging.basicConfig(level=logging.WARNING, format="guestledger: %(message)s")
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        # Wrong usage, in one line; where help was wanted, it has been shown, and there is nothing more to say.
        if told := " ".join(error.format_message().split()):
            say(f"{told} (see --help)")
        code = error.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
