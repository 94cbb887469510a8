"""The key-encryption key of the tests' ledgers."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.crypto.wrapping import keys_of_text
from guestledger.adapters.postgres.personal.key_ring import KeyRing
from guestledger.adapters.postgres.personal.ledger_facts import LedgerFacts
from guestledger.adapters.postgres.personal.personal_data import PersonalData
from guestledger.adapters.postgres.personal.vault import PostgresKeyVault
from guestledger.adapters.postgres.personal.vault_database import VaultDatabase
from guestledger.engine.domain.session import Session
from guestledger.engine.ledger import Ledger
from guestledger.engine.worker.session_work import session_of

KEY = "dGVzdHMgb25seTogMzIgYnl0ZXMgb2Yga2V5LCBvay4="
"""As in a setting: 32 bytes in base64."""
NEW_KEY = "dGVzdHMgb25seTogMzIgYnl0ZXMgb2YgYSBuZXcgb24="
"""Another one, as after a rotation."""


def key_vault(
    engine: AsyncEngine, schema: str = "guestledger", *, keys: Sequence[str] = (KEY,), apart: AsyncEngine | None = None
) -> PostgresKeyVault:
    """The key vault of the ledger in `schema`: in its own database, or in the one of `apart`."""
    database = VaultDatabase(apart or engine, schema, apart=apart is not None)
    ring = KeyRing(database, keys_of_text(" ".join(keys), "KEY"), settings="KEY")
    return PostgresKeyVault(database, ring, LedgerFacts(engine, schema))


def personal_data(engine: AsyncEngine, schema: str = "guestledger") -> PersonalData:
    """The personal data of the ledger in `schema`, under `KEY`."""
    return PersonalData(engine, schema, key_vault(engine, schema))


async def revealed(ledger: Ledger, session_id: UUID) -> Session:
    """The session with its personal values, as a worker sees it."""
    return session_of(await ledger._adapters.store.read_stream(session_id, reveal=True))
