"""The key-encryption key of the tests' ledgers."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.crypto.wrapping import key_of_text
from guestledger.adapters.postgres.personal.personal_data import PersonalData
from guestledger.adapters.postgres.personal.vault import PostgresKeyVault
from guestledger.engine.domain.session import Session
from guestledger.engine.ledger import Ledger
from guestledger.engine.worker.session_work import session_of

KEY = "dGVzdHMgb25seTogMzIgYnl0ZXMgb2Yga2V5LCBvay4="
"""As in a setting: 32 bytes in base64."""


def personal_data(engine: AsyncEngine, schema: str = "guestledger") -> PersonalData:
    """The personal data of the ledger in `schema`, under `KEY`."""
    return PersonalData(engine, schema, PostgresKeyVault(engine, schema, key_of_text(KEY, "KEY")))


async def revealed(ledger: Ledger, session_id: UUID) -> Session:
    """The session with its personal values, as a worker sees it."""
    return session_of(await ledger._store.read_stream(session_id, reveal=True))
