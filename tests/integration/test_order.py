"""No reader skips an event or sees two in the wrong order, in any interleaving of the writers.

Each schedule drives the round trips of two or three writers one by one. A reader reads after every move, and another
transaction stays open. A store that takes positions from a sequence fails the same schedules.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from itertools import combinations, permutations
from typing import Any

import asyncpg
import pytest

from guestledger.engine.log.appends import Appended
from tests import logs
from tests.pacing import PacedLockStore, PacedSequenceStore, PacedStore, Scene, Stores, Tail, Writer, proposed, watching
from tests.sequence_store import MAKE_SEQUENCE

ROUND_TRIPS = 5  # of the longer of the two stores

Schedule = Sequence[int]
"""Which writer moves next."""
Move = Callable[[Scene, Writer], Awaitable[Any]]


def every_interleaving_of_two() -> tuple[Move, Iterable[Schedule]]:
    """Round trip by round trip."""
    moves = range(2 * ROUND_TRIPS)
    first_moves = combinations(moves, ROUND_TRIPS)
    return Scene.step, ([0 if move in first else 1 for move in moves] for first in first_moves)


def every_order_of_three() -> tuple[Move, Iterable[Schedule]]:
    """Each writes, and later commits: every order of these six moves."""
    return Scene.write_or_commit, sorted(set(permutations((0, 0, 1, 1, 2, 2))))


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[Stores]:
    stores = Stores(database_url)
    yield stores
    await stores.close()


@pytest.fixture
async def watch(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    async with watching(database_url) as connection:
        await connection.execute(MAKE_SEQUENCE)
        yield connection


@pytest.fixture
async def slow_transaction(database_url: str, watch: asyncpg.Connection) -> AsyncIterator[None]:
    """A transaction with a snapshot and an id of its own, which it took before any of the others."""
    async with watching(database_url) as connection, connection.transaction(isolation="repeatable_read"):
        await connection.fetch("SELECT pg_current_xact_id(), (SELECT count(*) FROM guestledger.events)")
        yield


async def faults_in(
    schedules: tuple[Move, Iterable[Schedule]],
    store: type[PacedStore],
    stores: Stores,
    watch: asyncpg.Connection,
) -> list[str]:
    """What readers and writers met in any of the schedules."""
    found = []
    move, orders = schedules
    for order in orders:
        scene = Scene(stores, watch, store, writers=1 + max(order))
        tail = Tail(max((position for position, *_ in await scene.log()), default=-1))
        for number, writer in enumerate(scene.writers):
            await scene.begin(writer, proposed(events=1 + number % 2))
        for number in order:
            await move(scene, scene.writers[number])
            await tail.read(scene)
        await scene.finish(scene.writers)
        await tail.read(scene)
        faults = [
            repr(outcome)
            for writer in scene.writers
            for _, outcome in writer.outcomes
            if not isinstance(outcome, Appended)
        ]
        found += [f"{order}: {fault}" for fault in (tail.fault(await scene.log()), *faults) if fault]
    return found


THE_SCHEDULES = pytest.mark.parametrize(
    "schedules", [every_interleaving_of_two, every_order_of_three], ids=lambda schedules: schedules.__name__
)


@THE_SCHEDULES
async def test_no_reader_skips_or_reorders_an_event_in_any_interleaving(
    schedules, stores: Stores, watch: asyncpg.Connection, slow_transaction: None
) -> None:
    assert await faults_in(schedules(), PacedLockStore, stores, watch) == []
    positions = [position for position, *_ in await Scene(stores, watch, PacedLockStore, 0).log()]
    assert positions == list(range(len(positions))), "positions are dense"


@THE_SCHEDULES
@pytest.mark.slow
async def test_the_interleavings_expose_a_store_that_uses_a_sequence(
    schedules, stores: Stores, watch: asyncpg.Connection, slow_transaction: None
) -> None:
    faults = await faults_in(schedules(), PacedSequenceStore, stores, watch)
    assert any("skipped" in fault for fault in faults)


async def test_an_append_becomes_visible_as_a_whole_at_its_commit(stores: Stores, watch: asyncpg.Connection) -> None:
    scene = Scene(stores, watch, PacedLockStore, writers=1)
    await scene.begin(scene.writers[0], proposed(events=3))
    for _ in range(
        4
    ):  # the lock, the log's end, the events, and the policy of a process that appends for the first time
        await scene.step(scene.writers[0])
        assert await scene.read(-1) == []
    await scene.step(scene.writers[0])
    assert [position for position, *_ in await scene.read(-1)] == [0, 1, 2]


async def test_recorded_times_never_decrease_even_if_the_clock_is_set_back(
    stores: Stores, watch: asyncpg.Connection
) -> None:
    store = stores.open()
    await asyncio.gather(*(store.append(proposed()) for _ in range(3)))
    await watch.execute(
        """
        INSERT INTO guestledger.events
        SELECT gen_random_uuid(), 1, 3, event_type, schema_version, recorded_at + interval '1 hour', correlation_id,
               causation_id, actor, data, leaf_hash
          FROM guestledger.events WHERE position = 0"""
    )
    await watch.execute(logs.END)
    appended = await store.append(proposed())
    assert appended.position == 4
    assert appended.recorded_at == await watch.fetchval("SELECT max(recorded_at) FROM guestledger.events")
