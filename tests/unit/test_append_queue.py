"""The queue of appends: who goes next, and who holds up whom."""

import asyncio
from uuid import UUID

import pytest

from guestledger.adapters.postgres.log.append_queue import MAX_IN_BATCH, AppendQueue, Waiting
from guestledger.adapters.postgres.personal.sealed_append import Sealing
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.log.appends import Append
from tests.integration.appends import an_append


class Keys:
    """Personal data whose keys are all known, except those of some streams: they have to be fetched."""

    def __init__(self) -> None:
        self.fetched: dict[UUID, asyncio.Future[None]] = {}

    def seal_now(self, append: Append) -> Sealing | None:
        return None if append.stream_id in self.fetched else Sealing(append.events)

    async def fetch(self, append: Append) -> Sealing:
        await self.fetched[append.stream_id]
        return Sealing(append.events)


async def next_batch(queue: AppendQueue) -> list[Waiting]:
    """What the store commits next."""
    await queue.until_writable()
    return queue.take()


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def queue(keys: Keys) -> AppendQueue:
    return AppendQueue(keys, keys.fetch)  # type: ignore[arg-type]


def add_slow(queue: AppendQueue, keys: Keys) -> Waiting:
    """An append whose keys are not there yet."""
    append = an_append()
    keys.fetched[append.stream_id] = asyncio.get_running_loop().create_future()
    return queue.add(append)


def arrive(keys: Keys, waiting: Waiting) -> None:
    """Its keys arrive."""
    keys.fetched[waiting.append.stream_id].set_result(None)


async def test_appends_go_in_the_order_of_arrival_a_batch_at_a_time(queue: AppendQueue) -> None:
    added = [queue.add(an_append()) for _ in range(MAX_IN_BATCH + 3)]

    assert await next_batch(queue) == added[:MAX_IN_BATCH]
    assert queue.take(2) == added[MAX_IN_BATCH : MAX_IN_BATCH + 2]
    assert len(queue) == 1


async def test_an_append_that_waits_for_its_keys_holds_up_no_other(queue: AppendQueue, keys: Keys) -> None:
    slow = [add_slow(queue, keys) for _ in range(MAX_IN_BATCH + 1)]
    ready = queue.add(an_append())

    assert await next_batch(queue) == [ready]

    batch = asyncio.create_task(next_batch(queue))
    await asyncio.sleep(0)
    later = queue.add(an_append())
    assert await batch == [later]

    batch = asyncio.create_task(next_batch(queue))
    arrive(keys, slow[1])
    assert await batch == [slow[1]]
    for waiting in slow:
        queue.remove(waiting)


async def test_appends_to_one_stream_keep_their_order(queue: AppendQueue, keys: Keys) -> None:
    first = add_slow(queue, keys)
    await asyncio.sleep(0)  # its keys are being fetched
    keys_of_first = keys.fetched.pop(first.append.stream_id)
    second = queue.add(an_append(first.append.stream_id, 1))
    other = queue.add(an_append())

    assert queue.take() == [other]
    assert queue.take() == []
    keys_of_first.set_result(None)
    assert await next_batch(queue) == [first, second]


async def test_what_arrives_under_the_lock_passes_an_append_without_keys(queue: AppendQueue, keys: Keys) -> None:
    slow, ready = add_slow(queue, keys), queue.add(an_append())

    assert queue.take() == [ready]
    arrive(keys, slow)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert queue.take() == [slow]


async def test_keys_that_cannot_be_fetched_reject_their_append_alone(queue: AppendQueue, keys: Keys) -> None:
    slow, ready = add_slow(queue, keys), queue.add(an_append())
    error = ServiceUnreachable("key vault", Cause.SERVICE_UNAVAILABLE, "it is away")
    keys.fetched[slow.append.stream_id].set_exception(error)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert await next_batch(queue) == [ready]
    assert slow.outcome.exception() is error
    assert not ready.outcome.done()
    assert not len(queue)


async def test_a_batch_is_waited_for_no_more_once_every_caller_is_gone(queue: AppendQueue, keys: Keys) -> None:
    slow = add_slow(queue, keys)
    batch = asyncio.create_task(next_batch(queue))
    await asyncio.sleep(0)
    slow.outcome.cancel()
    queue.remove(slow)

    assert await batch == []
    assert keys.fetched[slow.append.stream_id].cancelled()


async def test_all_are_taken_at_once_and_fetch_no_more_once_removed(queue: AppendQueue, keys: Keys) -> None:
    slow, ready = add_slow(queue, keys), queue.add(an_append())
    await asyncio.sleep(0)

    assert queue.take_all() == [slow, ready]
    assert not len(queue)
    queue.remove(slow)
    await asyncio.sleep(0)
    assert keys.fetched[slow.append.stream_id].cancelled()


async def test_an_append_whose_caller_is_gone_is_not_taken(queue: AppendQueue) -> None:
    gone, ready = queue.add(an_append()), queue.add(an_append())
    gone.outcome.cancel()

    assert await next_batch(queue) == [ready]
    assert not len(queue)


async def test_a_fetch_that_is_ended_cancels_its_caller(queue: AppendQueue, keys: Keys) -> None:
    slow = add_slow(queue, keys)
    await asyncio.sleep(0)
    assert slow.fetching is not None
    slow.fetching.cancel()

    assert await next_batch(queue) == []
    assert slow.outcome.cancelled()
