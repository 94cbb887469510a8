"""The months that the log is stored in: one partition for each, made ahead by whoever works on the ledger."""

import logging
from contextlib import suppress
from datetime import date, datetime
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.connection import Driver, driver_connection, reported, short_transaction
from guestledger.adapters.postgres.statements import quoted
from guestledger.engine.ports.partitions import Partition

logger = logging.getLogger("guestledger")

DEFAULT = "events_default"


def partition(month: date) -> str:
    """The name of the table that holds a month of the log."""
    return f"events_{month:%Y_%m}"


class PostgresPartitions:
    """The parts of the log of the ledger in one schema."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        s = quoted(schema)
        self._attached = f"""
            SELECT relname, pg_total_relation_size(pg_class.oid) AS bytes
              FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
             WHERE inhparent = '{s}.events'::regclass AND relname <> '{DEFAULT}'"""
        self._detached = f"""
            SELECT month, first_position, last_position,
                   pg_total_relation_size(to_regclass('{s}.events_' || to_char(month, 'YYYY_MM'))) AS bytes
              FROM {s}.detached_months"""
        # Each in a statement of its own, with its bounds known: one partition alone is looked at then, by its index.
        self._positions = f"""
            SELECT (SELECT position FROM {s}.events WHERE stream_id >= {s}.first_id($1::date)
                       AND stream_id < {s}.first_id(($1::date + interval '1 month')::date) ORDER BY position LIMIT 1),
                   (SELECT position FROM {s}.events WHERE stream_id >= {s}.first_id($1::date)
                       AND stream_id < {s}.first_id(($1::date + interval '1 month')::date) ORDER BY position DESC LIMIT 1)"""
        self._strays = f"SELECT events, first_position, last_position, bytes FROM {s}.stray_events()"
        self._make_months = f"SELECT {s}.make_months()"

    async def all(self) -> list[Partition]:
        """Every month, oldest first, those that are detached among them; last what no month was made for."""
        with reported():
            async with driver_connection(self._engine) as driver:
                months = [await self._month(driver, *row) for row in await driver.fetch(self._attached)]
                months += [Partition(attached=False, **row) for row in await driver.fetch(self._detached)]
                strays = await driver.fetchrow(self._strays)
        months.sort(key=lambda month: month.month or date.max)
        return [*months, _default(strays)]

    async def ensure_partitions(self) -> None:
        """Make the months that come, and say (log) where events lie that no month was made for."""
        with reported():
            # Where somebody reads the log for long, it is tried again in a while: there are months yet to come.
            with suppress(asyncpg.LockNotAvailableError):
                async with short_transaction(self._engine) as driver:
                    await driver.execute(self._make_months)
            async with driver_connection(self._engine) as driver:
                strays = await driver.fetchrow(self._strays)
        if strays["events"]:
            logger.error(
                "%d events lie where no month was made for them, as where a clock is wrong or no scheduler ran for "
                "months: `guestledger partitions settle` makes one and moves them there",
                strays["events"],
            )

    async def _month(self, driver: Driver, name: str, size: int) -> Partition:
        month = datetime.strptime(name, "events_%Y_%m").date()  # noqa: DTZ007 - a month is a month
        first, last = await driver.fetchrow(self._positions, month)
        return Partition(month=month, attached=True, first_position=first, last_position=last, bytes=size)


def _default(strays: Any) -> Partition:
    return Partition(
        month=None,
        attached=True,
        first_position=strays["first_position"],
        last_position=strays["last_position"],
        bytes=strays["bytes"],
    )
