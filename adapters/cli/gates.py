"""`guestledger gates`: what is known against the APIs, and opening a gate by hand."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from adapters.cli import show
from adapters.cli.options import Json
from adapters.cli.running import fail, run, say
from adapters.settings import Settings
from adapters.wiring import connect
from engine.domain.gate import Gate
from engine.domain.passing import GatePolicy

commands = typer.Typer()


@commands.command()
def gates(
    json: Json = False,
    open_: Annotated[
        str | None,
        typer.Option(
            "--open",
            metavar="GATE",
            help="Forget all that is known against it, also that its server wants to be left in peace.",
        ),
    ] = None,
) -> None:
    """List the gates that something is known against: closed, paced, broken. There is one for each host and quota."""
    run(_gates(json=json) if open_ is None else _open(open_))


async def _gates(*, json: bool) -> None:
    async with connect(Settings.from_env(), scheduler=False) as ledger:
        found = await ledger.gates()
    if json:
        for name, gate in found.items():
            show.write_json({"gate": name, **msgspec.structs.asdict(gate)})
    else:
        show.console().print(_table(found))


async def _open(name: str) -> None:
    async with connect(Settings.from_env(), scheduler=False) as ledger:
        if not await ledger.open_gate(name):
            fail(f"nothing is known against {name!r}: `guestledger gates` lists what there is")
    say(f"{name} is open, and nothing is known against it any more")


def _table(found: dict[str, Gate]) -> Table:
    table = Table("gate", "held back until (UTC)", "why", "a second", box=None, header_style="bold", pad_edge=False)
    now, policy = datetime.now(UTC), GatePolicy()
    for name, gate in found.items():
        held, rate = gate.shut(now), gate.rate(now, policy)
        until = held.until.isoformat(" ", "seconds").removesuffix("+00:00") if held else ""
        table.add_row(name, until, held.reason if held else "", f"{rate:.3g}" if rate else "")
    return table
