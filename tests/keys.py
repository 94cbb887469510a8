"""The key-encryption key of the tests' ledgers."""

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.crypto.wrapping import key_of_text
from guestledger.adapters.postgres.personal.personal_data import PersonalData
from guestledger.adapters.postgres.personal.vault import PostgresKeyVault

KEY = "dGVzdHMgb25seTogMzIgYnl0ZXMgb2Yga2V5LCBvay4="
"""As in a setting: 32 bytes in base64."""


def personal_data(engine: AsyncEngine, schema: str = "guestledger") -> PersonalData:
    """The personal data of the ledger in `schema`, under `KEY`."""
    return PersonalData(engine, schema, PostgresKeyVault(engine, schema, key_of_text(KEY, "KEY")))
