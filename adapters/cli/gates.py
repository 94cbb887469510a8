"""`guestledger gates`: what is known against the APIs, and opening a gate by hand."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer

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
        console = show.console()
        for line in _lines(found):
            console.print(line, soft_wrap=True)


async def _open(name: str) -> None:
    async with connect(Settings.from_env(), scheduler=False) as ledger:
        if not await ledger.open_gate(name, opened_by=login()):
            fail(f"nothing is known against {name!r}: `guestledger gates` lists what there is")
    say(
        "new sessions, and what is due behind it, go on with a worker's next look; "
        "what was told a time keeps it: `guestledger why SESSION` has it"
    )


def _lines(found: dict[str, Gate]) -> Iterator[str]:
    """What is known, as it stands: no clock and no policy of this machine's goes into it.

    No table: so much about one gate would leave no room for its name, which `--open` needs as it is.
    """
    for name, gate in found.items():
        yield name
        yield from (f"  {what} {known}" for what, known in _facts(gate) if known)
    yield "all times are UTC, by the database's clock" if found else "nothing is known against any API"


def _facts(gate: Gate) -> Iterator[tuple[str, str]]:
    yield "closed until", _time(gate.closed_until)
    yield "because", gate.why
    yield "failures in a row:", str(gate.failures or "")
    yield "broken until", _time(gate.broken_until)
    yield "probed until", _time(gate.probe_until)
    yield "paced from", _time(gate.paced_from)
    yield "last 429 at, a second:", "" if gate.ceiling is None else f"{gate.ceiling:.3g}"


def _time(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "seconds")
