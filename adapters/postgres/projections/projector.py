"""Bringing the projections up to the log: a batch's row changes and the checkpoint commit together, so each is exact."""

import logging
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.connection import Driver, NotAllowed, driver_connection, reported, short_transaction
from guestledger.adapters.postgres.log.reader import recorded
from guestledger.adapters.postgres.projections.poison import BATCH, Poisoned, batch_transaction, describe, each_batch
from guestledger.adapters.postgres.projections.rebuild import Advanced, Rebuild
from guestledger.adapters.postgres.projections.registry import PROJECTIONS, RowChanges
from guestledger.adapters.postgres.statements import END, Statements
from guestledger.engine.projections.status import ProjectionStatus, Verification

logger = logging.getLogger("guestledger")


class _Advance(NamedTuple):
    read: int
    stopped: tuple[str, ...]
    """Projections that a poisoned event holds up."""


class Projector:
    """Carries the projections from their checkpoints to the end of the log."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self._schema = schema
        self._sql = Statements(schema)
        self._told: set[str] = set()

    async def catch_up(self) -> int:
        """Bring every projection up to the log's present end. Returns how many events were read for them.

        Whoever comes second waits for the first, so on return the rows hold all that was committed before. A projection
        that cannot take an event in stops there alone, says so (log, `standing`), and is tried again by the next call.
        Where the database user may only read, an auditor's, it is left to others: the log says what the rows then lack.
        """
        try:
            return await self._catch_up()
        except NotAllowed:
            await self._leave_it_to_others()
            return 0

    async def _catch_up(self) -> int:
        read, end = 0, await self._end()
        while True:
            try:
                advance = await self._advance_together(end)
            except Poisoned:
                return read + sum([await self._catch_up_alone(name, BATCH) for name in PROJECTIONS])
            read += advance.read
            if not advance.read:
                return read + sum([await self._catch_up_alone(name, 1) for name in advance.stopped])

    async def standing(self) -> list[ProjectionStatus]:
        """Every projection, and how far behind the log it is."""
        with reported():
            async with driver_connection(self._engine) as driver:
                rows = await driver.fetch(self._sql.projections, list(PROJECTIONS))
        return [
            ProjectionStatus(
                name=name,
                position=position,
                head=head,
                lag_seconds=max(0.0, waited.total_seconds()) if waited else 0.0,
                stopped_at=stopped_at,
                error=error,
                rebuilt_to=rebuilt_to,
            )
            for name, position, head, stopped_at, error, rebuilt_to, waited in rows
        ]

    async def rebuild(self, name: str, advanced: Advanced) -> int:
        """Make the rows of a projection anew from the log and put them in place of the live ones, all at once.

        Writers, readers and the projector go on meanwhile; a rebuild that was cut off is gone on with. `advanced` is told
        each position on the way. Uses two connections at once. Returns how many rows differed. Raises `UnknownProjection`,
        `ProjectionStopped` at an event that cannot be taken in, `RebuildInterrupted` when another process did the same
        meanwhile.
        """
        return await Rebuild(self._engine, self._schema, name, advanced).run()

    async def verify(self, name: str, advanced: Advanced) -> Verification:
        """DenialReason the rows of a projection against those that the log gives anew; both stay as they are.

        Uses two connections at once. Raises as `rebuild` does, and `RebuildInterrupted` while a rebuild is unfinished.
        """
        return await Rebuild(self._engine, self._schema, name, advanced).verify()

    async def _leave_it_to_others(self) -> None:
        lag = max((standing.lag_events for standing in await self.standing()), default=0)
        told = "this database user may not bring the projections up to the log"
        if lag and told not in self._told:
            self._told.add(told)
            logger.warning("%s: what is shown lacks its last %d events, until a worker has taken them in", told, lag)

    async def _end(self) -> int:
        with reported():
            async with driver_connection(self._engine) as driver:
                end: int = await driver.fetchval(self._sql.end)
        return end

    async def _advance_together(self, end: int) -> _Advance:
        # The locks on the checkpoints keep a second projector out; a crash takes rows and checkpoints back together.
        async with batch_transaction(self._engine) as driver:
            rows = await driver.fetch(self._sql.checkpoints, list(PROJECTIONS))
            at = {name: position for name, position, error in rows if error is None}
            stopped = tuple(name for name, _, error in rows if error is not None)
            if not at:
                return _Advance(0, stopped)
            last = min(at.values())
            if last >= end:  # writers may be faster than this: what they add meanwhile is the next call's
                return _Advance(0, stopped)
            # One reading serves all that stand at the same position; one that is ahead is met there, never passed.
            upto = min((position for position in at.values() if position > last), default=end)
            behind = [name for name, position in at.items() if position == last]
            return _Advance(await self._project(driver, behind, last, upto, BATCH), stopped)

    async def _catch_up_alone(self, name: str, limit: int) -> int:
        read, after = 0, -1

        async def advance(limit: int) -> int:
            nonlocal after
            async with batch_transaction(self._engine) as driver:
                [(_, after, _)] = await driver.fetch(self._sql.checkpoints, [name])
                return await self._project(driver, [name], after, END, limit)

        try:
            async for batch in each_batch(advance, limit):
                read += batch
        except Poisoned as poisoned:
            await self._stop(name, after, poisoned.cause)
        return read

    async def _project(self, driver: Driver, names: list[str], after: int, upto: int, limit: int) -> int:
        events = [recorded(row) for row in await driver.fetch(self._sql.read_all, after, upto, limit)]
        if events:
            for name in names:
                await PROJECTIONS[name].apply(RowChanges(driver, self._schema), events)
            await driver.execute(self._sql.move_checkpoints, names, events[-1].position)
        return len(events)

    async def _stop(self, name: str, after: int, error: Exception) -> None:
        with reported():
            async with short_transaction(self._engine) as driver:
                [event] = await driver.fetch(self._sql.read_all, after, END, 1)
                text = describe(event, error)
                await driver.execute(self._sql.stop_projection, name, event["position"], text)
        if (told := f"the projection {name} stands still, and is tried again now and then: {text}") not in self._told:
            self._told.add(told)
            logger.error(told)
