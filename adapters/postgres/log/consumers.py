"""Checkpoints of named consumers, held under leases."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import short_transaction
from guestledger.engine.log.appends import Lease
from guestledger.engine.ports.consumers import ConsumerRow


class PostgresConsumers:
    """See `ConsumerCheckpoints`."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self._schema = quoted(schema)

    async def claim(self, name: str, lease: Lease, start: int) -> int | None:
        """See `ConsumerCheckpoints.claim`."""
        rows = await self._execute(
            f"""
            INSERT INTO {self._schema}.consumers AS c (name, position, owner, lease_until)
            VALUES ($1::text, $4::bigint, $2::uuid, now() + $3::int * interval '1 ms')
            ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until
             WHERE c.owner = excluded.owner OR c.lease_until IS NULL OR c.lease_until <= now()
            RETURNING position""",
            name,
            lease.owner,
            lease.ms,
            start,
        )
        return rows[0][0] if rows else None

    async def keep(self, name: str, lease: Lease) -> bool:
        """See `ConsumerCheckpoints.keep`."""
        statement = f"""
            UPDATE {self._schema}.consumers SET lease_until = now() + $3::int * interval '1 ms'
             WHERE name = $1::text AND owner = $2::uuid RETURNING name"""
        return bool(await self._execute(statement, name, lease.owner, lease.ms))

    async def move(self, name: str, owner: UUID, position: int) -> bool:
        """See `ConsumerCheckpoints.move`."""
        statement = f"""
            UPDATE {self._schema}.consumers SET position = $3::bigint
             WHERE name = $1::text AND owner = $2::uuid RETURNING name"""
        return bool(await self._execute(statement, name, owner, position))

    async def release(self, name: str, owner: UUID) -> None:
        """See `ConsumerCheckpoints.release`."""
        statement = f"""
            UPDATE {self._schema}.consumers SET owner = NULL, lease_until = NULL
             WHERE name = $1::text AND owner = $2::uuid"""
        await self._execute(statement, name, owner)

    async def forget(self, name: str) -> bool:
        """See `ConsumerCheckpoints.forget`."""
        return bool(
            await self._execute(f"DELETE FROM {self._schema}.consumers WHERE name = $1::text RETURNING name", name)
        )

    async def all(self) -> list[ConsumerRow]:
        """See `ConsumerCheckpoints.all`."""
        rows = await self._execute(
            f"""
            SELECT name, position,
                   greatest(0, coalesce((SELECT max(position) FROM {self._schema}.batches), -1) - position) AS lag,
                   coalesce(lease_until > now(), false) AS running
              FROM {self._schema}.consumers ORDER BY name"""
        )
        return [
            ConsumerRow(name=name, position=position, lag=lag, running=running) for name, position, lag, running in rows
        ]

    async def _execute(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        with reported():
            async with short_transaction(self._engine) as driver:
                rows: Sequence[Sequence[Any]] = await driver.fetch(statement, *values)
                return rows
