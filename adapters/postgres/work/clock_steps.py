"""The database's clock was set back: what was to last until a time would last as much longer."""

import logging

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.limits.rate_limiter import PostgresRateLimiter
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import reading, short_transaction
from guestledger.engine.domain.due import StepName
from guestledger.engine.limits.clock_step import MIN_STEP

logger = logging.getLogger("guestledger")

_LATER = f"now() + interval '{MIN_STEP.seconds} s'"


def _log_ahead(schema: str) -> str:
    # Every step is set with an append or after one, and the log's times never decrease.
    return f"""(SELECT recorded_at > {_LATER} FROM {quoted(schema)}.batches ORDER BY position DESC LIMIT 1)"""


def set_back(schema: str) -> str:
    """SQL of a boolean: whether the log or a limiter has a time that has not come yet."""
    limiter_ahead = f"greatest(closed_at, broken_at, retry_budget_at) > {_LATER}"
    return f"""coalesce({_log_ahead(schema)} OR EXISTS (
        SELECT FROM {quoted(schema)}.limits WHERE {limiter_ahead}), false)"""


class ClockSteps:
    """Lets the waits, pauses and leases that were recorded before the clock was set back begin again.

    That is never too short, and at most as long again. It needs no memory of the clock, so any process can do it, and
    doing it twice changes nothing.
    """

    def __init__(self, engine: AsyncEngine, schema: str, limiter: PostgresRateLimiter, lease_ms: int) -> None:
        self._engine = engine
        self._limiter = limiter
        self._lease_ms = lease_ms
        self._set_back = f"SELECT {set_back(schema)}"
        s = quoted(schema)
        # Locked rows are skipped, as in a heartbeat. A provider dates the expiry, so it stays.
        self._follow = f"""
            WITH found AS MATERIALIZED (
                SELECT stream_id, step, coalesce(set_at > {_LATER}, false) AND step <> '{StepName.EXPIRE_TOKEN}' AS waits
                  FROM {s}.due_steps
                 WHERE {_log_ahead(schema)}
                   AND (set_at > {_LATER} OR lease_until > {_LATER} + $1::int * interval '1 ms')
                   FOR UPDATE SKIP LOCKED
            )
            UPDATE {s}.due_steps AS d
               SET due_at = CASE WHEN waits THEN due_at - (set_at - now()) ELSE due_at END,
                   back_ms = CASE WHEN waits THEN coalesce(back_ms, 0) + floor(extract(epoch FROM set_at - now()) * 1000)
                                  ELSE back_ms END,
                   set_at = least(set_at, now()),
                   lease_until = CASE WHEN owner IS NOT NULL THEN least(lease_until, now() + $1::int * interval '1 ms') END
              FROM found WHERE d.stream_id = found.stream_id AND d.step = found.step
            RETURNING CASE WHEN waits THEN back_ms END"""

    async def follow(self) -> None:
        """Begin again what waits for a time by the earlier clock, and log how much that is. Raises `ServiceError`."""
        with reported():
            async with reading(self._engine) as driver:
                if not await driver.fetchval(self._set_back):
                    return
            async with short_transaction(self._engine, durable=False) as driver:
                rows = await driver.fetch(self._follow, self._lease_ms)
        backs = [row[0] for row in rows if row[0] is not None]
        limiters = await self._limiter.follow_clock()
        if backs or limiters:
            logger.warning(
                "the database's clock was set back%s: %d waits of sessions begin again, and %d limiters follow it",
                f" by at least {max(backs) / 1_000:.1f} s" if backs else "",
                len(backs),
                limiters,
            )
