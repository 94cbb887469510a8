"""Making a projection's rows anew from the log, beside the live ones, which writers and the projector go on with.

The rows are made in shadow tables, with a checkpoint of their own, so that a rebuild goes on where a crash cut it off. When
they have come up to the live ones, one transaction under the live checkpoint's lock brings what differs into the live
tables. To a reader, at any isolation level, it is one change; and as no table is renamed, a reader with a long transaction
holds nothing up, no right to make or drop a table is needed, and a host's grants, views and publications stay.

The price: the projection takes in no event while its rows are compared and those that differ are written (200,000 rows:
0.4 s, and 3 s where every one of them differs). Appends do not wait for that; a reading that first catches up does.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.connection import Driver, driver_connection, reported, short_transaction
from guestledger.adapters.postgres.log.reader import recorded
from guestledger.adapters.postgres.projections.poison import BATCH, Poisoned, batch_transaction, describe, each_batch
from guestledger.adapters.postgres.projections.registry import RowChanges, named
from guestledger.adapters.postgres.projections.shadow import Shadow
from guestledger.adapters.postgres.statements import Statements
from guestledger.engine.domain.errors import ProjectionStopped, RebuildInterrupted
from guestledger.engine.projections.status import Verification

MAX_SHOWN = 10

Advanced = Callable[[int], None]
"""Is told the position of the last event that was taken in."""


class Rebuild:
    """One projection's rows, made anew."""

    def __init__(self, engine: AsyncEngine, schema: str, name: str, advanced: Advanced) -> None:
        self._engine = engine
        self._schema = schema
        self._name = name
        self._projection = named(name)
        self._advanced = advanced
        self._sql = Statements(schema)
        self._shadows = [Shadow(table, schema) for table in self._projection.tables]
        self._checkpoint = f"{name}:rebuild"
        self._at = -1
        self._last = -1

    async def run(self) -> int:
        """Rebuild, or go on with a rebuild that was interrupted, and put the rows in place of the live ones.

        Returns how many rows differed. Raises `ProjectionStopped` at an event that cannot be taken in (what was made stays,
        to go on from), `RebuildInterrupted` when another process has finished the same rebuild meanwhile.
        """
        await self._begin()
        await self._build()
        return await self._replace_live()

    async def verify(self) -> Verification:
        """Rebuild up to the live checkpoint, compare, and empty the shadow again. The live rows are left as they are.

        Raises as `run` does, and `RebuildInterrupted` while a rebuild is under way or waits to be finished.
        """
        self._checkpoint = f"{self._name}:verify"
        await self._begin()
        await self._build()
        found = await self._compare()
        async with self._transaction() as driver:
            if await driver.fetch(self._sql.checkpoints, [self._checkpoint]):
                await self._clear(driver)
        return found

    async def _begin(self) -> None:
        rebuild, verify = f"{self._name}:rebuild", f"{self._name}:verify"
        async with self._transaction() as driver:
            # The live checkpoint's lock lets one process begin at a time; only a later statement sees what another began.
            await self._lock_live(driver)
            found = {name for name, *_ in await driver.fetch(self._sql.checkpoints, [rebuild, verify])}
            if rebuild in found:
                if self._checkpoint == rebuild:
                    return
                raise RebuildInterrupted(
                    f"a rebuild of {self._name} is under way or was interrupted: "
                    f"`guestledger projections rebuild {self._name}` goes on with it, verify after that"
                )
            await self._clear(driver)
            await driver.execute(self._sql.new_checkpoint, self._checkpoint)

    async def _build(self) -> None:
        """Come up to the live checkpoint, which may move on meanwhile, so far that one batch makes up the rest."""
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
                self._advanced(self._at)
        except Poisoned as poisoned:
            with reported():
                async with driver_connection(self._engine) as driver:
                    [event] = await driver.fetch(self._sql.read_all, self._at, self._last, 1)
            raise ProjectionStopped(
                f"{self._name} cannot be rebuilt: {describe(event, poisoned.cause)}"
            ) from poisoned.cause

    async def _take(self, driver: Driver, limit: int) -> int:
        """Bring the next batch, up to `self._last`, into the shadow; returns how many events it had."""
        found = await driver.fetch(self._sql.checkpoints, [self._checkpoint])
        if not found:
            raise self._gave_way()
        self._at = found[0]["position"]
        rows = await driver.fetch(self._sql.read_all, self._at, self._last, limit)
        if not rows:
            # Nothing lies up to there any more where the last month that was taken in live has been detached.
            self._at = max(self._at, self._last)
            await driver.execute(self._sql.move_checkpoints, [self._checkpoint], self._at)
            return 0
        events = [recorded(row) for row in rows]
        await self._projection.apply(RowChanges(driver, self._schema, shadow=True), events)
        self._at = events[-1].position
        await driver.execute(self._sql.move_checkpoints, [self._checkpoint], self._at)
        return len(events)

    async def _replace_live(self) -> int:
        async with self._transaction() as driver:
            # From here on the live rows stand still, until they and the shadow's have become one.
            await self._build_to(await self._lock_live(driver))
            changed = 0
            for shadow in self._shadows:
                for statement in (shadow.delete_surplus, shadow.write_differing):
                    changed += int((await driver.execute(statement)).rpartition(" ")[2])
            await self._clear(driver)
            return changed

    async def _compare(self) -> Verification:
        with reported():
            async with AsyncExitStack() as stack:
                # The live rows stand still until both are in one snapshot; comparing them then holds nobody up.
                async with self._transaction() as holder:
                    await self._build_to(await self._lock_live(holder))
                    reader = await stack.enter_async_context(self._snapshot())
                rows, digest = await self._digest(reader, [shadow.live_rows for shadow in self._shadows])
                _, rebuilt_digest = await self._digest(reader, [shadow.shadow_rows for shadow in self._shadows])
                differing: list[str] = []
                for shadow in self._shadows if digest != rebuilt_digest else ():
                    differing += [text for (text,) in await reader.fetch(shadow.differing, MAX_SHOWN)]
        return Verification(
            name=self._name,
            position=self._at,
            rows=rows,
            digest=digest,
            rebuilt_digest=rebuilt_digest,
            differing=tuple(differing[:MAX_SHOWN]),
        )

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Driver]:
        """A connection that sees live and shadow rows as they are now, until the block ends."""
        async with driver_connection(self._engine) as driver, driver.transaction(isolation="repeatable_read"):
            await driver.execute("SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'")  # digests are of text
            # Emptying a table shows at once in every snapshot, so whoever wants to has to wait for this lock.
            for shadow in self._shadows:
                await driver.execute(shadow.lock)
            if await driver.fetchval(self._sql.checkpoint, self._checkpoint) != self._at:
                raise self._gave_way()
            yield driver

    async def _digest(self, driver: Driver, statements: list[str]) -> tuple[int, str]:
        """How many rows these statements give, and the SHA-256 over them."""
        rows, digest = 0, sha256()
        for statement in statements:
            async for (row,) in driver.cursor(statement, prefetch=BATCH):
                digest.update(row)
                rows += 1
        return rows, digest.hexdigest()

    async def _clear(self, driver: Driver) -> None:
        for shadow in self._shadows:
            await driver.execute(shadow.clear)
        await driver.execute(self._sql.drop_checkpoints, [f"{self._name}:rebuild", f"{self._name}:verify"])

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Driver]:
        with reported():
            async with short_transaction(self._engine, unhurried=True) as driver:
                yield driver

    async def _live_position(self) -> int:
        with reported():
            async with driver_connection(self._engine) as driver:
                position: int = await driver.fetchval(self._sql.checkpoint, self._name)
                return position

    async def _lock_live(self, driver: Driver) -> int:
        [(_, position, _)] = await driver.fetch(self._sql.checkpoints, [self._name])
        return int(position)

    def _gave_way(self) -> RebuildInterrupted:
        return RebuildInterrupted(
            f"another rebuild of {self._name} took this one's place: see `guestledger projections list`"
        )
