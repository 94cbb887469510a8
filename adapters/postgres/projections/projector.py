"""Brings the projections up to the log. Rows and checkpoint commit together, so each event counts once."""

import logging
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import NotAllowed, reported
from guestledger.adapters.postgres.log.reader import END, fetch_range, recorded
from guestledger.adapters.postgres.projections.checkpoints import Checkpoints
from guestledger.adapters.postgres.projections.poison import BATCH, Poisoned, batch_transaction, describe, each_batch
from guestledger.adapters.postgres.projections.reader_verification import ReaderVerification
from guestledger.adapters.postgres.projections.rebuild import Progress, Rebuild
from guestledger.adapters.postgres.projections.registry import PROJECTIONS
from guestledger.adapters.postgres.projections.row_changes import RowChanges
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import Driver, reading, short_transaction
from guestledger.adapters.postgres.unusable import DatabaseProblem, DatabaseUnusable
from guestledger.engine.projections.status import ProjectionStatus, Verification

logger = logging.getLogger("guestledger")


class _Advance(NamedTuple):
    read: int
    end: int
    """Of the log when the catch-up began."""
    finished: bool
    stopped: tuple[str, ...] = ()
    """By a poison event."""


class Projector:
    """Advances the projections."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self._schema = schema
        self._checkpoints = Checkpoints(schema)
        self._logged: set[str] = set()

    async def catch_up(self) -> int:
        """See `ReadModels.catch_up`. Concurrent calls wait for each other."""
        try:
            return await self._catch_up()
        except NotAllowed:
            await self._log_missing("this database user may not update the projections")
        except DatabaseUnusable as error:
            if error.problem is not DatabaseProblem.READ_ONLY:
                raise
            await self._log_missing("this database is read-only")
        return 0

    async def status(self) -> list[ProjectionStatus]:
        """See `ReadModels.status`."""
        s = quoted(self._schema)
        statement = f"""
            SELECT live.projection, live.position, head.position, live.stopped_at, live.error, rebuild.position,
                   (SELECT clock_timestamp() - recorded_at FROM {s}.events AS e
                     WHERE e.position > live.position ORDER BY e.position LIMIT 1)
              FROM (SELECT coalesce(max(position), -1) AS position FROM {s}.batches) AS head, {s}.checkpoints AS live
              LEFT JOIN {s}.checkpoints AS rebuild ON rebuild.projection = live.projection || ':rebuild'
             WHERE live.projection = ANY($1::text[]) ORDER BY live.projection"""
        with reported():
            async with reading(self._engine) as driver:
                rows = await driver.fetch(statement, list(PROJECTIONS))
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

    async def rebuild(self, name: str, progress: Progress) -> int:
        """See `ReadModels.rebuild`. Resumes an interrupted one. Uses two connections."""
        return await Rebuild(self._engine, self._schema, name, progress).run()

    async def verify(self, name: str, progress: Progress) -> Verification:
        """See `ReadModels.verify`. Uses two connections."""
        try:
            return await Rebuild(self._engine, self._schema, name, progress).verify()
        except NotAllowed:
            return await ReaderVerification(self._engine, self._schema, name, progress).verify()

    async def _catch_up(self) -> int:
        read, end = 0, None
        while True:
            try:
                advance = await self._advance_together(end)
            except Poisoned:
                return read + sum([await self._catch_up_alone(name, BATCH) for name in PROJECTIONS])
            read, end = read + advance.read, advance.end
            if advance.finished:
                return read + sum([await self._catch_up_alone(name, 1) for name in advance.stopped])

    async def _advance_together(self, end: int | None) -> _Advance:
        # The locks on the checkpoints keep other projectors out.
        async with batch_transaction(self._engine) as driver:
            locked = await self._checkpoints.lock(driver, list(PROJECTIONS))
            end = locked.head if end is None else end
            at = {name: position for name, position in locked.positions.items() if name not in locked.stopped}
            first = min(at.values(), default=end)
            if first >= end:
                return _Advance(0, end, True, locked.stopped)
            # One read serves all projections at the same position. It ends where another one is.
            upto = min((position for position in at.values() if position > first), default=end)
            behind = [name for name, position in at.items() if position == first]
            events = await self._project(driver, behind, after=first, upto=upto, limit=BATCH)
            finished = not events or (upto == end and len(behind) == len(at) and events < BATCH)
            return _Advance(events, end, finished, locked.stopped)

    async def _catch_up_alone(self, name: str, limit: int) -> int:
        read, after = 0, -1

        async def advance(limit: int) -> int:
            nonlocal after
            async with batch_transaction(self._engine) as driver:
                after = (await self._checkpoints.lock(driver, [name])).positions[name]
                return await self._project(driver, [name], after=after, upto=END, limit=limit)

        try:
            async for batch in each_batch(advance, limit):
                read += batch
        except Poisoned as poisoned:
            await self._stop(name, after, poisoned.cause)
        return read

    async def _project(self, driver: Driver, names: list[str], *, after: int, upto: int, limit: int) -> int:
        rows = await fetch_range(driver, self._schema, after=after, upto=upto, limit=limit)
        events = [recorded(row, marked=False) for row in rows]  # no projection reads a personal field
        if events:
            changes = RowChanges(driver, self._schema)
            for name in names:
                await PROJECTIONS[name].apply(changes, events)
            await changes.write(names, events[-1].position)
        return len(events)

    async def _stop(self, name: str, after: int, error: Exception) -> None:
        with reported():
            async with short_transaction(self._engine) as driver:
                [event] = await fetch_range(driver, self._schema, after=after, limit=1)
                text = describe(event, error)
                await self._checkpoints.stop(driver, name, event["position"], text)
        if (
            message := f"the projection {name} has stopped and is retried with every catch-up: {text}"
        ) not in self._logged:
            self._logged.add(message)
            logger.error(message)

    async def _log_missing(self, message: str) -> None:
        lag = max((status.lag_events for status in await self.status()), default=0)
        if lag and message not in self._logged:
            self._logged.add(message)
            logger.warning("%s: the output lacks the last %d events until a worker has projected them", message, lag)
