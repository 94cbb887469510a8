"""Checks that a host's connections decode values as the driver does: hosts may set codecs of their own."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import UnfitEngine, reported
from guestledger.adapters.postgres.transactions import short_transaction

_SAMPLES: dict[str, Any] = {
    "uuid": UUID(int=7),
    "timestamptz": datetime(2024, 5, 20, 14, 22, tzinfo=UTC),
    "date": date(2024, 5, 20),
    "interval": timedelta(milliseconds=1),
    "bool": True,
    "int2": 7,
    "int4": 7,
    "int8": 2**40,
    "float8": 0.5,
    "text": "7",
    "varchar": "7",
    "bytea": b"\x07",
}
"""A value of each type that the ledger's statements use."""


async def check_codecs(engine: AsyncEngine) -> None:
    """Raise `UnfitEngine` if a value does not come back as it was sent. Raises `ServiceError`."""
    with reported():
        async with short_transaction(engine) as driver:
            for name, value in _SAMPLES.items():
                if not await _returns(driver, name, value):
                    raise UnfitEngine(
                        f"the engine's connections have a codec of their own for {name}: "
                        "lend an engine without `set_type_codec` for it"
                    )


async def _returns(driver: Any, name: str, value: Any) -> bool:
    try:
        found, several = await driver.fetchrow(f"SELECT $1::{name}, $2::{name}[]", value, [value])
    except (TypeError, ValueError, AttributeError, asyncpg.DataError, asyncpg.InterfaceError):
        return False
    return isinstance(found, type(value)) and [found] == several == [value]
