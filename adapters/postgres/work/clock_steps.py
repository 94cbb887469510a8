"""The database's clock, and the record of its steps."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.clock import MIN_STEP
from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.tables import TIME, limits
from guestledger.adapters.postgres.transactions import Driver, reading, short_transaction
from guestledger.engine.domain.due import StepName
from guestledger.engine.ports.clock import ClockStep

_MS = timedelta(milliseconds=1)


class PostgresTimeSource:
    """See `TimeSource`. `lease_ms`: the longest lease of a due step."""

    def __init__(self, engine: AsyncEngine, schema: str, lease_ms: int) -> None:
        self._engine = engine
        s = quoted(schema)
        moved = ", ".join(f"{column.name} = {column.name} + $1::interval" for column in limits.c if column.type is TIME)
        whole = f"now() + {lease_ms} * interval '1 ms'"
        self._steps = f"SELECT number, position, by_ms FROM {s}.clock_steps WHERE number > $1::int ORDER BY number"
        self._table = f"{s}.clock_steps"
        self._may_record = """
            SELECT has_table_privilege($1::text, 'INSERT') AND NOT current_setting('transaction_read_only')::bool"""
        # Head first, as everywhere. Claims, heartbeats and releases wait for the few ms that the adjustment takes.
        self._lock = f"""
            SELECT FROM {s}.head WHERE id = 1 FOR UPDATE;
            LOCK TABLE {s}.due_steps IN SHARE ROW EXCLUSIVE MODE"""
        self._record = f"""
            INSERT INTO {s}.clock_steps (number, position, by_ms, noticed_at)
            SELECT coalesce((SELECT max(number) FROM {s}.clock_steps), 0) + 1,
                   coalesce((SELECT max(position) FROM {s}.batches), -1), $1::bigint, clock_timestamp()"""
        # Rates, pauses and circuits continue where they were.
        self._move_limits = f"UPDATE {s}.limits SET {moved}"
        # Leases held then would seem lapsed, and their work would be done twice.
        self._renew_leases = f"""
            UPDATE {s}.due_steps SET lease_until = {whole}
             WHERE lease_until <= {whole} AND lease_until > now() - $1::interval - {lease_ms} * interval '1 ms'"""
        # Rests would last longer by the step, and so would the leases of the dead. A deadline is not brought nearer. A step
        # that is not due by its session's history rests again.
        self._shorten_waits = f"""
            UPDATE {s}.due_steps
               SET due_at = CASE WHEN step = '{StepName.ENFORCE_DEADLINE}' OR due_at <= now() THEN due_at
                                 ELSE greatest(now(), due_at + $1::interval) END,
                   lease_until = CASE WHEN lease_until > {whole} THEN {whole} ELSE lease_until END"""
        self._shorten_consumers = f"UPDATE {s}.consumers SET lease_until = lease_until + $1::interval"

    async def read(self, after: int) -> tuple[datetime, list[ClockStep]]:
        """See `TimeSource.read`."""
        with reported():
            async with reading(self._engine) as driver:
                now: datetime = await driver.fetchval("SELECT clock_timestamp()")
                return now, await self._read_steps(driver, after)

    async def record(self, by: timedelta, after: int) -> list[ClockStep]:
        """See `TimeSource.record`. A user who may not write records nothing."""
        with reported():
            async with short_transaction(self._engine) as driver:
                if not await driver.fetchval(self._may_record, self._table):
                    return await self._read_steps(driver, after)
                await driver.execute(self._lock)
                known = await self._read_steps(driver, after)
                left = by - sum((step.by_ms for step in known), start=0) * _MS
                if abs(left) < MIN_STEP:
                    return known
                await driver.execute(self._record, left // _MS)
                await self._adjust(driver, left)
                return await self._read_steps(driver, after)

    async def _adjust(self, driver: Driver, by: timedelta) -> None:
        ahead, back = (self._renew_leases,), (self._shorten_waits, self._shorten_consumers)
        for statement in (self._move_limits, *(ahead if by > timedelta(0) else back)):
            await driver.execute(statement, by)

    async def _read_steps(self, driver: Driver, after: int) -> list[ClockStep]:
        rows: Sequence[Any] = await driver.fetch(self._steps, after)
        return [ClockStep(number=number, position=position, by_ms=by_ms) for number, position, by_ms in rows]
