"""Stores that stop before each round trip, so that a test chooses the interleaving instead of a clock."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID

import asyncpg

from guestledger.adapters.clock import SystemClock
from guestledger.adapters.postgres.limits.rate_limiter import PostgresRateLimiter
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.pool import open_engine
from guestledger.engine.domain.due import DueStep, StepName
from guestledger.engine.domain.events import ChannelValidated
from guestledger.engine.domain.policy import Policy
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.log.appends import Append, Appended, StepChanges
from tests.keys import personal_data
from tests.postgres import as_administrator
from tests.sequence_store import SequenceStore

_clock = SystemClock()
_PATIENCE = 60.0  # seconds; outages in these tests are short

AnyStore = TypeVar("AnyStore", bound=PostgresEventStore)

Seen = tuple[int, UUID, int]
"""An event as a reader saw it: position, stream, version."""


def proposed(
    stream_id: UUID | None = None, *, version: int = 0, events: int = 1, key: str | None = None, **changes: Any
) -> Append:
    """An append of this many events to the stream (default: a new one)."""
    now = _clock.now()
    stream_id = stream_id or _clock.new_id()
    given: dict[str, Any] = {
        "stream_id": stream_id,
        "expected_version": version,
        "events": tuple(
            ChannelValidated(
                at=now, channel_id="ch_1", status="active", protocols=(str(number),), looked_up_at=now, cached=False
            )
            for number in range(version + 1, version + 1 + events)
        ),
        "steps": StepChanges(due=(DueStep(StepName.CREATE_SESSION, now),)),
        "actor": "test",
        "causation_id": _clock.new_id(),
        "correlation_id": str(stream_id),
        "idempotency_key": key,
    }
    return Append(**(given | changes))


class Paced:
    """A mixin for a store class: each round trip of a write waits until the test resumes it."""

    pid: int | None = None
    paused: asyncio.Future[None] | None = None
    statement = ""

    async def _write(self, driver: Any, batch: Any, **options: Any) -> Any:
        self.pid = driver.get_server_pid()
        try:
            return await super()._write(_Stepwise(driver, self), batch, **options)  # type: ignore[misc]
        finally:
            self.pid = None

    async def wait(self, statement: str) -> None:
        self.statement = statement
        self.paused = asyncio.get_running_loop().create_future()
        try:
            await self.paused
        finally:
            self.paused = None


class _Stepwise:
    def __init__(self, driver: Any, pace: Paced) -> None:
        self._driver = driver
        self._pace = pace

    async def execute(self, statement: str, *values: Any) -> Any:
        await self._pace.wait(statement)
        return await self._driver.execute(statement, *values)

    async def fetch(self, statement: str, *values: Any) -> Any:
        await self._pace.wait(statement)
        return await self._driver.fetch(statement, *values)


class PacedLockStore(Paced, PostgresEventStore):
    """The store itself."""


class PacedSequenceStore(Paced, SequenceStore):
    """The store with the planted bug."""


PacedStore = PacedLockStore | PacedSequenceStore


class Writer:
    """One append after another on a store of its own."""

    def __init__(self, store: PacedStore) -> None:
        self.store = store
        self.append: Append | None = None
        self.task: asyncio.Task[Appended] | None = None
        self.outcomes: list[tuple[Append, Appended | BaseException]] = []

    @property
    def idle(self) -> bool:
        return self.task is None

    def begin(self, append: Append) -> None:
        """Start the append. It stops before its first round trip."""
        assert self.idle
        self.append = append
        self.task = asyncio.create_task(self.store.append(append))

    def resume(self) -> bool:
        """Make the next round trip; False if none waits."""
        if self.store.paused is None or self.store.paused.done():
            return False
        self.store.paused.set_result(None)
        return True

    @property
    def before_commit(self) -> bool:
        """Whether everything is written and only the COMMIT waits."""
        return self.store.paused is not None and self.store.statement == "COMMIT"

    @property
    def at_rest(self) -> bool:
        """Whether this writer does nothing until the test resumes it."""
        if self.task is not None and self.task.done():
            assert self.append is not None
            error = self.task.exception()
            self.outcomes.append((self.append, error or self.task.result()))
            self.task = None
        return self.idle or (self.store.paused is not None and not self.store.paused.done())


class Stores:
    """Stores on one database and one pool."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url, "guestledger")
        self._open: list[PostgresEventStore] = []

    def open(self, kind: type[AnyStore] = PostgresEventStore, **options: Any) -> AnyStore:
        """A new store."""
        limiter = PostgresRateLimiter(self.engine, "guestledger", LimiterPolicy())
        store = kind(self.engine, "guestledger", limiter, personal_data(self.engine), Policy(), **options)
        self._open.append(store)
        return store

    async def close(self) -> None:
        for store in self._open:
            await store.close()
        await self.engine.dispose()


class Scene:
    """Several writers on one database."""

    def __init__(self, stores: Stores, watch: asyncpg.Connection, store: type[PacedStore], writers: int) -> None:
        self.watch = watch
        self.writers = [Writer(stores.open(store, patience=_PATIENCE)) for _ in range(writers)]
        self.reader = stores.open()

    async def settle(self) -> None:
        """Wait until each writer is idle, stops before a round trip, or waits for a lock in the database."""
        while True:
            await asyncio.sleep(0)
            running = [writer.store.pid for writer in self.writers if not writer.at_rest]
            if not running:
                return
            blocked = {pid for (pid,) in await self.watch.fetch("SELECT pid FROM pg_locks WHERE NOT granted")}
            if blocked.issuperset(pid for pid in running if pid is not None) and None not in running:
                return

    async def step(self, writer: Writer) -> bool:
        """Make one round trip of the writer, and wait for its consequences; False if none waits."""
        if not writer.resume():
            return False
        await self.settle()
        return True

    async def write_or_commit(self, writer: Writer) -> None:
        """Run the writer up to its COMMIT, or until another's lock stops it. If it is at its COMMIT, commit."""
        while await self.step(writer) and not (writer.idle or writer.before_commit):
            pass

    async def begin(self, writer: Writer, append: Append) -> None:
        writer.begin(append)
        await self.settle()

    async def finish(self, order: Sequence[Writer]) -> None:
        """Finish every append."""
        while not all(writer.idle for writer in self.writers):
            for writer in order:
                await self.step(writer)

    async def read(self, after: int, limit: int = 500) -> list[Seen]:
        """The next events of a reader at `after`."""
        async for batch in self.reader.read_all(after=after, batch=limit):
            return [(event.position, event.stream_id, event.version) for event in batch]
        return []

    async def log(self) -> list[Seen]:
        """The whole log now, read without the store."""
        rows = await self.watch.fetch("SELECT position, stream_id, version FROM guestledger.events ORDER BY position")
        return [(position, stream_id, version) for position, stream_id, version in rows]


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A separate connection as the administrator."""
    connection = await asyncpg.connect(as_administrator(url).replace("+asyncpg", ""))
    try:
        yield connection
    finally:
        await connection.close()


class Tail:
    """A reader that continues where it stopped."""

    def __init__(self, position: int = -1) -> None:
        self.started_after = position
        self.seen: list[Seen] = []

    @property
    def position(self) -> int:
        return self.seen[-1][0] if self.seen else self.started_after

    async def read(self, scene: Scene, limit: int = 500) -> None:
        self.seen += await scene.read(self.position, limit)

    def fault(self, log: Sequence[Seen]) -> str | None:
        """What this reader missed or saw out of order, compared with the final log; `None`: nothing."""
        due = [entry for entry in log if self.started_after < entry[0] <= self.position]
        if self.seen == due:
            return None
        missed = [entry[0] for entry in due if entry not in self.seen]
        return f"skipped positions {missed} before {self.position}" if missed else "saw events out of order"
