"""Legal holds in PostgreSQL."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import short_transaction
from guestledger.engine.domain.errors import HoldRefused
from guestledger.engine.ports.legal_holds import LegalHold


class PostgresLegalHolds:
    """See `LegalHolds`."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        s, hold = quoted(schema), "h.placed_at, h.placed_by, h.reason"
        self._lock = f"SELECT FROM {s}.head WHERE id = 1 FOR UPDATE"
        self._erasing = f"SELECT true FROM {s}.erasures WHERE subject = $1::bytea AND completed_at IS NULL"
        self._place = f"""
            INSERT INTO {s}.legal_holds (subject, placed_at, placed_by, reason)
            VALUES ($1::bytea, $2::timestamptz, $3::text, $4::text) ON CONFLICT (subject) DO NOTHING"""
        self._release = f"DELETE FROM {s}.legal_holds WHERE subject = $1::bytea RETURNING subject"
        self._of = f"SELECT {hold} FROM {s}.legal_holds AS h WHERE subject = $1::bytea"
        self._all = f"SELECT {hold} FROM {s}.legal_holds AS h ORDER BY placed_at"
        self._over = f"""
            SELECT {hold} FROM {s}.legal_holds AS h JOIN {s}.personal_index AS i USING (subject)
             WHERE i.stream_id = $1::uuid"""

    async def place(self, subject: bytes, hold: LegalHold) -> LegalHold:
        """See `LegalHolds.place`."""
        with reported():
            async with short_transaction(self._engine) as driver:
                await driver.execute(self._lock)  # as the beginning of an erasure does
                if await driver.fetchval(self._erasing, subject):
                    raise HoldRefused("data of this subject is being erased: finish the erasure first")
                await driver.execute(self._place, subject, hold.placed_at, hold.placed_by, hold.reason)
        return await self.of(subject) or hold

    async def release(self, subject: bytes) -> bool:
        """See `LegalHolds.release`."""
        return bool(await self._fetch(self._release, subject))

    async def of(self, subject: bytes) -> LegalHold | None:
        """See `LegalHolds.of`."""
        return _hold(await self._fetch(self._of, subject))

    async def all(self) -> list[LegalHold]:
        """See `LegalHolds.all`."""
        return [LegalHold(**row) for row in await self._fetch(self._all)]

    async def over(self, stream_id: UUID) -> LegalHold | None:
        """See `LegalHolds.over`."""
        return _hold(await self._fetch(self._over, stream_id))

    async def _fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        with reported():
            async with short_transaction(self._engine) as driver:
                rows: Sequence[Any] = await driver.fetch(statement, *values)
                return rows


def _hold(rows: Sequence[Any]) -> LegalHold | None:
    return LegalHold(**rows[0]) if rows else None
