"""The event log in PostgreSQL: what is appended is stored whole, in order and once."""

import asyncio
import json
import socket
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
import rfc8785
from sqlalchemy import make_url

from guestledger.adapters.postgres.errors import DatabaseFault
from guestledger.adapters.postgres.log.append_queue import MAX_IN_BATCH
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.pool import open_engine
from guestledger.engine.domain.errors import ServiceUnreachable, WrongExpectedVersion
from guestledger.engine.log.appends import Appended, KeyTaken
from guestledger.engine.log.codec import EVENT_TYPES, decode, encode, wire_name
from guestledger.engine.log.personal_fields import personal_values, with_values
from tests.event_stores import open_store
from tests.integration.appends import an_append, due, leaf_of, new_id, some_events
from tests.unit.samples import ONE_OF_EACH, lookup_failed, was_recorded, was_throttled, was_validated

# Characters that JSON escapes, or might: quotes, backslash, line separators, an emoji, a letter of two code points.
AWKWARD = 'say "cheese" \\ / <b>&\u2028\u2029 \U0001f980 e\u0301 \x85'

LONG = 30
"""Seconds. Only a hang takes longer."""

NewStore = Callable[[], PostgresEventStore]


async def outcomes(*appending: Any) -> list[Any]:
    """The results and errors of these concurrent appends. One store makes one batch of them."""
    async with asyncio.timeout(LONG):
        return await asyncio.gather(*appending, return_exceptions=True)


async def whole_log(store: PostgresEventStore) -> list[Any]:
    return [recorded async for batch in store.read_all() for recorded in batch]


# Contents

LASTING = tuple(event for event in ONE_OF_EACH if not event.erases)
"""Whose personal data stays."""


async def test_appended_events_are_read_back_unchanged(store: PostgresEventStore) -> None:
    first, second = new_id(), new_id()
    append = an_append(second, events=LASTING, actor="an operator", correlation_id=AWKWARD)
    await store.append(an_append(first))
    appended = await store.append(append)

    history = await store.read_stream(second)

    moment = history[0].recorded_at
    assert appended == Appended(version=len(LASTING), position=len(LASTING), recorded_at=moment, at=moment)
    revealed = await store.read_stream(second, reveal=True)
    assert [recorded.event for recorded in revealed] == list(LASTING)
    assert [type(recorded.event) for recorded in history] == [kind for kind in EVENT_TYPES.values() if not kind.erases]
    assert [recorded.version for recorded in history] == list(range(1, len(LASTING) + 1))
    assert [recorded.position for recorded in history] == list(range(1, len(LASTING) + 1))
    for recorded in history:
        assert recorded.stream_id == second
        assert recorded.recorded_at == appended.recorded_at
        assert recorded.data == encode(recorded.event)
        assert (recorded.actor, recorded.correlation_id, recorded.causation_id) == (
            "an operator",
            AWKWARD,
            append.causation_id,
        )


async def test_a_row_stores_the_canonical_text_of_its_event(store: PostgresEventStore, sql: Any) -> None:
    events = (*ONE_OF_EACH, lookup_failed(detail=AWKWARD), was_validated(protocols=(AWKWARD, "", "a NUL: \0")))
    await store.append(an_append(events=events))

    rows = await sql("SELECT event_type, schema_version, data::text FROM events ORDER BY position")

    for row, event in zip(rows, events, strict=True):
        stored = decode(row["event_type"], row["schema_version"], row["data"])
        assert row["data"] == encode(with_values(event, personal_values(stored)))
    assert [row["event_type"] for row in rows] == [wire_name(event) for event in events]
    assert [row["schema_version"] for row in rows] == [event.schema_version for event in events]
    for row in rows:
        assert row["data"].encode() == rfc8785.dumps(json.loads(row["data"]))


async def test_leaf_hashes_can_be_recomputed_from_the_rows(store: PostgresEventStore, sql: Any) -> None:
    await store.append(an_append(events=(*ONE_OF_EACH, lookup_failed(detail=AWKWARD)), actor=AWKWARD))
    await store.append(an_append(events=some_events(2), correlation_id=AWKWARD))

    rows = await sql("SELECT *, data::text AS data FROM events ORDER BY position")

    assert len(rows) == len(ONE_OF_EACH) + 3
    assert len({row["leaf_hash"] for row in rows}) == len(rows)
    assert [row["leaf_hash"] for row in rows] == [leaf_of(row) for row in rows]
    assert [recorded.leaf_hash for recorded in await whole_log(store)] == [row["leaf_hash"] for row in rows]


async def test_read_streams_omits_streams_without_events(store: PostgresEventStore) -> None:
    ids = [new_id() for _ in range(3)]
    await store.append(an_append(ids[1], events=some_events(3)))
    await store.append(an_append(ids[0]))
    await store.append(an_append(ids[1], 3, some_events(1)))

    streams = await store.read_streams(ids)

    assert streams == {ids[0]: await store.read_stream(ids[0]), ids[1]: await store.read_stream(ids[1])}
    assert [recorded.version for recorded in streams[ids[1]]] == [1, 2, 3, 4]
    assert await store.read_stream(ids[2]) == []


async def test_the_whole_log_is_read_in_batches_up_to_its_end(store: PostgresEventStore) -> None:
    assert [batch async for batch in store.read_all()] == []
    assert await store.head() == -1
    for _ in range(7):
        await store.append(an_append())

    async def positions(**asked: int) -> list[list[int]]:
        return [[recorded.position for recorded in batch] async for batch in store.read_all(**asked)]

    assert await store.head() == 6
    assert await positions() == [[0, 1, 2, 3, 4, 5, 6]]
    assert await positions(batch=3) == [[0, 1, 2], [3, 4, 5], [6]]
    assert await positions(after=2, batch=2) == [[3, 4], [5, 6]]
    assert await positions(after=6) == []


# Order


async def test_positions_are_dense_and_readers_miss_no_event_under_concurrent_appends(
    new_store: NewStore, sql: Any
) -> None:
    stores = [new_store() for _ in range(3)]
    streams, rounds = 24, 6
    appended: list[Appended] = []
    writing = True

    async def write(number: int) -> None:
        stream_id, version = new_id(), 0
        for turn in range(rounds):
            store = stores[(number + turn) % len(stores)]
            done = await store.append(an_append(stream_id, version, some_events(1 + (number + turn) % 3)))
            appended.append(done)
            version = done.version

    async def follow(store: PostgresEventStore) -> list[int]:
        seen: list[int] = []
        while True:
            last_round = not writing
            after = seen[-1] if seen else -1
            async for batch in store.read_all(after=after, batch=10):
                seen += [recorded.position for recorded in batch]
            if last_round:
                return seen
            await asyncio.sleep(0.001)

    following = [asyncio.create_task(follow(new_store())) for _ in range(2)]
    await asyncio.gather(*map(write, range(streams)))
    writing = False
    seen = await asyncio.gather(*following)

    rows = await sql("SELECT position, stream_id, version, recorded_at FROM events ORDER BY position")
    dense = list(range(len(rows)))
    assert [row["position"] for row in rows] == dense
    assert len(rows) == sum(1 + (number + turn) % 3 for number in range(streams) for turn in range(rounds))
    assert list(seen) == [dense, dense]
    times = [row["recorded_at"] for row in rows]
    assert times == sorted(times)
    versions = defaultdict(list)
    for row in rows:
        versions[row["stream_id"]].append(row["version"])
    assert all(found == list(range(1, len(found) + 1)) for found in versions.values())
    assert len(versions) == streams
    assert {done.position for done in appended} <= set(dense)
    assert len({done.position for done in appended}) == len(appended) == streams * rounds


async def test_appends_share_a_batch_until_it_has_the_ledgers_lock(store: PostgresEventStore, held_log: Any) -> None:
    async with held_log:
        first = asyncio.create_task(store.append(an_append()))
        await held_log.waiting()
        rest = [asyncio.create_task(store.append(an_append())) for _ in range(20)]
        await asyncio.sleep(0)
        withdrawn = rest.pop(7)
        withdrawn.cancel()
        await asyncio.wait((withdrawn,))

    one, others = await first, await asyncio.gather(*rest)
    assert {done.recorded_at for done in others} == {one.recorded_at}
    assert [done.position for done in (one, *others)] == list(range(20))


async def test_a_store_that_waits_for_keys_keeps_no_connection(new_engine: Any, held_log: Any) -> None:
    """With one connection, fetching the keys would wait for the store, and the store for the keys."""
    store = open_store(new_engine(pool_size=1))
    async with held_log:
        first = asyncio.create_task(store.append(an_append(events=(was_throttled(),))))
        await held_log.waiting()
        second = asyncio.create_task(store.append(an_append()))  # no key is known yet
        await asyncio.sleep(0)

    done = await asyncio.gather(first, second)
    assert [one.position for one in done] == [0, 1]
    await store.close()


async def test_a_batch_gathers_no_more_than_its_size(store: PostgresEventStore, held_log: Any) -> None:
    async with held_log:
        first = asyncio.create_task(store.append(an_append()))
        await held_log.waiting()
        rest = [asyncio.create_task(store.append(an_append())) for _ in range(MAX_IN_BATCH + 1)]
        await asyncio.sleep(0)

    done = await asyncio.gather(first, *rest)
    assert [one.position for one in done] == list(range(MAX_IN_BATCH + 2)), "in the order of arrival"
    assert [one.recorded_at == done[0].recorded_at for one in done] == [True] * MAX_IN_BATCH + [False] * 2


async def test_a_gathered_append_that_postgresql_refuses_fails_alone(store: PostgresEventStore, held_log: Any) -> None:
    async with held_log:
        first = asyncio.create_task(store.append(an_append()))
        await held_log.waiting()
        appends = [an_append(), an_append(correlation_id="a NUL: \0"), an_append()]
        rest = [asyncio.create_task(store.append(append)) for append in appends]
        await asyncio.sleep(0)

    done = await outcomes(first, *rest)
    assert [type(one) for one in done] == [Appended, Appended, DatabaseFault, Appended]
    assert [one.position for one in done if isinstance(one, Appended)] == [0, 1, 2]


async def test_appends_beyond_the_batch_size_are_stored_in_arrival_order(store: PostgresEventStore) -> None:
    appended = await asyncio.gather(*(store.append(an_append()) for _ in range(2 * MAX_IN_BATCH + 1)))

    assert [done.position for done in appended] == list(range(2 * MAX_IN_BATCH + 1))
    assert len({done.recorded_at for done in appended}) == 3


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_the_store_tolerates_a_stricter_database_isolation(
    level: str, database_url: str, new_store: NewStore, read_models: Any, sql: Any
) -> None:
    await sql(f"ALTER DATABASE {make_url(database_url).database} SET default_transaction_isolation = '{level}'")
    stores = [new_store() for _ in range(3)]

    async def write(store: PostgresEventStore) -> None:
        stream_id = new_id()
        for version in range(10):
            await store.append(an_append(stream_id, version))
            await read_models.catch_up()

    await asyncio.gather(*map(write, stores))

    assert await stores[0].head() == 29


# Versions


async def test_a_stale_append_is_rejected_with_the_current_version(store: PostgresEventStore) -> None:
    stream_id = new_id()
    await store.append(an_append(stream_id, events=some_events(3)))

    for expected in (0, 2, 4):
        with pytest.raises(WrongExpectedVersion) as raised:
            await store.append(an_append(stream_id, expected))
        assert (raised.value.stream_id, raised.value.expected, raised.value.actual) == (stream_id, expected, 3)
    with pytest.raises(WrongExpectedVersion) as raised:
        await store.append(an_append(expected=1))
    assert (raised.value.expected, raised.value.actual) == (1, 0)
    assert await store.head() == 2


async def test_appends_in_one_batch_see_the_versions_of_earlier_ones(store: PostgresEventStore) -> None:
    stream_id = new_id()

    opened, refused, second, ahead = await outcomes(
        store.append(an_append(stream_id, 0, some_events(2))),
        store.append(an_append(stream_id, 0)),
        store.append(an_append(stream_id, 2)),
        store.append(an_append(stream_id, 9)),
    )

    assert (opened.version, second.version) == (2, 3)
    assert opened.recorded_at == second.recorded_at, "it was one batch"
    assert (refused.expected, refused.actual) == (0, 2)
    assert (ahead.expected, ahead.actual) == (9, 3)
    assert [recorded.version for recorded in await store.read_stream(stream_id)] == [1, 2, 3]


async def test_one_of_several_concurrent_appends_at_a_version_succeeds(new_store: NewStore) -> None:
    stores = [new_store() for _ in range(4)]
    stream_id = new_id()

    for version in range(10):
        results = await outcomes(*(store.append(an_append(stream_id, version)) for store in stores))
        rejected = [outcome for outcome in results if isinstance(outcome, WrongExpectedVersion)]
        assert len(rejected) == len(stores) - 1
        assert {(error.expected, error.actual) for error in rejected} == {(version, version + 1)}

    assert len(await stores[0].read_stream(stream_id)) == 10


# Keys


async def test_an_idempotency_key_opens_one_stream_only(store: PostgresEventStore) -> None:
    first = new_id()
    await store.append(an_append(first, key="order-1"))

    with pytest.raises(KeyTaken) as raised:
        await store.append(an_append(key="order-1"))

    assert raised.value.stream_id == first
    assert (await store.append(an_append(key="order-2"))).position == 1
    assert await store.head() == 1


async def test_the_first_append_of_a_batch_takes_the_key(store: PostgresEventStore, sql: Any) -> None:
    first, second = new_id(), new_id()

    taken, refused, other = await outcomes(
        store.append(an_append(first, key="order-1", steps=due())),
        store.append(an_append(second, key="order-1", steps=due())),
        store.append(an_append(key="order-2")),
    )

    assert isinstance(refused, KeyTaken)
    assert refused.stream_id == first
    assert (taken.position, other.position) == (0, 1)
    assert await store.read_stream(second) == []
    assert [row["stream_id"] for row in await sql("SELECT stream_id FROM due_steps")] == [first]


async def test_one_of_several_concurrent_appends_with_a_key_opens_a_stream(new_store: NewStore) -> None:
    stores = [new_store() for _ in range(4)]

    for number in range(5):
        ids = [new_id() for _ in stores]
        tried = zip(stores, ids, strict=True)
        results = await outcomes(*(store.append(an_append(one, key=f"order-{number}")) for store, one in tried))
        (winner,) = (one for one, outcome in zip(ids, results, strict=True) if isinstance(outcome, Appended))
        refused = [outcome for outcome in results if isinstance(outcome, KeyTaken)]
        assert [error.stream_id for error in refused] == [winner] * (len(stores) - 1)

    assert await stores[0].head() == 4


async def test_a_stale_append_with_its_own_streams_key_is_a_version_conflict(store: PostgresEventStore) -> None:
    stream_id = new_id()
    await store.append(an_append(stream_id))
    await store.append(an_append(stream_id, 1, key="order-1"))

    with pytest.raises(WrongExpectedVersion) as raised:
        await store.append(an_append(stream_id, 1, key="order-1"))

    assert (raised.value.expected, raised.value.actual) == (1, 2)


async def test_a_rejected_append_does_not_take_its_key(store: PostgresEventStore) -> None:
    known = new_id()
    await store.append(an_append(known))

    stale, fresh = await outcomes(
        store.append(an_append(known, 0, key="order-1")), store.append(an_append(key="order-1"))
    )

    assert isinstance(stale, WrongExpectedVersion)
    assert isinstance(fresh, Appended)


# Faults


async def test_an_append_without_a_database_fails_in_one_line_without_the_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        engine = open_engine(f"postgresql://ledger:hush-hush@127.0.0.1:{port}/ledger", "guestledger")
        with pytest.raises(ServiceUnreachable, match="connection_refused") as raised:
            await open_store(engine, patience=0.1).append(an_append())

    assert "\n" not in str(raised.value)
    assert "hush-hush" not in str(raised.value)
    await engine.dispose()


async def test_lost_idle_connections_do_not_fail_an_append(
    store: PostgresEventStore, outsider: asyncpg.Connection
) -> None:
    """As after a server restart: every connection of the pool is closed."""
    await asyncio.gather(*(store.read_stream(new_id()) for _ in range(5)))
    others = "datname = current_database() AND application_name = 'guestledger'"
    (killed,) = await outsider.fetch(
        f"SELECT count(pg_terminate_backend(pid, 5000)) AS backends FROM pg_stat_activity WHERE {others}"
    )
    assert killed["backends"] > 1

    assert (await store.append(an_append())).position == 0
    assert len(await asyncio.gather(*(store.read_stream(new_id()) for _ in range(5)))) == 5


# Closing


async def test_closing_waits_for_pending_appends(store: PostgresEventStore, held_log: Any) -> None:
    async with held_log:
        appending = [asyncio.create_task(store.append(an_append())) for _ in range(2)]
        await held_log.waiting()
        appending.append(asyncio.create_task(store.append(an_append())))
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0.05)
        assert not closing.done()

    await closing
    assert all(done.done() for done in appending)
    assert [done.result().position for done in appending] == [0, 1, 2]
    await store.close()


@pytest.mark.usefixtures("database_url")
async def test_a_database_fault_never_shows_the_guests_data(store: PostgresEventStore, sql: Any) -> None:
    await sql("ALTER TABLE events ADD CONSTRAINT no_actor CHECK (actor <> 'excluded')")
    recorded = was_recorded()

    with pytest.raises(DatabaseFault) as raised:
        await store.append(an_append(events=(recorded,), actor="excluded"))

    assert "no_actor" in str(raised.value)
    for secret in (recorded.guest.ip_address, recorded.guest.user_agent, recorded.guest.fingerprint):
        assert secret not in str(raised.value)
    assert raised.value.__context__ is None or raised.value.__suppress_context__
