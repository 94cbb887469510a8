"""What any login of the database may do to others: send hints, and hold advisory locks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from guestledger.adapters.clock import SystemClock
from guestledger.adapters.postgres.admin import migrate
from guestledger.adapters.postgres.log import notifier
from guestledger.adapters.postgres.unusable import DatabaseProblem, DatabaseUnusable
from guestledger.engine.operations.tail import tail
from tests import logs
from tests.event_stores import open_store
from tests.integration.conftest import NewLogin, OpenEngine
from tests.pacing import proposed
from tests.postgres import as_administrator

PATIENCE = 60.0  # seconds; only a hang takes longer
FLOOD = "SELECT pg_notify('guestledger_guestledger', number::text) FROM generate_series(1, 5_000) AS number"
LISTENERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%' AND state = 'idle'"


async def wait_for_listeners(connection: asyncpg.Connection, number: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while await connection.fetchval(LISTENERS) != number:
            await asyncio.sleep(0.01)


async def test_a_flood_of_hints_makes_a_reader_poll_and_listen_again_later(
    database_url: str,
    new_engine: OpenEngine,
    new_login_at: NewLogin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(notifier, "_MAX_PER_SECOND", 100)
    pause = asyncio.Event()
    stranger = await asyncpg.connect((await new_login_at(database_url)).replace("+asyncpg", ""))
    watch = await logs.connect(database_url)
    store = open_store(new_engine())
    paused_for = notifier._PAUSE_SECONDS
    sleep = asyncio.sleep

    async def sleep_until_set(seconds: float) -> None:
        await (pause.wait() if seconds == paused_for else sleep(seconds))

    monkeypatch.setattr(notifier.asyncio, "sleep", sleep_until_set)
    following = tail(store, SystemClock(), poll_ms=20)
    first = asyncio.create_task(anext(following))
    await wait_for_listeners(watch, 1)

    await stranger.execute(FLOOD)
    await wait_for_listeners(watch, 0)
    await store.append(proposed())
    async with asyncio.timeout(PATIENCE):
        assert (await first).position == 0
    assert caplog.text.count("more than 100 hints a second arrive") == 1

    pause.set()
    await wait_for_listeners(watch, 1)
    await following.aclose()
    await store.close()
    await stranger.close()
    await watch.close()


async def test_a_flood_that_comes_as_a_second_ends_is_counted(
    new_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds: list[float] = []

    @asynccontextmanager
    async def ending(second: float) -> AsyncIterator[None]:
        seconds.append(second)
        yield
        assert len(seconds) == 1, "it is noticed in the first second"
        raise TimeoutError

    monkeypatch.setattr(notifier.asyncio, "timeout", ending)
    reader, lost = notifier.LogNotifier(new_engine(), "guestledger"), asyncio.Event()
    for _ in range(notifier._MAX_PER_SECOND + 1):
        reader._take_hint(lost)
    await reader._watch(lost)
    assert reader._hints > notifier._MAX_PER_SECOND
    await reader.close()


async def test_hints_of_others_wake_a_reader_at_most_fifty_times_a_second(
    database_url: str, new_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "_SPACING_SECONDS", PATIENCE)
    watch = await logs.connect(database_url)
    store = open_store(new_engine())
    store.arrival()
    await wait_for_listeners(watch, 1)
    woken, taken = [], []
    wake, take = store._notifier._wake, store._notifier._take_hint
    monkeypatch.setattr(store._notifier, "_wake", lambda: (woken.append(1), wake()))
    monkeypatch.setattr(store._notifier, "_take_hint", lambda lost: (taken.append(1), take(lost)))
    hint = store.arrival()
    await watch.execute(FLOOD)
    async with asyncio.timeout(PATIENCE):
        await hint.wait()
        while len(taken) < 200:
            await asyncio.sleep(0.01)
    assert len(woken) == 1
    await store.close()
    await watch.close()


async def test_an_upgrade_does_not_wait_for_an_advisory_lock(empty_database_url: str, new_login_at: NewLogin) -> None:
    stranger = await asyncpg.connect((await new_login_at(empty_database_url)).replace("+asyncpg", ""))
    await stranger.execute("SELECT pg_advisory_lock(hashtext('guestledger guestledger'))")
    async with asyncio.timeout(PATIENCE):
        await migrate.upgrade(empty_database_url)
    await stranger.close()


async def test_an_upgrade_that_cannot_lock_the_ledger_ends_with_a_word(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "_LOCK_TIMEOUT", "100ms")
    holder = await logs.connect(database_url)
    async with holder.transaction():
        await holder.execute("LOCK TABLE guestledger.alembic_version IN ROW EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnusable, match="a lock could not be had in time") as raised:
            await migrate.upgrade(as_administrator(database_url))
    assert raised.value.problem is DatabaseProblem.LOCKED
    await holder.close()
