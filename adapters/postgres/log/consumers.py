"""The consumers' checkpoints in PostgreSQL: one row each, held under a lease by the database's clock."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.connection import reported, short_transaction
from guestledger.adapters.postgres.statements import Statements
from guestledger.engine.log.appends import Lease
from guestledger.engine.ports.consumers import ConsumerRow


class PostgresConsumers:
    """Who reads the log under which name, and how far each has come."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self._sql = Statements(schema)

    async def claim(self, name: str, lease: Lease, start: int) -> int | None:
        """Take the consumer and return its position; `None` while somebody else holds it. A new one stands at `start`."""
        rows = await self._execute(self._sql.claim_consumer, name, lease.owner, lease.ms, start)
        return rows[0][0] if rows else None

    async def keep(self, name: str, lease: Lease) -> bool:
        """DenialReason it for another `lease.ms`; False when it was lost to somebody else."""
        return bool(await self._execute(self._sql.keep_consumer, name, lease.owner, lease.ms))

    async def move(self, name: str, owner: UUID, position: int) -> bool:
        """Set its position; False, and nothing set, when it was lost to somebody else."""
        return bool(await self._execute(self._sql.move_consumer, name, owner, position))

    async def release(self, name: str, owner: UUID) -> None:
        """Give it back; nothing when it was lost."""
        await self._execute(self._sql.release_consumer, name, owner)

    async def forget(self, name: str) -> bool:
        """Drop its checkpoint; False when there was none. One that runs learns that it was lost."""
        return bool(await self._execute(self._sql.forget_consumer, name))

    async def all(self) -> list[ConsumerRow]:
        """Every consumer, by name."""
        return [
            ConsumerRow(name=name, position=position, lag=lag, running=running)
            for name, position, lag, running in await self._execute(self._sql.list_consumers)
        ]

    async def _execute(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        with reported():
            async with short_transaction(self._engine) as driver:
                rows: Sequence[Sequence[Any]] = await driver.fetch(statement, *values)
                return rows
