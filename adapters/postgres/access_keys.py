"""Access keys in PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import reading, short_transaction
from guestledger.engine.ports.access_keys import AccessKey


class PostgresAccessKeys:
    """See `AccessKeys`."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        table, columns = f"{quoted(schema)}.api_keys", AccessKey.__struct_fields__
        values = "$1::uuid, $2::text, $3::text, $4::bytea, $5::timestamptz, $6::text, $7::timestamptz"
        self._add = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})"
        self._list = f"SELECT {', '.join(columns)} FROM {table} ORDER BY created_at, id"
        self._revoke = (
            f"UPDATE {table} SET revoked_at = $2::timestamptz WHERE id = $1::uuid AND revoked_at IS NULL RETURNING id"
        )

    async def add(self, key: AccessKey) -> None:
        """See `AccessKeys.add`."""
        values = [getattr(key, name) for name in AccessKey.__struct_fields__]
        await self._fetch(self._add, *values)

    async def list(self) -> list[AccessKey]:
        """See `AccessKeys.list`."""
        with reported():
            async with reading(self._engine) as driver:
                rows = await driver.fetch(self._list)
        return [msgspec.convert(dict(row), AccessKey) for row in rows]

    async def revoke(self, key: UUID, at: datetime) -> bool:
        """See `AccessKeys.revoke`."""
        return bool(await self._fetch(self._revoke, key, at))

    async def _fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        with reported():
            async with short_transaction(self._engine) as driver:
                rows: Sequence[Any] = await driver.fetch(statement, *values)
                return rows
