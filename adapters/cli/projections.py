"""`guestledger projections`: how the projections stand to the log, and making them anew from it."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer
from rich.table import Table

from guestledger.adapters.cli import show
from guestledger.adapters.cli.options import Json
from guestledger.adapters.cli.running import run
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.ledger import Ledger
from guestledger.engine.projections.status import ProjectionStatus, Verification

commands = typer.Typer(no_args_is_help=True, help="What is derived from the log: sessions, metrics, audit log.")

Result = TypeVar("Result")
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these; all when left out.")]


@commands.command("list")
def list_all(json: Json = False) -> None:
    """Show how far behind the log each projection is, and what it has stopped at."""
    run(_list_all(json=json))


@commands.command("rebuild")
def rebuild(names: Names = None, json: Json = False) -> None:
    """Make projections anew from the log, beside the live ones, and put them in their place. Everything else goes on."""
    run(_rebuild(names or [], json=json))


@commands.command("verify")
def verify(names: Names = None, json: Json = False) -> None:
    """DenialReason projections against the log. Exit code 1 when one is not what the log says."""
    raise typer.Exit(run(_verify(names or [], json=json)))


async def _list_all(*, json: bool) -> None:
    """One line a projection: its position, how far behind the log it is, and what it has stopped at."""
    async with connect(Settings.from_env(), scheduler=False) as ledger:
        found = await ledger.projections()
    if json:
        for standing in found:
            show.write_json(_standing_json(standing))
    else:
        show.console().print(_standing_table(found))


async def _rebuild(names: list[str], *, json: bool) -> None:
    """Make these projections anew, or all of them; one line each."""

    def shown(name: str, differed: int) -> None:
        if json:
            show.write_json({"projection": name, "rowsDiffered": differed})
        else:
            show.console().print(f"{name}: made anew from the log; {differed} rows were different", soft_wrap=True)

    async with connect(Settings.from_env(), scheduler=False) as ledger:
        for name in names or await _all(ledger):
            shown(name, await _with_bar(ledger, name, f"rebuilding {name}", ledger.rebuild_projection))


async def _verify(names: list[str], *, json: bool) -> int:
    """DenialReason these projections, or all of them, against the log; one line each. Returns 1 when any differs, else 0."""
    same = True
    async with connect(Settings.from_env(), scheduler=False) as ledger:
        for name in names or await _all(ledger):
            found = await _with_bar(ledger, name, f"verifying {name}", ledger.verify_projection)
            same &= found.is_same
            if json:
                show.write_json(_verification_json(found))
            else:
                show.console().print(_verification_text(found), soft_wrap=True)
    return 0 if same else 1


async def _with_bar(
    ledger: Ledger, name: str, what: str, work: Callable[[str, Callable[[int], None]], Awaitable[Result]]
) -> Result:
    end = max((standing.position + 1 for standing in await ledger.projections() if standing.name == name), default=None)
    with show.progress(end, what) as bar:
        return await work(name, lambda position: bar.update(bar.task_ids[0], completed=position + 1))


async def _all(ledger: Ledger) -> list[str]:
    return [standing.name for standing in await ledger.projections()]


def _standing_table(found: list[ProjectionStatus]) -> Table:
    table = show.table("projection", "position", "behind", "for s", "state", wraps=("state",))
    for standing in found:
        lag = f"{standing.lag_seconds:.1f}"
        show.add_row(table, standing.name, standing.position, standing.lag_events, lag, _state(standing))
    return table


def _state(standing: ProjectionStatus) -> str:
    if standing.error is not None:
        return f"stopped: {standing.error}"
    return "goes on" if standing.rebuilt_to is None else f"goes on; rebuilt up to {standing.rebuilt_to}"


def _standing_json(standing: ProjectionStatus) -> dict[str, Any]:
    return {
        "projection": standing.name,
        "position": standing.position,
        "head": standing.head,
        "lagEvents": standing.lag_events,
        "lagSeconds": round(standing.lag_seconds, 3),
        "stoppedAt": standing.stopped_at,
        "error": standing.error,
        "rebuiltTo": standing.rebuilt_to,
    }


def _verification_text(found: Verification) -> str:
    if found.is_same:
        return f"{found.name}: {found.rows} rows at position {found.position} are what the log says, SHA-256 {found.digest}"
    rows = "".join(f"\n  {row}" for row in found.differing)
    return (
        f"{found.name}: {found.rows} rows at position {found.position} are not what the log says:{rows}\n"
        f"  `guestledger projections rebuild {found.name}` puts them right"
    )


def _verification_json(found: Verification) -> dict[str, Any]:
    return {
        "projection": found.name,
        "position": found.position,
        "same": found.is_same,
        "rows": found.rows,
        "digest": found.digest,
        "rebuiltDigest": found.rebuilt_digest,
        "differing": found.differing,
    }
