"""`guestledger what-if`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.lines import UnreadableInput, read_text
from guestledger.adapters.cli.options import Json, Since, Until
from guestledger.adapters.cli.running import fail, opened, run
from guestledger.adapters.cli.streams import plain
from guestledger.adapters.forms.what_if_words import CHECK, Row, course_rows, difference_rows, notes, same_sentence

if TYPE_CHECKING:
    from guestledger.engine.replay.findings import Taken

commands = typer.Typer()

_MAX_POLICY = 1 << 20


@commands.command()
def what_if(
    policy: Annotated[
        Path,
        typer.Option(
            allow_dash=True,
            metavar="FILE",
            help='JSON with the fields to change, such as {"creation": {"max_failures": 3}}; - for stdin.',
        ),
    ],
    session: Annotated[str | None, typer.Argument(help="The session's id: the engine's or the provider's.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Sum up all sessions instead.")] = False,
    since: Since = None,
    until: Until = None,
    json: Json = False,
) -> None:
    """Run a session again under another policy, with the answers that the log holds.

    Nothing is sent and nothing is recorded. It prints the first decision that differs, where each history leads, and where
    the log holds no answer any more. `--since` and `--until` go with `--all`: when the session began.
    """
    if every == (session is not None):
        raise typer.BadParameter("give a session or --all", param_hint="--all")
    if not every and (since or until):
        raise typer.BadParameter("goes only with --all", param_hint="--since" if since else "--until")

    async def ask() -> None:
        changes = await _changes(policy)
        async with opened() as ledger:
            if session is None:
                await _ask_all(ledger, changes, since, until, json=json)
            else:
                await _ask_one(ledger, session, changes, json=json)

    run(ask())


async def _changes(file: Path) -> Mapping[str, Any]:
    import msgspec

    from guestledger.engine.replay.policy_change import changed_policy

    try:
        changes = msgspec.json.decode(await read_text(file, _MAX_POLICY))
        changed_policy(guestledger.Policy(), changes)
    except UnreadableInput as error:
        fail(f"{file} cannot be read: {error}")
    except (msgspec.DecodeError, RecursionError) as error:
        raise typer.BadParameter(f"{file} is not JSON: {error}", param_hint="--policy") from None
    except guestledger.InvalidPolicy as error:
        raise typer.BadParameter(f"{file}: {error.reason}", param_hint="--policy") from None
    return changes  # type: ignore[no-any-return]


async def _ask_one(ledger: guestledger.Ledger, session: str, changes: Mapping[str, Any], *, json: bool) -> None:
    found = await ledger.replay.what_if(session, policy=changes)
    if json:
        show.write_json(_json(found))
        return
    console = show.console()
    for part in _shown(found):
        console.print(part if isinstance(part, Table) else plain(part), soft_wrap=isinstance(part, str))


async def _ask_all(
    ledger: guestledger.Ledger,
    changes: Mapping[str, Any],
    since: datetime | None,
    until: datetime | None,
    *,
    json: bool,
) -> None:
    with show.progress(None, "sessions") as bar:
        found = await ledger.replay.what_if_all(
            policy=changes, since=since, until=until, advanced=lambda number: bar.advance(bar.task_ids[0], number)
        )
    if json:
        show.write_json(show.camel_json(found))
        return
    console = show.console()
    changed = found.sessions - found.identical
    console.print(f"{found.sessions} sessions: {found.identical} the same, {changed} with another decision")
    console.print(f"{found.ended_otherwise} with another status, {found.unanswered} without an answer in the log")
    if found.not_reproduced:
        console.print(f"{found.not_reproduced} with decisions that today's code takes otherwise: {CHECK}")
    if found.assumed:
        console.print(f"{found.assumed} take recorded answers at other times: they might have been others then")
    console.print(_statuses(found))
    console.print(_latencies(found))


def _statuses(found: guestledger.WhatIfSummary) -> Table:
    made = show.table("recorded", "what if", "sessions", "examples", wraps=("examples",))
    for change in found.statuses:
        simulated = change.simulated or "no answer in the log"
        changed = change.simulated is not change.recorded
        show.add_row(made, change.recorded, simulated, change.sessions, ", ".join(change.examples) if changed else None)
    return made


def _latencies(found: guestledger.WhatIfSummary) -> Table:
    made = show.table("latency to creation, ms", "sessions", "p50", "p95", "p99")
    for name, spread in (("recorded", found.recorded_latency), ("what if", found.simulated_latency)):
        numbers = (spread.sessions, spread.p50, spread.p95, spread.p99) if spread else (0, None, None, None)
        show.add_row(made, name, *numbers)
    return made


def _shown(found: guestledger.WhatIf) -> Iterator[str | Table]:
    yield f"session {found.id} (all times are UTC)"
    if found.difference is None:
        yield same_sentence(found)
        return
    yield "\nfirst difference"
    yield _compared(difference_rows(found.difference))
    yield "\nwhere it leads"
    yield _compared(course_rows(found))
    for note in notes(found):
        yield f"\n{note.sentence}"
        yield from (f"  {item}" for item in note.items)


def _compared(rows: Iterator[Row]) -> Table:
    made = show.table("", "recorded", "what if", wraps=("recorded", "what if"))
    for row in rows:
        show.add_row(made, *row)
    return made


def _json(found: guestledger.WhatIf) -> dict[str, Any]:
    from guestledger.adapters.forms.events import named_event

    difference = found.difference
    return {
        "id": found.id,
        "identical": found.is_identical,
        "difference": difference
        and {
            "recorded": _taken_json(difference.recorded),
            "simulated": _taken_json(difference.simulated),
            "fields": [show.camel_json(field) for field in difference.fields],
        },
        "recorded": show.camel_json(found.recorded),
        "simulated": show.camel_json(found.simulated),
        "ending": found.ending,
        "assumed": [show.camel_json(one) for one in found.assumed],
        "unanswered": [show.camel_json(one) for one in found.unanswered],
        "leftOut": [show.camel_json(one) for one in found.left_out],
        "notReproduced": found.not_reproduced,
        "events": list(map(named_event, found.events)),
    }


def _taken_json(taken: Taken | None) -> dict[str, Any] | None:
    from guestledger.adapters.forms.events import named_event
    from guestledger.engine.domain.personal import public

    if taken is None:
        return None
    return {
        "at": taken.at,
        "version": taken.version,
        "command": taken.command and type(taken.command).__name__,
        "arguments": public(taken.command),
        "events": list(map(named_event, taken.events)),
    }
