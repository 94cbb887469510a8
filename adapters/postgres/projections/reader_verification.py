"""Verification by a user who only reads: the rows are rebuilt in temporary tables, in one transaction and snapshot."""

from collections.abc import Callable

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.log.reader import fetch_range, recorded
from guestledger.adapters.postgres.projections.checkpoints import Checkpoints
from guestledger.adapters.postgres.projections.poison import BATCH, Poisoned, describe, each_batch, lies_in_the_events
from guestledger.adapters.postgres.projections.registry import named
from guestledger.adapters.postgres.projections.row_changes import RowChanges
from guestledger.adapters.postgres.projections.shadow import Shadow, compare, shadow_name
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import Driver, driver_connection, transaction
from guestledger.engine.domain.errors import ProjectionStopped
from guestledger.engine.projections.status import Verification

_TEMPORARY = "pg_temp"


class ReaderVerification:
    """One verification. The log is read without personal data that the projections do not show."""

    def __init__(self, engine: AsyncEngine, schema: str, name: str, progress: Callable[[int], None]) -> None:
        self._engine = engine
        self._schema = schema
        self._name = name
        self._projection = named(name)
        self._progress = progress
        self._shadows = [Shadow(table, schema, shadow_schema=_TEMPORARY) for table in self._projection.tables]
        self._at = -1

    async def verify(self) -> Verification:
        """Compare the live rows with the log. Raises `ProjectionStopped` and `ServiceError`."""
        with reported():
            async with (
                driver_connection(self._engine) as driver,
                transaction(driver, unhurried=True, isolation="REPEATABLE READ"),
            ):
                await driver.execute(
                    "SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'"
                )  # the digests are of text
                await self._create_tables(driver)
                last = await Checkpoints(self._schema).position(driver, self._name)
                await self._build(driver, -1 if last is None else last)
                return await compare(driver, self._shadows, self._name, -1 if last is None else last)

    async def _create_tables(self, driver: Driver) -> None:
        s = quoted(self._schema)
        await driver.execute(
            f"CREATE TEMP TABLE checkpoints (LIKE {s}.checkpoints) ON COMMIT DROP;"
            f"INSERT INTO {_TEMPORARY}.checkpoints (projection, position) VALUES ('{self._name}', -1)"
        )
        for table in self._projection.tables:
            key = ", ".join(column.name for column in table.primary_key)
            await driver.execute(
                f"CREATE TEMP TABLE {shadow_name(table)} (LIKE {s}.{table.name}, PRIMARY KEY ({key})) ON COMMIT DROP"
            )

    async def _build(self, driver: Driver, last: int) -> None:
        async def advance(limit: int) -> int:
            await driver.execute("SAVEPOINT batch")
            try:
                return await self._take(driver, last, limit)
            except Exception as error:
                if not lies_in_the_events(error):
                    raise
                await driver.execute("ROLLBACK TO SAVEPOINT batch")
                raise Poisoned(error) from error

        try:
            async for _ in each_batch(advance, BATCH):
                self._progress(self._at)
        except Poisoned as poisoned:
            [event] = await self._events(driver, last, 1)
            raise ProjectionStopped(
                f"{self._name} cannot be verified: {describe(event, poisoned.cause)}"
            ) from poisoned.cause

    async def _take(self, driver: Driver, last: int, limit: int) -> int:
        rows = await self._events(driver, last, limit)
        if rows:
            events = [recorded(row) for row in rows]
            changes = RowChanges(driver, _TEMPORARY, shadow=True)
            await self._projection.apply(changes, events)
            await changes.write([self._name], events[-1].position)
            self._at = events[-1].position
        await driver.execute("RELEASE SAVEPOINT batch")
        return len(rows)

    async def _events(self, driver: Driver, last: int, limit: int) -> list[object]:
        rows = await fetch_range(driver, self._schema, after=self._at, upto=last, limit=limit)
        return list(rows)
