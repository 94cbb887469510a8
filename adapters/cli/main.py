"""`guestledger`: the commands. Each reads its settings, wires a ledger, does one thing, and says how it went.

Exit codes: 0 all went well; 1 some requests did not end active; 2 the command was used wrongly or a service cannot be
reached, and one line on stderr says what to do.
"""

import asyncio
import logging
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NoReturn, TypeVar

import typer

from adapters.cli import show
from adapters.cli.demo import demo as run_demo
from adapters.cli.opening import Opening, count_lines, numbered_lines
from adapters.settings import Settings
from adapters.wiring import connect, stop_database, upgrade_database
from engine.domain.errors import GuestledgerError, ServiceError
from engine.domain.session import Status
from engine.ledger import Ledger
from engine.projections.audit import AuditFilter, ComplianceStatus, contract_form
from engine.projections.metrics import MetricsFilter
from engine.projections.sessions import SessionFilter
from engine.replay import until

Result = TypeVar("Result")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Opens guest web-messaging sessions at NICE CXone, and can prove what happened in every one of them.",
    pretty_exceptions_enable=False,
)
db = typer.Typer(no_args_is_help=True, help="The database.")
app.add_typer(db, name="db")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time such as 2024-05-20T14:22:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _version_or_moment(text: str) -> int | datetime:
    return int(text) if text.isdigit() else _moment(text)


Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for a program.")]
Channel = Annotated[str | None, typer.Option(help="Only this channel.")]
Since = Annotated[datetime | None, typer.Option(parser=_moment, metavar="TIME", help="From this time on (UTC).")]
Until = Annotated[datetime | None, typer.Option(parser=_moment, metavar="TIME", help="Before this time (UTC).")]


@app.command("open")
def open_file(
    file: Annotated[Path, typer.Argument(help="Guest requests, one JSON object a line; - for stdin.", allow_dash=True)],
    concurrency: Annotated[int, typer.Option(min=1, max=1_000, help="Sessions opened at once.")] = 64,
    wait: Annotated[bool, typer.Option(help="Wait for those that are throttled or in doubt.")] = True,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show each guest's token. It is a secret.")] = False,
) -> None:
    """Open a session for each guest request. One JSON answer a line, in the order of the requests."""
    try:
        source = sys.stdin.buffer if str(file) == "-" else file.open("rb")
    except OSError as error:
        _fail(f"{file} cannot be read: {error.strerror}")
    with source:
        raise typer.Exit(_run(_open(source, concurrency, wait, tokens)))


async def _open(source: BinaryIO, concurrency: int, wait: bool, tokens: bool) -> int:
    settings = Settings.from_env()
    settings.require_cxone()
    # A service that cannot be used is told of in one line, at the end, and not as it is met by the scheduler besides.
    logging.getLogger("guestledger").setLevel(logging.ERROR)
    async with connect(settings) as ledger:
        with show.progress(count_lines(source), "opening") as bar:
            answered = partial(bar.advance, bar.task_ids[0])
            opening = Opening(ledger, concurrency=concurrency, wait=wait, tokens=tokens, answered=answered)
            await opening.run(numbered_lines(source), show.write_json)
        if opening.trouble is not None:
            pending = await ledger.unfinished()
            _say(
                f"{opening.trouble}. {pending} accepted requests stay pending: `guestledger worker` goes on with them."
            )
            return 2
        await opening.finish()
    return 1 if opening.short else 0


@app.command()
def worker(
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End once all that is left waits for a token's expiry.")
    ] = False,
) -> None:
    """Take due work forward: replay pending attempts, send webhooks, expire tokens, keep the projections up."""
    _run(_work(until_idle=until_idle))


async def _work(*, until_idle: bool) -> None:
    settings = Settings.from_env()
    settings.require_cxone()
    async with connect(settings, scheduler=False) as ledger:
        await ledger.check()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ledger.scheduler.stop)
        if not until_idle:
            await ledger.scheduler.run_forever()
            return
        done = await _until_idle(ledger)
        _say("idle; " + (", ".join(f"{number} {name}" for name, number in sorted(done.items())) or "nothing was due"))


async def _until_idle(ledger: Ledger) -> Counter[str]:
    total = await ledger.unfinished()
    with show.progress(total, "working") as bar:
        working = asyncio.create_task(ledger.scheduler.run_until_idle())
        while not working.done():
            with suppress(ServiceError):  # what comes of that, the work itself will tell
                left = await ledger.unfinished()
                bar.update(bar.task_ids[0], completed=max(0, total - left), total=max(total, left))
            await asyncio.wait([working], timeout=0.5)
    return working.result()


@app.command()
def sessions(
    channel: Channel = None,
    status: Annotated[list[Status] | None, typer.Option(help="Only these; may be given more than once.")] = None,
    json: Json = False,
) -> None:
    """List the sessions, oldest first."""

    async def run() -> None:
        async with _reading() as ledger:
            rows = ledger.sessions(SessionFilter(channel_id=channel, statuses=tuple(status or ())))
            if not json:
                console = show.console()
                console.print(await show.session_table(rows, console.width))
                return
            async for row in rows:
                show.write_json(show.session_json(row))

    _run(run())


@app.command()
def metrics(channel: Channel = None, since: Since = None, until: Until = None, json: Json = False) -> None:
    """Show success rate, latency and counts. Time is cut to whole minutes."""

    async def run() -> None:
        async with _reading() as ledger:
            found = await ledger.metrics(MetricsFilter(channel_id=channel, since=since, until=until))
        if json:
            show.write_json(show.metrics_json(found))
        else:
            show.console().print(show.metrics_table(found))

    _run(run())


@app.command()
def audit(
    channel: Channel = None,
    since: Since = None,
    until: Until = None,
    status: Annotated[ComplianceStatus | None, typer.Option(help="Only this compliance status.")] = None,
    session: Annotated[str | None, typer.Option(help="Only this session, by either of its ids.")] = None,
    json: Json = False,
) -> None:
    """Show the audit log, oldest first. `--json` has the contract's shape, the guest's address included."""

    async def run() -> None:
        async with _reading() as ledger:
            stream_id = (await ledger.session(session)).id if session is not None else None
            wanted = AuditFilter(channel_id=channel, since=since, until=until, status=status, id=stream_id)
            if not json:
                console = show.console()
                console.print(await show.audit_table(ledger.audit(wanted), console.width))
                return
            async for entry in ledger.audit(wanted):
                show.write_json(contract_form(entry))

    _run(run())


@app.command()
def replay(
    session: Annotated[str, typer.Argument(help="The session, by either of its ids.")],
    at: Annotated[
        Any | None, typer.Option(parser=_version_or_moment, metavar="VERSION|TIME", help="Up to this point.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a session's history again, event by event, with what was next at each. Personal data is masked."""

    async def run() -> None:
        async with _reading() as ledger:
            frames = await ledger.replay(session)
        shown = frames if at is None else until(frames, at)
        if not shown:
            _fail(
                f"session {session} had no event yet at {at}: its first was recorded {frames[0].recorded.recorded_at}"
            )
        if json:
            show.write_json(show.replay_json(shown))
        else:
            show.console().print(show.timeline(shown))

    _run(run())


@db.command("upgrade")
def db_upgrade() -> None:
    """Make the ledger's schema, or bring it up to this release."""

    async def run() -> None:
        settings = Settings.from_env()
        await upgrade_database(settings)
        _say(f"the ledger in schema {settings.schema} is up to date")

    _run(run())


@db.command("stop")
def db_stop() -> None:
    """Shut the embedded database down. The next command starts it again."""

    async def run() -> None:
        stopped = await stop_database(Settings.from_env())
        _say("the embedded database is shut down" if stopped else "the embedded database was not running")

    _run(run())


@app.command()
def demo(
    number: Annotated[int, typer.Option("--sessions", min=1, help="How many sessions to open.")] = 250,
) -> None:
    """Open sessions at a simulated CXone, a fifth of them throttled, on an embedded database of the demo's own."""
    raise typer.Exit(_run(run_demo(number)))


@asynccontextmanager
async def _reading() -> AsyncIterator[Ledger]:
    async with connect(Settings.from_env(), scheduler=False) as ledger:
        with show.progress(None, "catching up"):
            await ledger.catch_up()
        yield ledger


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        return asyncio.run(work)
    except GuestledgerError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _say("interrupted: accepted requests stay pending, `guestledger worker` goes on with them")
        raise typer.Exit(130) from None


def _say(text: str) -> None:
    sys.stderr.write(f"guestledger: {text}\n")


def _fail(text: str) -> NoReturn:
    _say(text)
    raise typer.Exit(2)


def main() -> None:
    """The command's entry."""
    logging.basicConfig(level=logging.WARNING, format="guestledger: %(message)s")
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        # Wrong usage, in one line; where help was wanted, it has been shown, and there is nothing more to say.
        if told := " ".join(error.format_message().split()):
            _say(f"{told} (see --help)")
        code = error.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
