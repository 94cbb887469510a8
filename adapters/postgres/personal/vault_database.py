"""The database of the key vault: the ledger's own, or another one."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import LedgerNotReady, LedgerProblem, NotAllowed, reported
from guestledger.adapters.postgres.transactions import Driver, reading, short_transaction
from guestledger.adapters.postgres.unusable import DatabaseProblem, DatabaseUnusable
from guestledger.engine.domain.errors import ServiceError
from guestledger.engine.ports.key_vault import KEY_VAULT

VAULT_URL = "GUESTLEDGER_VAULT_URL"
_ANSWER_SECONDS = 10.0


class VaultDatabase:
    """Runs the vault's statements. If it is `apart` from the ledger, its errors are those of the service `key vault`."""

    def __init__(self, engine: AsyncEngine, schema: str, *, apart: bool = False) -> None:
        self.engine = engine
        self.schema = schema
        self.apart = apart

    async def fetch(self, statement: str, *values: Any) -> Any:
        """The rows of a statement, which commits by itself. Raises `ServiceError`."""
        with self._reported():
            async with asyncio.timeout(_ANSWER_SECONDS), reading(self.engine) as driver:
                return await driver.fetch(statement, *values)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Driver]:
        """A connection in a transaction. Raises `ServiceError`."""
        with self._reported():
            async with short_transaction(self.engine) as driver:
                yield driver

    async def check(self) -> None:
        """Raise `ServiceError` unless keys can be made now."""
        [(read_only,)] = await self.fetch("SELECT current_setting('transaction_read_only')::bool")
        if read_only:
            with self._reported():
                raise DatabaseUnusable(DatabaseProblem.READ_ONLY, setting=VAULT_URL)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        if not self.apart:
            with reported():
                yield
            return
        with reported_of_vault(self.schema):
            yield


@contextmanager
def reported_of_vault(schema: str) -> Iterator[None]:
    """As `reported`, for a vault in a database of its own."""
    try:
        with reported(VAULT_URL):
            yield
    except LedgerNotReady as error:
        if error.problem is not LedgerProblem.MISSING:
            raise
        raise LedgerNotReady(LedgerProblem.VAULT_MISSING, schema) from None
    except ServiceError as error:
        raise _of_vault(error) from None


def _of_vault(error: ServiceError) -> ServiceError:
    error.service = KEY_VAULT
    if isinstance(error, NotAllowed):
        error.detail = f"the user in {VAULT_URL} may not use the key vault: {error.refusal}"
    return error
