"""Group commit: each append of a batch has a result of its own, and no caller waits forever."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from msgspec import structs
from msgspec.structs import replace

from guestledger.adapters.postgres.errors import DatabaseFault, LedgerNotReady
from guestledger.adapters.postgres.log.append_queue import MAX_BYTES, MAX_IN_BATCH
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import EventTooLarge, ServiceUnreachable, WrongExpectedVersion
from guestledger.engine.domain.events import CreationFailed
from guestledger.engine.domain.outcomes import FailureKind
from guestledger.engine.log.appends import Append, Appended, KeyTaken
from guestledger.engine.log.codec import encode
from tests.event_stores import open_store
from tests.pacing import PacedLockStore, Stores, proposed, watching


@pytest.fixture
async def stores(ledger_url: str) -> AsyncIterator[Stores]:
    stores = Stores(ledger_url)
    yield stores
    await stores.close()


@pytest.fixture
async def watch(ledger_url: str) -> AsyncIterator[asyncpg.Connection]:
    async with watching(ledger_url) as connection:
        yield connection


@pytest.fixture
def store(stores: Stores) -> PostgresEventStore:
    return stores.open()


def of_size(size: int) -> CreationFailed:
    """An event whose canonical JSON has this many bytes."""

    def event(detail: str) -> CreationFailed:
        return CreationFailed(
            at=proposed().events[0].at,
            channel_id="ch_1",
            attempt=1,
            kind=FailureKind.FINAL,
            cause=Cause.REJECTED,
            status=400,
            detail=detail,
            wait=None,
            retry_at=None,
        )

    return event("x" * (size - len(encode(event("")))))


def carrying(event: CreationFailed) -> Append:
    return structs.replace(proposed(), events=(event,))


async def test_an_invalid_append_is_rejected_alone_within_its_batch(
    store: PostgresEventStore, watch: asyncpg.Connection
) -> None:
    first = proposed(key="order-1")
    await store.append(first)
    outcomes = await asyncio.gather(
        store.append(proposed()),
        store.append(proposed(first.stream_id, version=7)),
        store.append(proposed(first.stream_id)),
        store.append(proposed(key="order-1")),
        store.append(proposed(events=3)),
        store.append(carrying(of_size(MAX_BYTES + 1))),
        store.append(proposed(first.stream_id, version=1)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [
        Appended,
        WrongExpectedVersion,
        WrongExpectedVersion,
        KeyTaken,
        Appended,
        EventTooLarge,
        Appended,
    ]
    ahead, stale = outcomes[1:3]
    assert isinstance(ahead, WrongExpectedVersion)
    assert isinstance(stale, WrongExpectedVersion)
    assert (ahead.stream_id, ahead.expected, ahead.actual) == (first.stream_id, 7, 1)
    assert (stale.stream_id, stale.expected, stale.actual) == (first.stream_id, 0, 1)
    assert len({done.recorded_at for done in outcomes if isinstance(done, Appended)}) == 1, "it was one batch"
    assert await positions(watch) == list(range(6))


async def test_an_append_that_postgresql_refuses_does_not_fail_its_batch(
    store: PostgresEventStore, watch: asyncpg.Connection
) -> None:
    appends = [proposed() for _ in range(50)]
    appends[17] = proposed(correlation_id="a NUL: \0")  # PostgreSQL refuses it in a text
    appends[31] = proposed(correlation_id="half a surrogate pair: \ud800")  # not UTF-8
    outcomes = await asyncio.gather(*map(store.append, appends), return_exceptions=True)
    refused = {number for number, outcome in enumerate(outcomes) if not isinstance(outcome, Appended)}
    assert refused == {17, 31}
    assert isinstance(outcomes[17], DatabaseFault)
    assert await positions(watch) == list(range(48))


async def test_an_event_may_be_as_large_as_the_limit_and_no_larger(store: PostgresEventStore) -> None:
    await store.append(carrying(of_size(MAX_BYTES)))
    with pytest.raises(
        EventTooLarge, match="a CreationFailed of 262145 bytes exceeds the log's limit of 262144 bytes"
    ) as refused:
        await store.append(carrying(of_size(MAX_BYTES + 1)))
    assert (refused.value.size, refused.value.limit) == (MAX_BYTES + 1, MAX_BYTES)


async def test_a_repeated_append_gets_the_first_result_and_is_stored_once(
    store: PostgresEventStore, watch: asyncpg.Connection
) -> None:
    append, other = proposed(events=3, key="order-1"), proposed(events=2)
    first = await store.append(append)
    await store.append(other)
    await store.append(proposed(append.stream_id, version=3))
    again = await asyncio.gather(store.append(append), store.append(proposed()), store.append(append))
    # But for the database's time, which goes on.
    assert again[0] == again[2] == replace(first, at=again[0].at)
    assert await positions(watch) == list(range(7))


async def test_a_different_append_at_the_same_version_is_not_a_repetition(store: PostgresEventStore) -> None:
    append = proposed()
    await store.append(append)
    with pytest.raises(WrongExpectedVersion):
        await store.append(proposed(append.stream_id))


class PausedStore(PacedLockStore):
    """A store whose database does not answer until `resume`."""

    async def resume(self) -> None:
        """Let the database answer from now on."""

        async def nothing(_statement: str) -> None:
            return

        while self.paused is None:
            await asyncio.sleep(0)
        self.wait = nothing  # type: ignore[method-assign]
        self.paused.set_result(None)


async def begun(store: PausedStore, number: int) -> list[asyncio.Task[Appended]]:
    """Start this many appends. The first batch is being written."""
    tasks = [asyncio.create_task(store.append(proposed())) for _ in range(number)]
    while store.paused is None:
        await asyncio.sleep(0)
    return tasks


async def test_new_sessions_beyond_the_waiting_limit_are_rejected_at_once(
    stores: Stores, watch: asyncpg.Connection
) -> None:
    store = stores.open(PausedStore, max_waiting=300)
    tasks = await begun(store, 300)
    assert len(store._queue) == 300 - MAX_IN_BATCH
    tasks += [asyncio.create_task(store.append(proposed())) for _ in range(MAX_IN_BATCH)]
    await asyncio.sleep(0)
    with pytest.raises(ServiceUnreachable, match="300 appends wait already: slow down and retry"):
        await store.append(proposed())
    known = asyncio.create_task(store.append(proposed(version=7)))  # an answer in hand
    await store.resume()
    assert len(await asyncio.gather(*tasks)) == 500
    with pytest.raises(WrongExpectedVersion):
        await known
    assert await positions(watch) == list(range(500))


async def test_an_append_cancelled_before_its_batch_is_dropped(stores: Stores, watch: asyncpg.Connection) -> None:
    store = stores.open(PausedStore, max_waiting=300)
    tasks = await begun(store, 300)
    waiting = [asyncio.create_task(store.append(proposed())) for _ in range(MAX_IN_BATCH)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    more = asyncio.create_task(store.append(proposed()))  # a place is free again
    await store.resume()
    await asyncio.gather(*tasks, more)
    assert await positions(watch) == list(range(301))


async def test_cancelling_an_append_does_not_affect_its_batch(stores: Stores, watch: asyncpg.Connection) -> None:
    store = stores.open(PausedStore)
    tasks = await begun(store, 20)
    tasks[0].cancel()
    tasks[7].cancel()
    await store.resume()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [number for number, outcome in enumerate(outcomes) if not isinstance(outcome, Appended)] == [0, 7]
    await store.close()
    assert await positions(watch) == list(range(20)), "their batch was being written"


async def test_cancelling_a_close_does_not_cancel_pending_appends(stores: Stores, watch: asyncpg.Connection) -> None:
    store = stores.open(PausedStore)
    tasks = await begun(store, 20)
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    await store.resume()
    assert len(await asyncio.gather(*tasks)) == 20


async def test_cancelling_the_committer_cancels_every_waiting_append(stores: Stores) -> None:
    store = stores.open(PausedStore)
    tasks = await begun(store, 300)
    assert store._committing is not None
    store._committing.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}


async def test_a_missing_ledger_is_reported_to_every_waiting_append(stores: Stores) -> None:
    store = open_store(stores.engine, "nowhere")
    outcomes = await asyncio.gather(*(store.append(proposed()) for _ in range(20)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {LedgerNotReady}


async def positions(watch: asyncpg.Connection) -> list[int]:
    return [position for (position,) in await watch.fetch("SELECT position FROM guestledger.events ORDER BY position")]
