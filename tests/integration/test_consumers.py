"""Named consumers: at least once, from their own checkpoint, one process at a time."""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.clock import SystemClock
from guestledger.adapters.postgres.log.consumers import PostgresConsumers
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.pool import open_engine
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.limits.retry import RetryPolicy
from guestledger.engine.log.appends import Lease
from guestledger.engine.log.recorded import EventFilter, RecordedEvent
from guestledger.engine.operations.consume import Consumer, ConsumerOptions, Handler
from guestledger.engine.ports.consumers import ConsumerRow
from tests import logs
from tests.event_stores import open_store
from tests.pacing import proposed

PATIENCE = 60.0  # seconds until a test that hangs fails
AT_ONCE = RetryPolicy(base_ms=1, cap_ms=20)
PACE = ConsumerOptions(batch=10, poll_ms=20, backoff=AT_ONCE)
SHORT_LEASE = ConsumerOptions(batch=10, poll_ms=20, lease_ms=300, backoff=AT_ONCE)


@pytest.fixture
async def engine(ledger_url: str) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(ledger_url, "guestledger")
    yield engine
    await engine.dispose()


@pytest.fixture
async def store(engine: AsyncEngine) -> AsyncIterator[PostgresEventStore]:
    store = open_store(engine)
    yield store
    await store.close()


@pytest.fixture
def checkpoints(engine: AsyncEngine) -> PostgresConsumers:
    return PostgresConsumers(engine, "guestledger")


class Sink:
    """A handler that keeps what it was given, and that a test can wait for."""

    def __init__(self, before: Callable[[Sequence[RecordedEvent]], Awaitable[None]] | None = None) -> None:
        self.before = before
        self.batches: list[list[int]] = []
        self._came = asyncio.Condition()

    async def __call__(self, events: Sequence[RecordedEvent]) -> None:
        if self.before is not None:
            await self.before(events)
        async with self._came:
            self.batches.append([event.position for event in events])
            self._came.notify_all()

    @property
    def positions(self) -> list[int]:
        return [position for batch in self.batches for position in batch]

    async def has(self, position: int) -> None:
        async with asyncio.timeout(PATIENCE), self._came:
            await self._came.wait_for(lambda: position in self.positions)


@asynccontextmanager
async def running(
    store: PostgresEventStore,
    checkpoints: Any,
    handler: Handler,
    *,
    name: str = "warehouse",
    pace: ConsumerOptions = PACE,
    **more: Any,
) -> AsyncIterator[asyncio.Task[None]]:
    """A consumer that runs beside the block, and is cancelled at its end."""
    consumer = Consumer(name, handler, store=store, checkpoints=checkpoints, clock=SystemClock(), options=pace, **more)
    task: asyncio.Task[None] = asyncio.create_task(consumer.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def stands_at(checkpoints: PostgresConsumers, name: str = "warehouse", *, wanted: int) -> ConsumerRow:
    """The consumer's row, once its checkpoint is `wanted`."""
    async with asyncio.timeout(PATIENCE):
        while True:
            for row in await checkpoints.all():
                if row.name == name and row.position == wanted:
                    return row
            await asyncio.sleep(0.01)


async def test_a_consumer_receives_the_log_in_order_and_then_new_events(
    ledger_url: str, store: PostgresEventStore, checkpoints: PostgresConsumers
) -> None:
    await logs.write(ledger_url, 25)
    sink = Sink()
    async with running(store, checkpoints, sink):
        await sink.has(24)
        await store.append(proposed(events=5))
        await sink.has(29)
        assert await stands_at(checkpoints, wanted=29) == ConsumerRow(
            name="warehouse", position=29, lag=0, running=True
        )
    assert sink.positions == list(range(30))
    assert max(map(len, sink.batches)) == PACE.batch
    (row,) = await checkpoints.all()
    assert not row.running, "a consumer that ends releases its lease"


async def test_a_consumer_resumes_from_its_checkpoint(
    ledger_url: str, store: PostgresEventStore, checkpoints: PostgresConsumers
) -> None:
    await logs.write(ledger_url, 25)
    first, second = Sink(), Sink()
    async with running(store, checkpoints, first):
        await stands_at(checkpoints, wanted=24)
    await store.append(proposed(events=5))
    async with running(store, checkpoints, second):
        await second.has(29)
    assert second.positions == list(range(25, 30))


async def test_each_consumer_has_its_own_checkpoint_and_start(
    ledger_url: str, store: PostgresEventStore, checkpoints: PostgresConsumers
) -> None:
    await logs.write(ledger_url, 25)
    queue, warehouse = Sink(), Sink()
    async with (
        running(store, checkpoints, queue, name="queue", start=19),
        running(store, checkpoints, warehouse),
    ):
        await stands_at(checkpoints, "queue", wanted=24)
        await stands_at(checkpoints, wanted=24)
    assert queue.positions == list(range(20, 25))
    assert warehouse.positions == list(range(25))
    assert [row.name for row in await checkpoints.all()] == ["queue", "warehouse"]


async def test_the_checkpoint_moves_past_events_that_do_not_match(
    ledger_url: str, store: PostgresEventStore, checkpoints: PostgresConsumers
) -> None:
    await logs.write(ledger_url, 500)
    sink = Sink()
    async with running(store, checkpoints, sink, wanted=EventFilter(types=("TokenExpired",))):
        await stands_at(checkpoints, wanted=499)
    assert sink.batches == []


class CutOff:
    """Checkpoints that are never moved: whatever is handled, its process ends before that."""

    def __init__(self, checkpoints: PostgresConsumers) -> None:
        self._checkpoints = checkpoints

    def __getattr__(self, name: str) -> Any:
        return getattr(self._checkpoints, name)

    async def move(self, *_given: object) -> bool:
        await asyncio.Event().wait()
        raise AssertionError


async def test_events_handled_after_the_last_checkpoint_are_repeated(
    ledger_url: str, store: PostgresEventStore, checkpoints: PostgresConsumers
) -> None:
    await logs.write(ledger_url, 25)
    first, second = Sink(), Sink()
    async with running(store, CutOff(checkpoints), first):
        await first.has(9)
    async with running(store, checkpoints, second):
        await second.has(24)
    assert first.positions == list(range(10))
    assert second.positions == list(range(25))


async def test_a_cancelled_handler_receives_its_batch_again(
    ledger_url: str, store: PostgresEventStore, checkpoints: PostgresConsumers
) -> None:
    await logs.write(ledger_url, 5)
    handling = asyncio.Event()

    async def hang(_events: Sequence[RecordedEvent]) -> None:
        handling.set()
        await asyncio.Event().wait()

    async with running(store, checkpoints, hang), asyncio.timeout(PATIENCE):
        await handling.wait()
    sink = Sink()
    async with running(store, checkpoints, sink):
        await sink.has(4)
    assert sink.positions == list(range(5))


KILLED = """
import asyncio, os, signal, sys
from guestledger.adapters.clock import SystemClock
from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.postgres.log.consumers import PostgresConsumers
from guestledger.engine.operations.consume import Consumer, ConsumerOptions
from tests.event_stores import open_store

async def main():
    engine = open_engine(sys.argv[1], "guestledger")
    async def handle(events):
        for event in events:
            print(event.position, flush=True)
        if events[-1].position >= 14:
            os.kill(os.getpid(), signal.SIGKILL)
    await Consumer(
        "warehouse", handle, store=open_store(engine),
        checkpoints=PostgresConsumers(engine, "guestledger"), clock=SystemClock(), options=ConsumerOptions(batch=5, lease_ms=300),
    ).run()

asyncio.run(main())
"""


async def test_a_killed_consumer_is_taken_over_after_its_lease(
    ledger_url: str, store: PostgresEventStore, checkpoints: PostgresConsumers
) -> None:
    await logs.write(ledger_url, 25)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, ledger_url, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    out, _ = await process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [int(line) for line in out.split()] == list(range(15))
    sink = Sink()
    async with running(store, checkpoints, sink, pace=SHORT_LEASE):
        await sink.has(24)
    assert sink.positions == list(range(10, 25)), "again from the last checkpoint, the one before the kill"


async def test_one_process_at_a_time_consumes_and_others_stand_by(
    ledger_url: str, store: PostgresEventStore, checkpoints: PostgresConsumers
) -> None:
    await logs.write(ledger_url, 200)
    under_way, most = 0, 0

    async def count(_events: Sequence[RecordedEvent]) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            await asyncio.sleep(0.02)
        finally:
            under_way -= 1

    sinks = [Sink(count) for _ in range(3)]
    async with (
        running(store, checkpoints, sinks[0], pace=PACE) as first,
        running(store, checkpoints, sinks[1], pace=PACE) as second,
        running(store, checkpoints, sinks[2], pace=PACE),
    ):
        await asyncio.sleep(0.1)
        first.cancel()
        await asyncio.sleep(0.1)
        second.cancel()
        await stands_at(checkpoints, wanted=199)
    assert most == 1
    assert {position for sink in sinks for position in sink.positions} == set(range(200))


async def test_a_lease_is_renewed_while_the_handler_runs(
    ledger_url: str, store: PostgresEventStore, checkpoints: PostgresConsumers
) -> None:
    await logs.write(ledger_url, 5)
    pace = replace(PACE, lease_ms=2_000)  # renewed each third of it, also where the machine is slow

    async def linger(_events: Sequence[RecordedEvent]) -> None:
        await asyncio.sleep(1.5 * pace.lease_ms / 1_000)

    slow, other = Sink(linger), Sink()
    async with running(store, checkpoints, slow, pace=pace):
        await asyncio.sleep(0.1)
        async with running(store, checkpoints, other, pace=pace):
            await slow.has(4)
    assert other.positions == []


class OutOfReach(PostgresConsumers):
    """The database cannot be reached to keep the lease."""

    async def keep(self, _name: str, _lease: Lease) -> bool:
        raise ServiceUnreachable("cut off")


async def test_a_consumer_that_cannot_renew_its_lease_stops_its_handler(
    ledger_url: str, store: PostgresEventStore, engine: AsyncEngine
) -> None:
    await logs.write(ledger_url, 5)
    stopped = asyncio.Event()

    async def hang(_events: Sequence[RecordedEvent]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with running(store, OutOfReach(engine, "guestledger"), hang, pace=replace(PACE, lease_ms=300)):
        async with asyncio.timeout(PATIENCE):
            await stopped.wait()


class NoAnswer(PostgresConsumers):
    """The database gives no answer to renewals. The answer to a claim takes `claim_s`."""

    claim_s = 0.0

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine, "guestledger")
        self.renewals: list[int] = []
        """How many were begun, by claim."""

    async def claim(self, *given: Any) -> int | None:
        position = await super().claim(*given)
        self.renewals.append(0)
        await asyncio.sleep(self.claim_s)
        return position

    async def keep(self, _name: str, _lease: Lease) -> bool:
        self.renewals[-1] += 1
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize(("claim_s", "renewals"), [(0.0, 1), (0.29, 0)])
async def test_a_consumers_lease_ends_also_while_the_database_gives_no_answer(
    ledger_url: str, store: PostgresEventStore, engine: AsyncEngine, claim_s: float, renewals: int
) -> None:
    """A renewal is tried after each third of the lease. The first one hangs for a third; the next would come too late."""
    await logs.write(ledger_url, 5)
    checkpoints = NoAnswer(engine)
    checkpoints.claim_s = claim_s

    async def hang(_events: Sequence[RecordedEvent]) -> None:
        await asyncio.Event().wait()

    async with running(store, checkpoints, hang, pace=replace(PACE, lease_ms=300)), asyncio.timeout(PATIENCE):
        while len(checkpoints.renewals) < 4:
            await asyncio.sleep(0.01)
    assert max(checkpoints.renewals[:3]) <= renewals


async def test_a_forgotten_consumer_has_no_checkpoint(
    ledger_url: str, store: PostgresEventStore, checkpoints: PostgresConsumers
) -> None:
    await logs.write(ledger_url, 5)
    async with running(store, checkpoints, Sink(), name="typo"):
        await stands_at(checkpoints, "typo", wanted=4)

    assert await checkpoints.forget("typo")

    assert await checkpoints.all() == []
    assert not await checkpoints.forget("typo")


async def test_a_lost_lease_does_not_move_the_checkpoint_back(
    ledger_url: str, engine: AsyncEngine, store: PostgresEventStore, checkpoints: PostgresConsumers
) -> None:
    await logs.write(ledger_url, 25)
    connection = await logs.connect(ledger_url)
    taken_over = False

    async def take_over(_events: Sequence[RecordedEvent]) -> None:
        nonlocal taken_over
        if not taken_over:
            taken_over = True
            await connection.execute(
                "UPDATE guestledger.consumers SET owner = gen_random_uuid(), position = 19, lease_until = now()"
            )

    sink = Sink(take_over)
    async with running(store, checkpoints, sink):
        await sink.has(24)
    await connection.close()
    assert sink.positions == [*range(10), *range(20, 25)], "it took the consumer up again where the other had left it"


async def test_a_failing_handler_is_retried_and_blocks_no_other(
    ledger_url: str, store: PostgresEventStore, checkpoints: PostgresConsumers, caplog: pytest.LogCaptureFixture
) -> None:
    await logs.write(ledger_url, 25)
    tries = 0

    async def fail_at_first(events: Sequence[RecordedEvent]) -> None:
        nonlocal tries
        if events[0].position == 10 and (tries := tries + 1) <= 3:
            raise RuntimeError("the warehouse is shut")

    async def fail(_events: Sequence[RecordedEvent]) -> None:
        raise RuntimeError("no queue")

    sink, broken = Sink(fail_at_first), Sink(fail)
    async with running(store, checkpoints, broken, name="queue"), running(store, checkpoints, sink):
        await sink.has(24)
        assert [row.position for row in await checkpoints.all() if row.name == "queue"] == [-1]
    assert sink.positions == list(range(25))
    assert broken.positions == []
    assert "consumer warehouse failed on positions 10 to 19 (3 times), and retries" in caplog.text
    assert caplog.records[0].levelno == logging.ERROR
    assert "RuntimeError in tests.integration.test_consumers, line" in caplog.text
    assert "the warehouse is shut" not in caplog.text, "an error's own text may hold what is in the events"


async def test_a_consumer_delivers_at_least_once_to_a_flaky_receiver(
    ledger_url: str, store: PostgresEventStore, checkpoints: PostgresConsumers
) -> None:
    await logs.write(ledger_url, 100)
    taken: list[int] = []
    calls = 0

    async def receive(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        positions = await request.json()
        if calls % 5 == 1:
            return web.Response(status=503)
        taken.extend(positions)
        if calls % 5 == 2:  # it has them, but its answer is lost
            assert request.transport is not None
            request.transport.close()
        return web.Response(status=204)

    async with receiver(receive) as url, aiohttp.ClientSession() as http:

        async def post(events: Sequence[RecordedEvent]) -> None:
            async with http.post(url, json=[event.position for event in events]) as answer:
                answer.raise_for_status()

        for _ in range(3):  # as many processes, one after the other, each ended wherever it is
            async with running(store, checkpoints, post, pace=PACE):
                await asyncio.sleep(0.05)
        async with running(store, checkpoints, post, pace=PACE):
            await stands_at(checkpoints, wanted=99)
    assert set(taken) == set(range(100))
    assert len(taken) > 100, "some came twice"
    first_time = [position for number, position in enumerate(taken) if position not in taken[:number]]
    assert first_time == sorted(first_time), "none was passed over for a later one"


@asynccontextmanager
async def receiver(handler: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/"
    finally:
        await runner.cleanup()
