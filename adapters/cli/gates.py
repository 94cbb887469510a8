"""`guestledger gates`: what is known against the APIs, and opening a gate by hand."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from adapters.cli import show
from adapters.cli.options import Json, login
from adapters.cli.running import fail, run, say
from adapters.settings import Settings
from adapters.wiring import connect
from engine.domain.gate import Gate

commands = typer.Typer()


@commands.command()
def gates(
    json: Json = False,
    open_: Annotated[
        str | None,
        typer.Option(
            "--open",
            metavar="GATE",
            help="Forget all that is known against it, also that its server wants to be left in peace. "
            "Sessions that it has put off keep the time that they were told.",
        ),
    ] = None,
) -> None:
    """List the gates that something is known against: closed, paced, broken. There is one for each host and quota.

    Times are UTC, by the database's clock: one that has passed holds nothing back any more.
    """
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
        if not await ledger.open_gate(name, opened_by=login()):
            fail(f"nothing is known against {name!r}: `guestledger gates` lists what there is")
    say(
        "new sessions, and what is due behind it, go on with a worker's next look; "
        "what was told a time keeps it: `guestledger why SESSION` has it"
    )


def _table(found: dict[str, Gate]) -> Table:
    """What is known, as it stands: no clock and no policy of this machine's goes into it."""
    table = Table(
        *(
            "gate",
            "closed until",
            "why",
            "failures",
            "broken until",
            "probed until",
            "paced from",
            "last 429 at, a second",
        ),
        box=None,
        header_style="bold",
        pad_edge=False,
        caption="UTC, by the database's clock",
        caption_justify="left",
    )
    for name, gate in found.items():
        table.add_row(
            escape(name),
            _time(gate.closed_until),
            escape(gate.why),
            str(gate.failures or ""),
            _time(gate.broken_until),
            _time(gate.probe_until),
            _time(gate.paced_from),
            "" if gate.ceiling is None else f"{gate.ceiling:.3g}",
        )
    return table


def _time(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "seconds")
