"""`guestledger keys`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.options import Json
from guestledger.adapters.cli.running import run, say

if TYPE_CHECKING:
    from guestledger.adapters.postgres.personal.key_rotation import WrappingKey

commands = typer.Typer(invoke_without_command=True)


@commands.callback()
def list_all(context: typer.Context, json: Json = False) -> None:
    """List the key-encryption keys in use, how many data keys each wraps, and where the key vault is."""
    if context.invoked_subcommand is None:
        run(_list(json=json))


@commands.command()
def rotate(
    new_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The new key. Default: a new one of AWS KMS, or the first key of the settings."
        ),
    ] = None,
) -> None:
    """Wrap all data keys with a new key-encryption key, while workers run. No event changes.

    Give the new key and the old one to every process first. Interrupted, it continues when it is run again.
    """
    run(_rotate(new_key_file))


async def _list(*, json: bool) -> None:
    from guestledger.adapters.keys import open_rotation

    async with open_rotation(guestledger.Settings.from_env()) as rotation:
        found, apart = await rotation.list(), rotation.apart
    if json:
        for key in found:
            show.write_json({**show.camel_json(key), "vault": "apart" if apart else "ledger"})
        return
    show.console().print(_table(found))
    say(f"the key vault is {'a database of its own' if apart else 'in the database of the ledger'}")


async def _rotate(new_key_file: Path | None) -> None:
    from guestledger.adapters.keys import open_rotation

    async with open_rotation(guestledger.Settings.from_env(), new_key_file) as rotation:
        with show.progress(None, "wrapping data keys") as bar:
            task = bar.task_ids[0]
            done = await rotation.rotate(
                lambda total: bar.update(task, total=total), lambda more: bar.update(task, advance=more)
            )
    if done.rewrapped:
        say(f"the key-encryption key {done.key} now wraps all data keys; {done.rewrapped} were wrapped again")
    else:
        say(
            f"the key-encryption key {done.key} wraps all data keys already: put a new key before it in "
            "GUESTLEDGER_ENCRYPTION_KEY or its file, give both to every process, and repeat"
        )


def _table(found: Sequence[WrappingKey]) -> Table:
    table = show.table("key", "source", "data keys", "wraps new ones")
    for key in found:
        show.add_row(table, key.id, key.source, key.data_keys, "yes" if key.current else "")
    return table
