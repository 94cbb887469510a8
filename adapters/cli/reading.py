"""The commands that read: sessions, metrics, the audit log, a session's history, the log itself and who feeds from it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

import typer

from guestledger.adapters.cli import log, show
from guestledger.adapters.cli.options import Channel, Json, Since, Until, moment
from guestledger.adapters.cli.running import fail, run
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.session import Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.log.recorded import EventFilter
from guestledger.engine.operations.replay import until as frames_until
from guestledger.engine.projections.audit import AuditFilter, ComplianceStatus, contract_form
from guestledger.engine.projections.metrics import MetricsFilter
from guestledger.engine.projections.sessions import SessionFilter

commands = typer.Typer()


def _version_or_moment(text: str) -> int | datetime:
    return int(text) if text.isdecimal() else moment(text)


@commands.command()
def sessions(
    channel: Channel = None,
    status: Annotated[list[Status] | None, typer.Option(help="Only these; may be given more than once.")] = None,
    json: Json = False,
) -> None:
    """List the sessions, oldest first."""

    async def read() -> None:
        async with _reading() as ledger:
            rows = ledger.sessions(SessionFilter(channel_id=channel, statuses=tuple(status or ())))
            if not json:
                console = show.console()
                console.print(await show.session_table(rows, console.width))
                return
            async for row in rows:
                show.write_json(show.session_json(row))

    run(read())


@commands.command()
def metrics(channel: Channel = None, since: Since = None, until: Until = None, json: Json = False) -> None:
    """Show success rate, latency and counts. Time is cut to whole minutes."""

    async def read() -> None:
        async with _reading() as ledger:
            found = await ledger.metrics(MetricsFilter(channel_id=channel, since=since, until=until))
        if json:
            show.write_json(show.metrics_json(found))
        else:
            show.console().print(show.metrics_table(found))

    run(read())


@commands.command()
def audit(
    channel: Channel = None,
    since: Since = None,
    until: Until = None,
    status: Annotated[ComplianceStatus | None, typer.Option(help="Only this compliance status.")] = None,
    session: Annotated[str | None, typer.Option(help="Only this session, by either of its ids.")] = None,
    json: Json = False,
) -> None:
    """Show the audit log, oldest first. `--json` has the contract's shape, the guest's address included."""

    async def read() -> None:
        async with _reading() as ledger:
            stream_id = (await ledger.session(session)).id if session is not None else None
            wanted = AuditFilter(channel_id=channel, since=since, until=until, status=status, id=stream_id)
            if not json:
                console = show.console()
                console.print(await show.audit_table(ledger.audit(wanted), console.width))
                return
            async for entry in ledger.audit(wanted):
                show.write_json(contract_form(entry))

    run(read())


@commands.command()
def replay(
    session: Annotated[str, typer.Argument(help="The session, by either of its ids.")],
    at: Annotated[
        Any | None, typer.Option(parser=_version_or_moment, metavar="VERSION|TIME", help="Up to this point.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a session's history again, event by event, with what was next at each. Personal data is masked."""

    async def read() -> None:
        async with _reading() as ledger:
            frames = await ledger.replay(session)
        wanted = frames if at is None else frames_until(frames, at)
        if not wanted:
            fail(f"session {session} had no event yet at {at}: its first was recorded {frames[0].recorded.recorded_at}")
        if json:
            show.write_json(show.replay_json(wanted))
        else:
            console = show.console()
            console.print(show.timeline(wanted, console.width))

    run(read())


@commands.command()
def events(
    after: Annotated[int, typer.Option(min=-1, max=2**62, help="Begin after this position.")] = -1,
    type_: Annotated[
        list[str] | None, typer.Option("--type", help="Only these event types; may be given more than once.")
    ] = None,
    since: Since = None,
    until: Until = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on for ever with what comes.")] = False,
    json: Json = False,
) -> None:
    """Print the event log, in order. Personal data is masked."""
    try:
        wanted = EventFilter(types=tuple(type_ or ()), since=since, until=until)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--type") from None
    if follow and until is not None:
        raise typer.BadParameter("a log that is followed has no end", param_hint="--until")
    run(log.events(after, wanted, follow=follow, json=json))


@commands.command()
def consumers(
    json: Json = False,
    forget: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Drop the checkpoint of a consumer that there is none of any more."),
    ] = None,
) -> None:
    """List the named consumers of the log: how far each has come, and how far the log is ahead of it."""
    run(log.consumers(json=json, forget=forget))


@asynccontextmanager
async def _reading() -> AsyncIterator[Ledger]:
    async with connect(Settings.from_env(), scheduler=False) as ledger:
        with show.progress(None, "catching up"):
            await ledger.catch_up()
        yield ledger
