"""`guestledger limits`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.messages import closed_words
from guestledger.adapters.cli.options import Json, login
from guestledger.adapters.cli.running import fail, opened, run, say
from guestledger.adapters.cli.streams import plain

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

    Times are UTC, by the database's clock. A time in the past no longer restricts anything.
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
        yield from (f"  {what} {value}" for what, value in _facts(state) if value)
    yield "all times are UTC, by the database's clock" if states else "no limiter restricts any API"


def _facts(state: guestledger.LimiterState) -> Iterator[tuple[str, str]]:
    yield "closed until", _time(state.closed_until)
    yield "because of", "" if state.closed_by is None else closed_words(state.closed_by)
    yield "failures in a row:", str(state.failures or "")
    yield "circuit open until", _time(state.broken_until)
    yield "probe reserved until", _time(state.probe_until)
    yield "rate:", "" if state.pace is None else _learned(state.pace)


def _learned(pace: guestledger.Pace) -> str:
    """What was learned, in one line."""
    share = (
        ""
        if pace.throttled_share is None
        else f", {100 * pace.throttled_share:.2g} % of recent requests were throttled"
    )
    limit = "" if pace.limit is None else f", the API seems to bear {_rate(pace.limit)}"
    chance = ", 429s do not depend on the rate" if pace.by_chance else ""
    return f"{'unlimited' if pace.is_unlimited else _rate(pace.rate)}{limit}{chance}{share}"


def _rate(rate: float) -> str:
    return f"{rate:.3g}/s" if rate < 1_000 else f"{rate:.0f}/s"


def _time(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "seconds")
