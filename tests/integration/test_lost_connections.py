"""Appends while connections and servers are lost: each is stored once, and positions stay dense."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url

from guestledger.adapters.postgres import transactions
from guestledger.adapters.postgres.admin.embedded import start_embedded, stop_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.transactions import TRANSACTION_LIMITS, short_transaction
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.log.appends import Append, Appended
from tests.pacing import Stores, proposed, watching
from tests.postgres import crash

ROUND_TRIPS = ("BEGIN", "clock_timestamp", "INSERT", "COMMIT")


@pytest.fixture
async def stores(ledger_url: str) -> AsyncIterator[Stores]:
    stores = Stores(ledger_url)
    yield stores
    await stores.close()


@pytest.fixture
async def watch(ledger_url: str) -> AsyncIterator[asyncpg.Connection]:
    async with watching(ledger_url) as connection:
        yield connection


async def assert_each_is_stored_once(watch: asyncpg.Connection, appends: list[Append], answers: list[Appended]) -> None:
    rows = await watch.fetch(
        """
        SELECT causation_id, count(*), max(version), max(position), max(recorded_at)
          FROM guestledger.events GROUP BY causation_id"""
    )
    assert {causation_id: row for causation_id, *row in rows} == {
        append.causation_id: [len(append.events), answer.version, answer.position, answer.recorded_at]
        for append, answer in zip(appends, answers, strict=True)
    }
    positions = await watch.fetch("SELECT position FROM guestledger.events ORDER BY position")
    assert [position for (position,) in positions] == list(range(sum(len(append.events) for append in appends)))


class CutStore(PostgresEventStore):
    """Terminates its backend once, before or after the statement that contains `word`."""

    word: str
    after: bool
    cut = False

    async def _write(self, driver: Any, batch: Any, **options: Any) -> Any:
        return await super()._write(driver if self.cut else _Cut(driver, self), batch, **options)


class _Cut:
    def __init__(self, driver: Any, store: CutStore) -> None:
        self._driver = driver
        self._store = store
        self.execute = self._through(driver.execute)
        self.fetch = self._through(driver.fetch)

    def _through(self, call: Any) -> Any:
        async def through(statement: str, *values: Any) -> Any:
            if self._store.word not in statement:
                return await call(statement, *values)
            answer = await call(statement, *values) if self._store.after else None
            self._store.cut = True
            async with self._store._engine.connect() as other:
                await other.exec_driver_sql(f"SELECT pg_terminate_backend({self._driver.get_server_pid()}, 5000)")
            if statement == "COMMIT" and self._store.after:
                raise ConnectionResetError  # only the answer is lost
            return answer if self._store.after else await call(statement, *values)

        return through


@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize("word", ROUND_TRIPS)
async def test_a_batch_is_stored_once_if_its_backend_dies_at_any_round_trip(
    stores: Stores, watch: asyncpg.Connection, word: str, after: bool
) -> None:
    store = stores.open(CutStore, patience=30)
    store.word, store.after = word, after
    opened = proposed(key="order-1")
    appends = [
        opened,
        *(proposed(events=1 + number % 3) for number in range(20)),
        proposed(opened.stream_id, version=1),
    ]
    answers = await asyncio.gather(*map(store.append, appends))
    assert store.cut
    await assert_each_is_stored_once(watch, appends, answers)


@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize("word", ROUND_TRIPS[1:])
async def test_a_batch_that_gathered_is_stored_once_if_its_backend_dies(
    stores: Stores, watch: asyncpg.Connection, word: str, after: bool
) -> None:
    store = stores.open(CutStore, patience=30)
    store.word, store.after = word, after
    appends = [proposed() for _ in range(20)]
    first = asyncio.create_task(store.append(appends[0]))
    while not store._connection._driver:  # the batch is taken, and has no lock yet
        await asyncio.sleep(0)
    answers = await asyncio.gather(first, *map(store.append, appends[1:]))
    assert store.cut
    assert len({answer.recorded_at for answer in answers}) == 1, "it was one batch"
    await assert_each_is_stored_once(watch, appends, answers)


@asynccontextmanager
async def cutting_proxy(url: str, directory: Path, *, cuts: int, wait_for_answer: bool) -> AsyncIterator[str]:
    """A proxy that breaks `cuts` connections at their COMMIT: once it is forwarded, or once the server has answered."""
    target = make_url(url)
    left = cuts

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = target.query.get("port", target.port or 5432)
        host = str(target.query.get("host", target.host))
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, int(str(port)))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        far_reader, far_writer = await connect()

        async def back() -> None:
            while data := await far_reader.read(65536):
                writer.write(data)
            writer.close()

        backward = asyncio.create_task(back())
        while data := await reader.read(65536):
            cut = left > 0 and b"COMMIT\0" in data
            if cut:
                left -= 1
                backward.cancel()  # the answer to this is lost
                await asyncio.wait([backward])
            far_writer.write(data)
            if cut:
                await far_writer.drain()
                if wait_for_answer:
                    await far_reader.read(1)
                break
        for end in (far_writer, writer):
            end.close()
        await asyncio.wait([backward])

    server = await asyncio.start_unix_server(serve, directory / ".s.PGSQL.5432")
    async with server:
        query = {"host": str(directory), "port": "5432"}
        yield target.set(host=None, port=None, query=query).render_as_string(hide_password=False)
    assert left == 0


@pytest.mark.parametrize("wait_for_answer", [False, True], ids=["before its answer", "after its answer"])
async def test_appends_are_stored_once_if_the_connection_breaks_during_commit(
    ledger_url: str, watch: asyncpg.Connection, tmp_path: Path, wait_for_answer: bool
) -> None:
    appends = [proposed(events=1 + number % 3, key=f"order-{number}") for number in range(500)]
    async with cutting_proxy(ledger_url, tmp_path, cuts=4, wait_for_answer=wait_for_answer) as url:
        stores = Stores(url)
        store = stores.open(patience=30)
        answers = await asyncio.gather(*map(store.append, appends))
        await stores.close()
    await assert_each_is_stored_once(watch, appends, answers)


@pytest.mark.parametrize("how", ["a restart", "a crash"])
async def test_appends_continue_across_a_server_restart_or_crash(data_dir: Path, how: str) -> None:
    url = await start_embedded(data_dir)
    await upgrade(url)
    stores = Stores(url)
    store = stores.open(patience=60)
    appends: list[Append] = []
    answers: list[Appended] = []
    under_way = asyncio.Event()

    async def guests() -> None:
        for _ in range(10):
            first = proposed()
            for version in range(5):
                append = first if not version else proposed(first.stream_id, version=version)
                answer = await store.append(append)
                appends.append(append)
                answers.append(answer)
            if len(appends) >= 500:
                under_way.set()

    load = [asyncio.create_task(guests()) for _ in range(32)]
    await under_way.wait()
    if how == "a crash":
        crash(data_dir)
    else:
        await stop_embedded(data_dir)
    await start_embedded(data_dir)
    await asyncio.gather(*load)
    async with watching(url) as watch:
        await assert_each_is_stored_once(watch, appends, answers)
    await stores.close()


class CountingStore(PostgresEventStore):
    """Counts its tries to write."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tried: list[int] = []

    async def _write_once(self, batch: Any, **options: Any) -> Any:
        self.tried.append(id(batch))
        return await super()._write_once(batch, **options)


async def test_waiting_appends_fail_together_when_the_server_is_gone(data_dir: Path) -> None:
    url = await start_embedded(data_dir)
    await upgrade(url)
    stores = Stores(url)
    store = stores.open(CountingStore)
    await store.append(proposed())
    await stop_embedded(data_dir)
    store.tried.clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store, "_patience", 0.2)
        outcomes = await asyncio.gather(*(store.append(proposed()) for _ in range(1_000)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ServiceUnreachable}
    assert len(store.tried) > 1, "it was retried"
    assert len(set(store.tried)) == 1, "and abandoned for all that waited"
    await start_embedded(data_dir)
    assert (await store.append(proposed())).position == 1
    await stores.close()


async def test_a_client_stalled_after_a_prepare_loses_its_locks(
    stores: Stores, watch: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The driver prepares in a round trip of its own, during which the server considers the client busy, not idle.
    monkeypatch.setattr(transactions, "TRANSACTION_LIMITS", TRANSACTION_LIMITS.replace("30s", "1s"))
    if watch.get_server_version().major < 17:
        pytest.skip("PostgreSQL has the limit since 17")
    with pytest.raises(ServiceUnreachable), reported():  # noqa: PT012 - the end of the transaction raises
        async with short_transaction(stores.engine) as holder:
            await holder.execute("SELECT FROM guestledger.checkpoints FOR UPDATE")
            await holder.prepare("SELECT 1")

            await watch.execute("SELECT FROM guestledger.checkpoints FOR UPDATE", timeout=10)


async def test_a_stalled_writer_loses_the_log_lock_after_ten_seconds(stores: Stores, watch: asyncpg.Connection) -> None:
    seen: list[str] = []

    class Looking(PostgresEventStore):
        async def _write(self, driver: Any, batch: Any, **options: Any) -> Any:
            return await super()._write(_Looking(driver), batch, **options)

    class _Looking:
        """Looks after the transaction has begun."""

        def __init__(self, driver: Any) -> None:
            self._driver = driver

        async def execute(self, statement: str, *values: Any) -> Any:
            return await self._driver.execute(statement, *values)

        async def fetch(self, statement: str, *values: Any) -> Any:
            if not seen:
                seen.append(await self._driver.fetchval("SHOW idle_in_transaction_session_timeout"))
            return await self._driver.fetch(statement, *values)

    await stores.open(Looking).append(proposed())
    async with stores.engine.connect() as other:
        after = (await other.exec_driver_sql("SHOW idle_in_transaction_session_timeout")).scalar()
    assert (seen, after) == (["10s"], "0"), "only within the append's transaction"
