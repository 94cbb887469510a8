"""Due work in PostgreSQL: claimed in due order under short leases, by the database's clock alone."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.postgres.connection import reported, short_transaction
from adapters.postgres.statements import Statements
from engine.ports import Backlog, Claim, Lease


class PostgresDueWork:
    """The rows that appends leave behind, and who works on them."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self._sql = Statements(schema)

    async def claim(self, lease: Lease, steps: Iterable[str], limit: int) -> list[Claim]:
        """Lease up to `limit` rows that are due now and are free or whose lease has lapsed, longest due first."""
        rows = await self._execute(self._sql.claim, lease.owner, lease.ms, list(steps), limit)
        return [Claim(stream_id=stream_id, step=step, due_at=due_at) for stream_id, step, due_at in rows]

    async def heartbeat(self, lease: Lease, stream_ids: Sequence[UUID]) -> None:
        """Hold the leases of its owner on these rows for another `lease.ms`."""
        await self._execute(self._sql.heartbeat, lease.owner, lease.ms, list(stream_ids))

    async def release(self, owner: UUID, stream_id: UUID, delay_ms: int) -> None:
        """Give a row back, to be claimed by anybody after `delay_ms`; nothing when the lease was lost."""
        await self._execute(self._sql.release, owner, stream_id, delay_ms)

    async def backlog(self) -> Backlog:
        """How much is left."""
        return Backlog(unfinished=(await self._execute(self._sql.backlog))[0][0])

    async def _execute(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        with reported():
            async with short_transaction(self._engine) as driver:
                rows: Sequence[Sequence[Any]] = await driver.fetch(statement, *values)
                return rows
