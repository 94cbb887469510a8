"""`guestledger keys access`."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.options import By, Json, choice, login
from guestledger.adapters.cli.running import fail, opened, run, say

commands = typer.Typer(no_args_is_help=True, help="Make, list and revoke the access keys of the HTTP API.")

_ROLES = "operator, auditor or privacy"


@commands.command()
def create(
    role: Annotated[str, typer.Argument(help=f"What its holder may do: {_ROLES}.")],
    name: Annotated[str, typer.Option(help="What its holder is called in the history.")],
    by: By = None,
    json: Json = False,
) -> None:
    """Make an access key and print it. It is shown once: only a digest of it is kept."""
    wanted = choice(guestledger.Role, role, "ROLE")
    run(_create(wanted, name, by or login(), json=json))


@commands.command("list")
def list_all(json: Json = False) -> None:
    """List the access keys, oldest first, the revoked ones too."""
    run(_list(json=json))


@commands.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `guestledger keys access list` shows it.")],
    by: By = None,
) -> None:
    """Revoke an access key for good. Servers refuse it within seconds."""
    try:
        wanted = UUID(key)
    except ValueError:
        raise typer.BadParameter("is not the id of a key: `guestledger keys access list`", param_hint="ID") from None
    run(_revoke(wanted, by or login()))


async def _create(role: guestledger.Role, name: str, by: str, *, json: bool) -> None:
    from guestledger.adapters.api.access import digest_of, key_text, new_secret

    secret = new_secret()
    async with opened() as ledger:
        key = await ledger.access.add(name, role, digest_of(secret), created_by=by)
    text = key_text(key.id, secret)
    if json:
        show.write_json({"id": key.id, "name": key.name, "role": key.role, "key": text})
    else:
        show.write_line(text)
        say(f"this is the key of {key.name!r}, with the role {key.role}: it is shown only now")


async def _list(*, json: bool) -> None:
    async with opened() as ledger:
        keys = await ledger.access.list()
    if json:
        for key in keys:
            show.write_json({name: value for name, value in show.camel_json(key).items() if name != "digest"})
        return
    table = show.table("id", "name", "role", "created at", "by", "revoked at", wraps=("name", "by"))
    for key in keys:
        show.add_row(
            table, key.id, key.name, key.role, show.time(key.created_at), key.created_by, show.time(key.revoked_at)
        )
    show.console().print(table)


async def _revoke(key: UUID, by: str) -> None:
    async with opened() as ledger:
        if not await ledger.access.revoke(key, requested_by=by):
            fail(f"no key in use has the id {key}: `guestledger keys access list` lists them")
    say(f"access key {key} is revoked")
