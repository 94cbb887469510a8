"""Rebuilds and verifications: a projection's rows are rebuilt in shadow tables.

Once the shadow has reached the live rows, one transaction under the live checkpoint's lock writes the differences into
the live tables. Readers see one change. No table is renamed, and no lock waits for a reader such as `pg_dump`: a host's
grants and views stay. Meanwhile the projection takes in no event (200,000 rows: 0.4 s, or 3 s if all differ).
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.log.reader import fetch_range, recorded
from guestledger.adapters.postgres.projections.checkpoints import Checkpoints
from guestledger.adapters.postgres.projections.poison import BATCH, Poisoned, batch_transaction, describe, each_batch
from guestledger.adapters.postgres.projections.registry import named
from guestledger.adapters.postgres.projections.row_changes import RowChanges
from guestledger.adapters.postgres.projections.shadow import Shadow, compare
from guestledger.adapters.postgres.transactions import (
    UNHURRIED_SECONDS,
    Driver,
    driver_connection,
    reading,
    short_transaction,
    transaction,
)
from guestledger.engine.domain.errors import ProjectionStopped, RebuildInterrupted
from guestledger.engine.projections.status import Verification

Progress = Callable[[int], None]
"""Receives each position reached."""


class Rebuild:
    """One rebuild or verification."""

    def __init__(self, engine: AsyncEngine, schema: str, name: str, progress: Progress) -> None:
        self._engine = engine
        self._schema = schema
        self._name = name
        self._projection = named(name)
        self._progress = progress
        self._checkpoints = Checkpoints(schema)
        self._shadows = [Shadow(table, schema) for table in self._projection.tables]
        self._checkpoint = f"{name}:rebuild"
        self._at = -1
        self._last = -1

    async def run(self) -> int:
        """Rebuild or resume, and replace the live rows. Returns how many differed.

        Raises `ProjectionStopped` (the shadow is kept), `RebuildInterrupted` if another process finished it.
        """
        await self._begin()
        await self._build()
        return await self._replace_live()

    async def verify(self) -> Verification:
        """Rebuild, compare, and empty the shadow. Raises as `run`, and `RebuildInterrupted` if a rebuild is unfinished."""
        self._checkpoint = f"{self._name}:verify"
        await self._begin()
        await self._build()
        found = await self._compare()
        async with self._transaction() as driver:
            if (await self._checkpoints.lock(driver, [self._checkpoint])).positions:
                await self._clear(driver)
        return found

    async def _begin(self) -> None:
        rebuild, verify = f"{self._name}:rebuild", f"{self._name}:verify"
        async with self._transaction() as driver:
            # One process begins at a time; only a later statement sees what another began.
            await self._lock_live(driver)
            if rebuild in (await self._checkpoints.lock(driver, [rebuild, verify])).positions:
                if self._checkpoint == rebuild:
                    return
                raise RebuildInterrupted(f"a rebuild of {self._name} is unfinished: it has to be finished first")
            await self._clear(driver)
            await self._checkpoints.add(driver, self._checkpoint)

    async def _build(self) -> None:
        """Approach the moving live checkpoint."""
        while (last := await self._live_position()) > self._at:
            await self._build_to(last)
            if await self._live_position() - self._at <= BATCH:
                return

    async def _build_to(self, last: int) -> None:
        async def advance(limit: int) -> int:
            async with batch_transaction(self._engine) as driver:
                return await self._take(driver, limit)

        self._last = last
        try:
            async for _ in each_batch(advance, BATCH):
                self._progress(self._at)
        except Poisoned as poisoned:
            with reported():
                async with reading(self._engine) as driver:
                    [event] = await fetch_range(driver, self._schema, after=self._at, upto=self._last, limit=1)
            raise ProjectionStopped(
                f"{self._name} cannot be rebuilt: {describe(event, poisoned.cause)}"
            ) from poisoned.cause

    async def _take(self, driver: Driver, limit: int) -> int:
        positions = (await self._checkpoints.lock(driver, [self._checkpoint])).positions
        if not positions:
            raise self._overtaken()
        self._at = positions[self._checkpoint]
        rows = await fetch_range(driver, self._schema, after=self._at, upto=self._last, limit=limit)
        changes = RowChanges(driver, self._schema, shadow=True)
        if rows:
            events = [recorded(row) for row in rows]
            await self._projection.apply(changes, events)
            self._at = events[-1].position
        else:
            # The partition of the last events has been detached.
            self._at = max(self._at, self._last)
        await changes.write([self._checkpoint], self._at)
        return len(rows)

    async def _replace_live(self) -> int:
        async with self._transaction() as driver:
            # From here on no projector changes the live rows.
            await self._build_to(await self._lock_live(driver))
            changed = 0
            for shadow in self._shadows:
                for statement in (shadow.delete_surplus, shadow.write_differing):
                    changed += int((await driver.execute(statement, timeout=UNHURRIED_SECONDS)).rpartition(" ")[2])
            await self._clear(driver)
            return changed

    async def _compare(self) -> Verification:
        with reported():
            async with AsyncExitStack() as stack:
                # The live rows are locked only until both are in one snapshot.
                async with self._transaction() as holder:
                    await self._build_to(await self._lock_live(holder))
                    reader = await stack.enter_async_context(self._snapshot())
                return await compare(reader, self._shadows, self._name, self._at)

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Driver]:
        async with (
            driver_connection(self._engine) as driver,
            transaction(driver, unhurried=True, isolation="REPEATABLE READ"),
        ):
            await driver.execute("SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'")  # the digests are of text
            # TRUNCATE shows in every snapshot, so it has to wait for this lock.
            for shadow in self._shadows:
                await driver.execute(shadow.lock)
            if await self._checkpoints.position(driver, self._checkpoint) != self._at:
                raise self._overtaken()
            yield driver

    async def _clear(self, driver: Driver) -> None:
        for shadow in self._shadows:
            await self._empty(driver, shadow)
        await self._checkpoints.drop(driver, [f"{self._name}:rebuild", f"{self._name}:verify"])

    async def _empty(self, driver: Driver, shadow: Shadow) -> None:
        # Catching up waits for this transaction, so it must not wait for a reader, such as pg_dump.
        await driver.execute("SAVEPOINT empty")
        try:
            await driver.execute(shadow.lock_alone)
        except asyncpg.LockNotAvailableError:
            await driver.execute("ROLLBACK TO empty")
            await driver.execute(shadow.delete_all, timeout=UNHURRIED_SECONDS)
        else:
            await driver.execute(shadow.truncate)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Driver]:
        with reported():
            async with short_transaction(self._engine, unhurried=True) as driver:
                yield driver

    async def _live_position(self) -> int:
        with reported():
            async with reading(self._engine) as driver:
                position = await self._checkpoints.position(driver, self._name)
        assert position is not None
        return position

    async def _lock_live(self, driver: Driver) -> int:
        return (await self._checkpoints.lock(driver, [self._name])).positions[self._name]

    def _overtaken(self) -> RebuildInterrupted:
        return RebuildInterrupted(f"another process rebuilt {self._name} at the same time")
