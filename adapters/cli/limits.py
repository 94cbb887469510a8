"""`guestledger limits`: what is known against the APIs, and opening a limiter by hand."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer

from guestledger.adapters.cli import show
from guestledger.adapters.cli.options import Json, login
from guestledger.adapters.cli.running import fail, run, say
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.limits.limiter import LimiterState

commands = typer.Typer()


@commands.command()
def limiters(
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
    """List the limiters that something is known against: closed, paced, broken. There is one for each host and quota.

    Times are UTC, by the database's clock: one that has passed holds nothing back any more.
    """
    run(_gates(json=json) if open_ is None else _open(open_))


async def _gates(*, json: bool) -> None:
    async with connect(Settings.from_env(), scheduler=False) as ledger:
        found = await ledger.limits()
    if json:
        for name, limiter in found.items():
            show.write_json({"limiter": name, **msgspec.structs.asdict(limiter)})
    else:
        console = show.console()
        for line in _lines(found):
            console.print(line, soft_wrap=True)


async def _open(name: str) -> None:
    async with connect(Settings.from_env(), scheduler=False) as ledger:
        if not await ledger.reset_limiter(name, opened_by=login()):
            fail(f"nothing is known against {name!r}: `guestledger limits` lists what there is")
    say(
        "new sessions, and what is due behind it, go on with a worker's next look; "
        "what was told a time keeps it: `guestledger why SESSION` has it"
    )


def _lines(found: dict[str, LimiterState]) -> Iterator[str]:
    """What is known, as it stands: no clock and no policy of this machine's goes into it.

    No table: so much about one limiter would leave no room for its name, which `--open` needs as it is.
    """
    for name, limiter in found.items():
        yield name
        yield from (f"  {what} {known}" for what, known in _facts(limiter) if known)
    yield "all times are UTC, by the database's clock" if found else "nothing is known against any API"


def _facts(limiter: LimiterState) -> Iterator[tuple[str, str]]:
    yield "closed until", _time(limiter.closed_until)
    yield "because", limiter.why
    yield "failures in a row:", str(limiter.failures or "")
    yield "broken until", _time(limiter.broken_until)
    yield "probed until", _time(limiter.probe_until)
    yield "paced from", _time(limiter.paced_from)
    yield "last 429 at, a second:", "" if limiter.ceiling is None else f"{limiter.ceiling:.3g}"


def _time(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "seconds")
