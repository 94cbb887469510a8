"""Old import path of `errors`, `pool` and `transactions`. Delete once nothing imports it."""

from guestledger.adapters.postgres.errors import DatabaseFault, LedgerNotReady, NotAllowed, UnfitEngine, reported
from guestledger.adapters.postgres.pool import close_engine, database_url, lent_engine, open_engine
from guestledger.adapters.postgres.transactions import TRANSACTION_LIMITS as NOBODY_WAITS_FOR_LONG
from guestledger.adapters.postgres.transactions import (
    Driver,
    HeldConnection,
    driver_connection,
    read_time,
    short_transaction,
    transaction,
)

__all__ = [
    "NOBODY_WAITS_FOR_LONG",
    "DatabaseFault",
    "Driver",
    "HeldConnection",
    "LedgerNotReady",
    "NotAllowed",
    "UnfitEngine",
    "close_engine",
    "database_url",
    "driver_connection",
    "lent_engine",
    "open_engine",
    "read_time",
    "reported",
    "short_transaction",
    "transaction",
]
