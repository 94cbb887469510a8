"""`guestledger limits`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.options import Json, login
from guestledger.adapters.cli.running import fail, opened, run, say
from guestledger.adapters.cli.streams import plain
from guestledger.adapters.forms.limiter_words import limiter_facts

commands = typer.Typer()


@commands.command()
def limits(
    json: Json = False,
    reset: Annotated[
        str | None,
        typer.Option(
            metavar="LIMITER",
            help="Delete this limiter's state, also the pause that its server asked for. "
            "Sessions that were already deferred keep their time.",
        ),
    ] = None,
) -> None:
    """List the rate limiters that restrict requests now, one for each host and quota.

    Times are UTC, by the database's clock. A pause in the past no longer restricts anything; after "circuit open until"
    single probes are sent.
    """
    run(_list(json=json) if reset is None else _reset(reset))


async def _list(*, json: bool) -> None:
    async with opened() as ledger:
        states = await ledger.limits.states()
    if json:
        for name, state in states.items():
            show.write_json({"limiter": name, **show.camel_json(state)})
    else:
        console = show.console()
        for line in _lines(states):
            console.print(plain(line), soft_wrap=True)


async def _reset(name: str) -> None:
    async with opened() as ledger:
        if not await ledger.limits.reset(name, requested_by=login()):
            fail(f"limiter {name!r} has no state: `guestledger limits` lists those that have")
    say(
        "new and due sessions continue; sessions that were already deferred keep their time: "
        "`guestledger why SESSION` shows it"
    )


def _lines(states: dict[str, guestledger.LimiterState]) -> Iterator[str]:
    # No table: a limiter's name must stay in one piece, to be given to --reset.
    for name, state in states.items():
        yield name
        yield from (f"  {what} {value}" for what, value in limiter_facts(state) if value)
    yield "all times are UTC, by the database's clock" if states else "no limiter restricts any API"
