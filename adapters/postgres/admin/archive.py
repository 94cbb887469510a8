"""Detaching partitions from the log and attaching them again.

A detached partition is a table that can be dumped, dropped and restored. The ledger keeps its digest.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import date
from hashlib import sha256
from typing import NamedTuple

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.admin.grants import OWNER, role_name
from guestledger.adapters.postgres.admin.partitions import DEFAULT, partition_name
from guestledger.adapters.postgres.errors import (
    Access,
    NotAllowed,
    PartitionBlocked,
    PartitionProblem,
    reported,
)
from guestledger.adapters.postgres.log.reader import COLUMNS, leaf_hash_of
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import Driver, driver_connection, transaction

BATCH = 2_000
# How long appends may wait for a long reader of the log.
_LOCK_TIMEOUT = "2s"
# A session's id comes from the clock of its host, and its first append may be late.
_MARGIN = "1 day"
_UNPARTITIONED = "events_unpartitioned"


class Contents(NamedTuple):
    """What a partition holds. The digest: SHA-256 over each position (8 bytes, big-endian) and leaf hash, in order."""

    events: int
    first_position: int | None
    last_position: int | None
    digest: bytes


class Archive:
    """The partitions of the ledger in one schema, for its owner."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self._schema = schema

    async def detach(self, month: date) -> Contents:
        """Detach a month's partition if nothing needs it and every event matches its leaf hash.

        Raises `PartitionBlocked`, `ServiceError`.
        """
        s, table = quoted(self._schema), self._table(month)
        async with self._connection(month) as driver:
            async with transaction(driver, unhurried=True, isolation="REPEATABLE READ READ ONLY"):
                if not await driver.fetchval(_IS_PARTITION, table, f"{s}.events"):
                    raise PartitionBlocked(month, [(PartitionProblem.NOT_ATTACHED, "")])
                contents = await _contents(driver, month, table)
            async with self._transaction(driver):
                await self._lock_log(driver)
                await driver.execute(f"ALTER TABLE {s}.events DETACH PARTITION {table}")
                # Only now nobody can start to use it.
                await self._check_unused(driver, month, contents)
                await driver.execute(
                    f"""
                    INSERT INTO {s}.detached_partitions
                           (month, first_id, end_id, events, first_position, last_position, digest, detached_at)
                    SELECT $1, {s}.first_id($1::date), {s}.first_id(($1::date + interval '1 month')::date), $2, $3, $4, $5, now()""",
                    month,
                    *contents,
                )
        return contents

    async def attach(self, month: date) -> Contents:
        """Attach a month's partition if its table holds exactly what was detached. Unfinished rebuilds start again.

        Raises `PartitionBlocked`, `ServiceError`.
        """
        s, table = quoted(self._schema), self._table(month)
        async with self._connection(month) as driver, self._transaction(driver):
            contents = await self._check_contents(driver, month, table)
            # From here on nobody appends, and no rebuild replaces live rows.
            await self._lock_log(driver)
            await driver.execute(f"SELECT FROM {s}.checkpoints ORDER BY projection FOR UPDATE")
            await driver.execute(f"DELETE FROM {s}.checkpoints WHERE projection LIKE '%:%'")
            async with self._redistributed(driver):
                await driver.execute(f"SELECT {s}.guard_partition(text '{partition_name(month)}')")
                await driver.execute(f"SELECT {s}.attach_partition($1::date)", month)
            await driver.execute(f"DELETE FROM {s}.detached_partitions WHERE month = $1", month)
        return contents

    async def settle(self) -> int:
        """Move events from the default partition to those of their months. Returns how many.

        Raises `PartitionBlocked`, `ServiceError`.
        """
        s = quoted(self._schema)
        count = f"SELECT count(*) FROM {s}.{DEFAULT}"
        async with self._connection(None) as driver, self._transaction(driver):
            await self._lock_log(driver)
            before: int = await driver.fetchval(count)
            async with self._redistributed(driver):
                await driver.execute(f"SELECT {s}.create_partitions_for(text '{_UNPARTITIONED}')")
            return before - int(await driver.fetchval(count))

    async def _check_contents(self, driver: Driver, month: date, table: str) -> Contents:
        s = quoted(self._schema)
        recorded = await driver.fetchrow(
            f"""
            SELECT events, first_position, last_position, digest
              FROM {s}.detached_partitions WHERE month = $1 FOR UPDATE""",
            month,
        )
        if recorded is None:
            raise PartitionBlocked(month, [(PartitionProblem.NOT_DETACHED, "")])
        if not await driver.fetchval("SELECT to_regclass($1) IS NOT NULL", table):
            raise PartitionBlocked(month, [(PartitionProblem.TABLE_MISSING, table)])
        await driver.execute(f"LOCK TABLE {table} IN SHARE MODE")
        contents = await _contents(driver, month, table)
        if contents != tuple(recorded):
            difference = f"{contents.events} events; {recorded['events']} were detached"
            raise PartitionBlocked(month, [(PartitionProblem.CONTENTS_DIFFER, difference)])
        return contents

    @asynccontextmanager
    async def _redistributed(self, driver: Driver) -> AsyncIterator[None]:
        """Empty the default partition for the block, then insert its events again."""
        s = quoted(self._schema)
        await driver.execute(
            f"""
            ALTER TABLE {s}.events DETACH PARTITION {s}.{DEFAULT};
            ALTER TABLE {s}.{DEFAULT} RENAME TO {_UNPARTITIONED};
            ALTER INDEX {s}.{DEFAULT}_pkey RENAME TO {_UNPARTITIONED}_pkey;
            ALTER INDEX {s}.{DEFAULT}_position RENAME TO {_UNPARTITIONED}_position;
            SELECT {s}.create_partition_table(text '{DEFAULT}');
            ALTER TABLE {s}.events ATTACH PARTITION {s}.{DEFAULT} DEFAULT"""
        )
        yield
        await driver.execute(
            f"""
            INSERT INTO {s}.events SELECT * FROM {s}.{_UNPARTITIONED} ORDER BY position;
            DROP TABLE {s}.{_UNPARTITIONED}"""
        )

    async def _check_unused(self, driver: Driver, month: date, contents: Contents) -> None:
        s, last = quoted(self._schema), -1 if contents.last_position is None else contents.last_position
        problems = await driver.fetch(
            f"""
            SELECT 'not_over', ''
             WHERE $1::date + interval '1 month' + interval '{_MARGIN}' > now() AT TIME ZONE 'UTC'
            UNION ALL
            SELECT 'growing', '' WHERE EXISTS (SELECT FROM {self._table(month)} WHERE position > $2::bigint)
            UNION ALL
            SELECT 'work_left', count(DISTINCT stream_id)::text FROM {s}.due_steps
             WHERE stream_id >= {s}.first_id($1::date)
               AND stream_id < {s}.first_id(($1::date + interval '1 month')::date)
            HAVING count(*) > 0
            UNION ALL
            SELECT 'not_projected', projection
              FROM {s}.checkpoints WHERE position < $2 AND projection NOT LIKE '%:%'
            UNION ALL
            SELECT 'rebuild_unfinished', split_part(projection, ':', 1)
              FROM {s}.checkpoints WHERE position < $2 AND projection LIKE '%:rebuild'
            UNION ALL
            SELECT 'not_consumed', name FROM {s}.consumers WHERE position < $2""",
            month,
            last,
        )
        if problems:
            raise PartitionBlocked(month, [(PartitionProblem(problem), detail) for problem, detail in problems])

    @contextmanager
    def _for_owner(self) -> Iterator[None]:
        try:
            yield
        except NotAllowed as error:
            owner = role_name(self._schema, OWNER)
            raise NotAllowed(Access.CHANGE_TABLES, error.refusal, schema=self._schema, role=owner) from None

    def _table(self, month: date) -> str:
        return f"{quoted(self._schema)}.{partition_name(month)}"

    async def _lock_log(self, driver: Driver) -> None:
        await driver.execute(f"SELECT FROM {quoted(self._schema)}.head WHERE id = 1 FOR UPDATE")

    @asynccontextmanager
    async def _transaction(self, driver: Driver) -> AsyncIterator[None]:
        async with transaction(driver, unhurried=True):
            await driver.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            yield

    @asynccontextmanager
    async def _connection(self, month: date | None) -> AsyncIterator[Driver]:
        with self._for_owner(), reported():
            async with driver_connection(self._engine) as driver:
                try:
                    yield driver
                except asyncpg.LockNotAvailableError:
                    raise PartitionBlocked(month, [(PartitionProblem.IN_USE, _LOCK_TIMEOUT)]) from None


_IS_PARTITION = (
    "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass($1) AND inhparent = to_regclass($2))"
)


async def _contents(driver: Driver, month: date, table: str) -> Contents:
    events, first, last, digest = 0, None, None, sha256()
    async for row in driver.cursor(f"SELECT {COLUMNS} FROM {table} ORDER BY position", prefetch=BATCH):
        if leaf_hash_of(row) != row["leaf_hash"]:
            raise PartitionBlocked(month, [(PartitionProblem.EVENT_CHANGED, str(row["position"]))])
        digest.update(row["position"].to_bytes(8, "big") + row["leaf_hash"])
        first = row["position"] if first is None else first
        events, last = events + 1, row["position"]
    return Contents(events, first, last, digest.digest())
