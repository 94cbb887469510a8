"""The partitions of the log, one for each month."""

import logging
from contextlib import suppress
from datetime import date, datetime
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import Driver, reading, short_transaction
from guestledger.engine.ports.partitions import Partition

logger = logging.getLogger("guestledger")

DEFAULT = "events_default"
"""The partition of all other events."""
_NAME = "events_%Y_%m"


def partition_name(month: date) -> str:
    """The table of the sessions that began in this month."""
    return month.strftime(_NAME)


class PostgresPartitions:
    """The partitions of one ledger's log."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self._schema = quoted(schema)

    async def all(self) -> list[Partition]:
        """See `Partitions.all`."""
        s = self._schema
        attached = f"""
            SELECT relname, pg_total_relation_size(pg_class.oid) AS bytes
              FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
             WHERE inhparent = '{s}.events'::regclass AND relname <> '{DEFAULT}'"""
        detached = f"""
            SELECT month, first_position, last_position,
                   pg_total_relation_size(to_regclass('{s}.events_' || to_char(month, 'YYYY_MM'))) AS bytes
              FROM {s}.detached_partitions"""
        with reported():
            async with reading(self._engine) as driver:
                partitions = [await self._attached(driver, *row) for row in await driver.fetch(attached)]
                partitions += [Partition(attached=False, **row) for row in await driver.fetch(detached)]
                unpartitioned = await self._unpartitioned(driver)
        partitions.sort(key=lambda partition: partition.month or date.max)
        return [*partitions, _default(unpartitioned)]

    async def ensure_partitions(self) -> None:
        """See `Partitions.ensure_partitions`."""
        with reported():
            # A long reader of the log blocks this for now; the next partitions are needed only in months.
            with suppress(asyncpg.LockNotAvailableError):
                async with short_transaction(self._engine) as driver:
                    await driver.execute(f"SELECT {self._schema}.ensure_partitions()")
            async with reading(self._engine) as driver:
                unpartitioned = await self._unpartitioned(driver)
        if unpartitioned["events"]:
            logger.error(
                "%d events are in the default partition, as after a wrong clock or months without a worker: "
                "settle the partitions to move them",
                unpartitioned["events"],
            )

    async def _attached(self, driver: Driver, name: str, size: int) -> Partition:
        # With fixed bounds, this looks at one partition only.
        s = self._schema
        within = (
            f"stream_id >= {s}.first_id($1::date) AND stream_id < {s}.first_id(($1::date + interval '1 month')::date)"
        )
        month = datetime.strptime(name, _NAME).date()  # noqa: DTZ007 - a month has no time zone
        first, last = await driver.fetchrow(
            f"""
            SELECT (SELECT position FROM {s}.events WHERE {within} ORDER BY position LIMIT 1),
                   (SELECT position FROM {s}.events WHERE {within} ORDER BY position DESC LIMIT 1)""",
            month,
        )
        return Partition(month=month, attached=True, first_position=first, last_position=last, bytes=size)

    async def _unpartitioned(self, driver: Driver) -> Any:
        statement = f"SELECT events, first_position, last_position, bytes FROM {self._schema}.unpartitioned_events()"
        return await driver.fetchrow(statement)


def _default(unpartitioned: Any) -> Partition:
    return Partition(
        month=None,
        attached=True,
        first_position=unpartitioned["first_position"],
        last_position=unpartitioned["last_position"],
        bytes=unpartitioned["bytes"],
    )
