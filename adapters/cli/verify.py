"""`guestledger verify`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.options import Json, Since, Until
from guestledger.adapters.cli.running import opened, run

commands = typer.Typer()
LIMITS = (
    "This does not show a change by somebody who computed the hashes again too: keep the digest outside the database, and "
    "give it to --digest with the same --until the next time."
)


@commands.command()
def verify(
    since: Since = None,
    until: Until = None,
    digest: Annotated[
        str | None, typer.Option(help="Compare with the digest that an earlier run printed for the same times.")
    ] = None,
    json: Json = False,
) -> None:
    """Verify that the log was not changed: the hash of every event is computed again, and no position is missing.

    With `--digest` also that each event is the same as then. Exit code 1 if not.
    """

    async def check() -> bool:
        async with opened() as ledger:
            with show.progress(await ledger.events.head() + 1, "verifying") as bar:
                found = await ledger.events.verify(
                    since=since,
                    until=until,
                    advanced=lambda position: bar.update(bar.task_ids[0], completed=position + 1),
                )
        given = None if digest is None else digest.strip().lower()
        same = None if given is None else found.digest == given
        if same is False and found.detached:
            same = None  # the digest of a whole log says nothing about a part of it
        if json:
            show.write_json(_json(found, same))
        else:
            show.console().print(_text(found, given, same=same), soft_wrap=True)
        return found.is_intact and same is (None if given is None else True)

    raise typer.Exit(0 if run(check()) else 1)


def _text(found: guestledger.LogVerification, digest: str | None, *, same: bool | None) -> str:
    lines = [_summary(found), f"SHA-256 {found.digest}"]
    if found.changed:
        lines.append(f"changed: the events at positions {_listed(found.changed)} do not match their hashes or times")
    if found.missing:
        lines.append(f"missing: positions {_listed(found.missing)}")
    if found.detached:
        lines.append(f"{found.detached} positions lie in detached months: `guestledger partitions list` shows them")
    if found.unaccounted:
        lines.append(f"missing: {found.unaccounted} positions more than the detached months hold")
    if digest is None:
        lines.append(LIMITS)
    elif same is None:
        lines.append("the digest that was given cannot be compared: attach the detached months first")
    else:
        lines.append("the digest is the one that was given" if same else "the digest is NOT the one that was given")
    return "\n".join(lines)


def _summary(found: guestledger.LogVerification) -> str:
    if not found.events:
        return "no event was recorded in this time"
    what = "match their hashes, none is missing" if found.is_intact else "were read"
    return (
        f"{found.events} events, positions {found.first_position} to {found.last_position}, recorded "
        f"{show.time(found.first_recorded_at)} to {show.time(found.last_recorded_at)}: {what}"
    )


def _listed(positions: tuple[int, ...]) -> str:
    return ", ".join(map(str, positions))


def _json(found: guestledger.LogVerification, same: bool | None) -> dict[str, Any]:
    return {**show.camel_json(found), "intact": found.is_intact, "sameDigest": same}
