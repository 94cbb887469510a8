"""Taking a month out of the log, and bringing it back. It takes the right to change tables: this is the owner's.

What is detached stays a table, append-only as before, that can be dumped, dropped and restored. Its digest stays with the
ledger, so that nothing else than what was detached is ever attached again.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import date
from hashlib import sha256
from typing import NamedTuple

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.admin.partitions import DEFAULT, partition
from guestledger.adapters.postgres.admin.roles import OWNER, role_name
from guestledger.adapters.postgres.connection import Driver, NotAllowed, driver_connection, reported, transaction
from guestledger.adapters.postgres.log.reader import leaf_hash_of
from guestledger.adapters.postgres.statements import RECORDED, quoted
from guestledger.engine.domain.errors import PartitionRefused

BATCH = 2_000
# So long may appends wait for somebody who reads the log in a long transaction.
_LOCK_TIMEOUT = "2s"
# A session's id is made by its host's clock, and its first append may wait.
_MARGIN = "1 day"
_STRAY = "events_stray"


class Contents(NamedTuple):
    """What a month holds, and the SHA-256 over each position (8 bytes, big-endian) and the leaf hash there, in order."""

    events: int
    first_position: int | None
    last_position: int | None
    digest: bytes


class Archive:
    """The months of the ledger in one schema, for its owner."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self._schema = schema

    async def detach(self, month: date) -> Contents:
        """Take a month out of the log that is over, and that nothing works on or has still to read.

        Every event in it is held against its leaf hash before. Raises `PartitionRefused`, `ServiceError`.
        """
        s, table = quoted(self._schema), self._table(month)
        async with self._connection() as driver:
            if not await driver.fetchval(_IS_PARTITION, table, f"{s}.events"):
                raise PartitionRefused(f"{month:%Y-%m} is not attached: `guestledger partitions list` shows what is")
            async with driver.transaction(isolation="repeatable_read", readonly=True):
                contents = await _contents(driver, table)
            async with transaction(driver, unhurried=True):
                await self._shut_out_appends(driver)
                await driver.execute(f"ALTER TABLE {s}.events DETACH PARTITION {table}")
                # Only now nobody can begin to read it, so that what is found in use is all that is.
                await self._refuse_in_use(driver, month, contents)
                await driver.execute(
                    f"""
                    INSERT INTO {s}.detached_months
                           (month, first_id, end_id, events, first_position, last_position, digest, detached_at)
                    SELECT $1, {s}.first_id($1), {s}.first_id(($1 + interval '1 month')::date), $2, $3, $4, $5, now()""",
                    month,
                    *contents,
                )
        return contents

    async def attach(self, month: date) -> Contents:
        """Bring a month back, if its table holds just what was detached.

        A rebuild or verification that is under way has to begin again: it has passed the month. Raises `PartitionRefused`,
        `ServiceError`.
        """
        s, table = quoted(self._schema), self._table(month)
        async with self._connection() as driver, transaction(driver, unhurried=True):
            noted = await driver.fetchrow(
                f"SELECT events, first_position, last_position, digest FROM {s}.detached_months WHERE month = $1 FOR UPDATE",
                month,
            )
            if noted is None:
                raise PartitionRefused(f"{month:%Y-%m} is not detached: `guestledger partitions list` shows what is")
            if not await driver.fetchval("SELECT to_regclass($1) IS NOT NULL", table):
                raise PartitionRefused(f"the table {table} is not in this database: restore it from where it was kept")
            await driver.execute(f"LOCK TABLE {table} IN SHARE MODE")
            contents = await _contents(driver, table)
            if contents != tuple(noted):
                raise PartitionRefused(
                    f"{table} does not hold what was detached: {contents.events} events, and there were {noted['events']}, "
                    "or others: restore it from where it was kept"
                )
            # Only now, the month has been read: nobody appends, and no rebuild puts its rows in place.
            await self._shut_out_appends(driver)
            await driver.execute(f"SELECT FROM {s}.checkpoints ORDER BY projection FOR UPDATE")
            await driver.execute(f"DELETE FROM {s}.checkpoints WHERE projection LIKE '%:%'")
            async with self._default_emptied(driver):
                await driver.execute(f"SELECT {s}.guard('{partition(month)}')")
                await driver.execute(f"SELECT {s}.attach_month($1)", month)
            await driver.execute(f"DELETE FROM {s}.detached_months WHERE month = $1", month)
        return contents

    async def settle(self) -> int:
        """Move events that no month was made for into months of their own. Returns how many were moved.

        Raises `PartitionRefused`, `ServiceError`.
        """
        s = quoted(self._schema)
        count = f"SELECT count(*) FROM {s}.{DEFAULT}"
        async with self._connection() as driver, transaction(driver, unhurried=True):
            await self._shut_out_appends(driver)
            before: int = await driver.fetchval(count)
            async with self._default_emptied(driver):
                await driver.execute(f"SELECT {s}.make_months_of('{_STRAY}')")
            return before - int(await driver.fetchval(count))

    @asynccontextmanager
    async def _default_emptied(self, driver: Driver) -> AsyncIterator[None]:
        """Within the block there is a new, empty default partition; after it, every event of the old one goes where it belongs."""
        s = quoted(self._schema)
        await driver.execute(
            f"""
            ALTER TABLE {s}.events DETACH PARTITION {s}.{DEFAULT};
            ALTER TABLE {s}.{DEFAULT} RENAME TO {_STRAY};
            ALTER INDEX {s}.{DEFAULT}_pkey RENAME TO {_STRAY}_pkey;
            ALTER INDEX {s}.{DEFAULT}_position RENAME TO {_STRAY}_position;
            SELECT {s}.make_partition('{DEFAULT}');
            ALTER TABLE {s}.events ATTACH PARTITION {s}.{DEFAULT} DEFAULT"""
        )
        yield
        await driver.execute(
            f"INSERT INTO {s}.events SELECT * FROM {s}.{_STRAY} ORDER BY position; DROP TABLE {s}.{_STRAY}"
        )

    async def _refuse_in_use(self, driver: Driver, month: date, contents: Contents) -> None:
        """Raise `PartitionRefused` where the log without this month would miss what is still needed of it."""
        s, last = quoted(self._schema), -1 if contents.last_position is None else contents.last_position
        reasons = await driver.fetch(
            f"""
            SELECT 'it is not over yet, or not for a day'
             WHERE $1::date + interval '1 month' + interval '{_MARGIN}' > now() AT TIME ZONE 'UTC'
            UNION ALL
            SELECT 'events have come in meanwhile: try again'
             WHERE EXISTS (SELECT FROM {self._table(month)} WHERE position > $2::bigint)
            UNION ALL
            SELECT format('%s sessions that began in it still have work ahead', count(*)) FROM {s}.due_work
             WHERE stream_id >= {s}.first_id($1) AND stream_id < {s}.first_id(($1 + interval '1 month')::date)
            HAVING count(*) > 0
            UNION ALL
            SELECT format('the projection %s has not taken it in yet', projection)
              FROM {s}.checkpoints WHERE position < $2 AND projection NOT LIKE '%:%'
            UNION ALL
            SELECT format('a rebuild is unfinished: `guestledger projections rebuild %s` first', split_part(projection, ':', 1))
              FROM {s}.checkpoints WHERE position < $2 AND projection LIKE '%:rebuild'
            UNION ALL
            SELECT format('the consumer %s has not read it yet: if there is none any more, `guestledger consumers --forget %s`',
                          name, name)
              FROM {s}.consumers WHERE position < $2""",
            month,
            last,
        )
        if reasons:
            raise PartitionRefused(f"{month:%Y-%m} cannot be detached: {'; '.join(reason for (reason,) in reasons)}")

    @contextmanager
    def _owner_alone(self) -> Iterator[None]:
        try:
            yield
        except NotAllowed as error:
            raise NotAllowed(
                f"this database user may not change the ledger's tables ({error.refusal}): "
                f"log in, by GUESTLEDGER_MIGRATION_URL, as a member of {role_name(self._schema, OWNER)}",
                error.refusal,
            ) from None

    def _table(self, month: date) -> str:
        return f"{quoted(self._schema)}.{partition(month)}"

    async def _shut_out_appends(self, driver: Driver) -> None:
        """Keep every append waiting until the transaction ends."""
        await driver.execute(f"SELECT FROM {quoted(self._schema)}.head WHERE id = 1 FOR UPDATE")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Driver]:
        with self._owner_alone(), reported():
            async with driver_connection(self._engine) as driver:
                await driver.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
                try:
                    yield driver
                except asyncpg.LockNotAvailableError:
                    raise PartitionRefused(
                        f"others have read or written the log for {_LOCK_TIMEOUT} in one transaction: try again later"
                    ) from None


_IS_PARTITION = (
    "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass($1) AND inhparent = to_regclass($2))"
)


async def _contents(driver: Driver, table: str) -> Contents:
    """What `table` holds. Raises `PartitionRefused` at an event that does not fit its leaf hash."""
    events, first, last, digest = 0, None, None, sha256()
    async for row in driver.cursor(f"SELECT {RECORDED} FROM {table} ORDER BY position", prefetch=BATCH):
        if leaf_hash_of(row) != row["leaf_hash"]:
            raise PartitionRefused(f"the event at position {row['position']} in {table} is not what was recorded there")
        digest.update(row["position"].to_bytes(8, "big") + row["leaf_hash"])
        first = row["position"] if first is None else first
        events, last = events + 1, row["position"]
    return Contents(events, first, last, digest.digest())
