"""Event stores for tests, each with a limiter of its own."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.limits.rate_limiter import PostgresRateLimiter
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.engine.domain.policy import Policy
from guestledger.engine.limits.policy import LimiterPolicy
from tests.keys import personal_data


def open_store(engine: AsyncEngine, schema: str = "guestledger", **given: Any) -> PostgresEventStore:
    """The store of a ledger in this schema."""
    limiter = PostgresRateLimiter(engine, schema, LimiterPolicy())
    return PostgresEventStore(engine, schema, limiter, personal_data(engine, schema), Policy(), **given)
