"""`guestledger projections`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer
from rich.table import Table

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.options import Json
from guestledger.adapters.cli.running import opened, run

commands = typer.Typer(no_args_is_help=True, help="List, rebuild and verify the projections: what the log yields.")

Result = TypeVar("Result")
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these. Default: all.")]


@commands.command("list")
def list_all(json: Json = False) -> None:
    """List the projections: how far each is behind the log, and the event at which it stopped, if it did."""

    async def read() -> None:
        async with opened() as ledger:
            found = await ledger.projections.status()
        if json:
            for status in found:
                show.write_json(_status_json(status))
        else:
            show.console().print(_table(found))

    run(read())


@commands.command()
def rebuild(names: Names = None, json: Json = False) -> None:
    """Build projections again from the log and swap them in. Other work goes on meanwhile."""

    async def rebuild_them() -> None:
        async with opened() as ledger:
            for name in names or await _all(ledger):
                differed = await _with_bar(ledger, name, f"rebuilding {name}", ledger.projections.rebuild)
                if json:
                    show.write_json({"projection": name, "rowsDiffered": differed})
                else:
                    show.console().print(f"{name}: rebuilt from the log; {differed} rows differed", soft_wrap=True)

    run(rebuild_them())


@commands.command()
def verify(names: Names = None, json: Json = False) -> None:
    """Compare projections with the log. Exit code 1 if one differs."""

    async def verify_them() -> bool:
        same = True
        async with opened() as ledger:
            for name in names or await _all(ledger):
                found = await _with_bar(ledger, name, f"verifying {name}", ledger.projections.verify)
                same &= found.is_same
                if json:
                    show.write_json(_verification_json(found))
                else:
                    show.console().print(_verification_text(found), soft_wrap=True)
        return same

    raise typer.Exit(0 if run(verify_them()) else 1)


async def _with_bar(
    ledger: guestledger.Ledger,
    name: str,
    what: str,
    work: Callable[[str, Callable[[int], None]], Awaitable[Result]],
) -> Result:
    statuses = await ledger.projections.status()
    end = max((status.position + 1 for status in statuses if status.name == name), default=None)
    with show.progress(end, what) as bar:
        return await work(name, lambda position: bar.update(bar.task_ids[0], completed=position + 1))


async def _all(ledger: guestledger.Ledger) -> list[str]:
    return [status.name for status in await ledger.projections.status()]


def _table(found: list[guestledger.ProjectionStatus]) -> Table:
    table = show.table("projection", "position", "behind", "for s", "state", wraps=("state",))
    for status in found:
        lag = f"{status.lag_seconds:.1f}"
        show.add_row(table, status.name, status.position, status.lag_events, lag, _state(status))
    return table


def _state(status: guestledger.ProjectionStatus) -> str:
    if status.error is not None:
        return f"stopped: {status.error}"
    return "running" if status.rebuilt_to is None else f"running; rebuilt up to {status.rebuilt_to}"


def _status_json(status: guestledger.ProjectionStatus) -> dict[str, Any]:
    return {
        "projection": status.name,
        "position": status.position,
        "head": status.head,
        "lagEvents": status.lag_events,
        "lagSeconds": round(status.lag_seconds, 3),
        "stoppedAt": status.stopped_at,
        "error": status.error,
        "rebuiltTo": status.rebuilt_to,
    }


def _verification_text(found: guestledger.Verification) -> str:
    if found.is_same:
        return f"{found.name}: {found.rows} rows at position {found.position} match the log, SHA-256 {found.digest}"
    rows = "".join(f"\n  {row}" for row in found.differing)
    return (
        f"{found.name}: {found.rows} rows at position {found.position} do not match the log:{rows}\n"
        f"  `guestledger projections rebuild {found.name}` repairs them"
    )


def _verification_json(found: guestledger.Verification) -> dict[str, Any]:
    return {
        "projection": found.name,
        "position": found.position,
        "same": found.is_same,
        "rows": found.rows,
        "digest": found.digest,
        "rebuiltDigest": found.rebuilt_digest,
        "differing": found.differing,
    }
