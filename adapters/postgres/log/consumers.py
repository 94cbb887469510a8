"""Checkpoints of named consumers, held under leases."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import short_transaction
from guestledger.engine.domain.errors import LogSetBack
from guestledger.engine.limits.clock_step import MIN_STEP
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
            INSERT INTO {self._schema}.consumers AS c (name, position, owner, lease_until, lease_ms)
            VALUES ($1::text, $4::bigint, $2::uuid, now() + $3::int * interval '1 ms', $3::int)
            ON CONFLICT (name) DO UPDATE
               SET owner = excluded.owner, lease_until = excluded.lease_until, lease_ms = excluded.lease_ms
             WHERE c.owner = excluded.owner OR c.lease_until IS NULL OR c.lease_until <= now()
            RETURNING position, ahead_at, coalesce((SELECT max(position) FROM {self._schema}.batches), -1)""",
            name,
            lease.owner,
            lease.ms,
            start,
        )
        if not rows:
            await self._follow_clock(name)
            return None
        position, ahead_at, head = rows[0]
        if ahead_at is not None or position > head:
            await self.release(name, lease.owner)
            raise LogSetBack(position if ahead_at is None else ahead_at, head, name)
        return int(position)

    async def _follow_clock(self, name: str) -> None:
        """If the clock was set back, let the holder's lease begin again: it would last as much longer."""
        statement = f"""
            UPDATE {self._schema}.consumers SET lease_until = now() + lease_ms * interval '1 ms'
             WHERE name = $1::text AND lease_until > now() + lease_ms * interval '1 ms' + interval '{MIN_STEP.seconds} s'
            RETURNING name"""
        await self._execute(statement, name)

    async def keep(self, name: str, lease: Lease) -> bool:
        """See `ConsumerCheckpoints.keep`."""
        statement = f"""
            UPDATE {self._schema}.consumers SET lease_until = now() + $3::int * interval '1 ms'
             WHERE name = $1::text AND owner = $2::uuid RETURNING name"""
        return bool(await self._execute(statement, name, lease.owner, lease.ms))

    async def move(self, name: str, owner: UUID, before: int, position: int) -> bool:
        """See `ConsumerCheckpoints.move`."""
        statement = f"""
            UPDATE {self._schema}.consumers SET position = $4::bigint
             WHERE name = $1::text AND owner = $2::uuid AND position = $3::bigint RETURNING name"""
        return bool(await self._execute(statement, name, owner, before, position))

    async def stop(self, name: str, ahead_at: int) -> None:
        """See `ConsumerCheckpoints.stop`."""
        statement = f"UPDATE {self._schema}.consumers SET ahead_at = $2::bigint, owner = NULL WHERE name = $1::text"
        await self._execute(statement, name, ahead_at)

    async def set_back(self, name: str, position: int | None) -> bool:
        """See `ConsumerCheckpoints.set_back`."""
        statement = f"""
            UPDATE {self._schema}.consumers
               SET position = least(coalesce($2::bigint, position),
                                    coalesce((SELECT max(position) FROM {self._schema}.batches), -1)),
                   ahead_at = NULL, owner = NULL, lease_until = NULL
             WHERE name = $1::text RETURNING name"""
        return bool(await self._execute(statement, name, position))

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
                   coalesce(lease_until > now(), false) AND owner IS NOT NULL AS running,
                   coalesce(ahead_at, CASE WHEN position > coalesce((SELECT max(position) FROM {self._schema}.batches), -1)
                                           THEN position END) AS ahead_at
              FROM {self._schema}.consumers ORDER BY name"""
        )
        return [
            ConsumerRow(name=name, position=position, lag=lag, running=running, ahead_at=ahead_at)
            for name, position, lag, running, ahead_at in rows
        ]

    async def _execute(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        with reported():
            async with short_transaction(self._engine) as driver:
                rows: Sequence[Sequence[Any]] = await driver.fetch(statement, *values)
                return rows
