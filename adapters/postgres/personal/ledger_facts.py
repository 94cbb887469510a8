"""What sealing needs to know of the ledger itself."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import reading


class LedgerFacts:
    """Reads the ledger's identity, once, and whether anything in it was made with keys."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self.known_id: bytes | None = None
        """See `id`; `None`: it has not been read yet."""
        s = quoted(schema)
        self._read_id = f"SELECT ledger_id FROM {s}.head"
        self._read_uses = f"""
            SELECT EXISTS (SELECT FROM {s}.request_keys) OR EXISTS (SELECT FROM {s}.personal_index)
                OR EXISTS (SELECT FROM {s}.personal)"""

    async def id(self) -> bytes:
        """The ledger's identity. A restored backup has it too. Raises `ServiceError`."""
        if self.known_id is None:
            self.known_id = bytes((await self._read(self._read_id)).bytes)
        return self.known_id

    async def uses_keys(self) -> bool:
        """Whether it holds anything that was sealed or hashed under a key. Raises `ServiceError`."""
        return bool(await self._read(self._read_uses))

    async def _read(self, statement: str) -> Any:
        with reported():
            async with reading(self._engine) as driver:
                return await driver.fetchval(statement)
