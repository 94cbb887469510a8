"""pgbouncer in transaction mode: each transaction may use another server connection, and LISTEN is lost."""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from guestledger.adapters.clock import SystemClock
from guestledger.adapters.postgres.admin import migrate
from guestledger.adapters.postgres.log.consumers import PostgresConsumers
from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulated import simulated
from guestledger.adapters.simulator import SimulatorConfig
from guestledger.adapters.wiring import connect
from guestledger.engine.operations.consume import Consumer, ConsumerOptions
from guestledger.engine.operations.tail import tail
from tests import logs
from tests.docs.blocks import ROOT
from tests.event_stores import open_store
from tests.keys import KEY
from tests.pacing import proposed
from tests.ports import free_port
from tests.postgres import as_administrator
from tests.unit.samples import request

PGBOUNCER = shutil.which("pgbouncer")
PATIENCE = 60.0  # seconds until a test that hangs fails

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="no pgbouncer is installed")


@pytest.fixture
async def pooled_url(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The database's URL through a pgbouncer with two server connections."""
    assert PGBOUNCER is not None
    plain = make_url(as_administrator(database_url))  # who can also create a ledger
    host, port = plain.query.get("host", plain.host), plain.query.get("port", plain.port or 5432)
    own_port = free_port()
    password = f" password={plain.password}" if plain.password else ""
    directory = Path("/tmp") if os.geteuid() == 0 else tmp_path_factory.mktemp("pgbouncer")
    config = directory / f"pgbouncer-{own_port}.ini"
    config.write_text(
        f"[databases]\n{plain.database} = host={host} port={port} user={plain.username}{password}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {own_port}\nauth_type = any\nunix_socket_dir =\n"
        "pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200\n"
    )
    user = {"user": _owner(str(host))} if os.geteuid() == 0 else {}
    process = await asyncio.create_subprocess_exec(
        PGBOUNCER, "-q", str(config), stderr=asyncio.subprocess.DEVNULL, **user
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", own_port)
                except OSError:
                    assert process.returncode is None, "pgbouncer did not start"
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    await writer.wait_closed()
                    break
        there = plain.set(host="127.0.0.1", port=own_port, query={"prepared_statement_cache_size": "0"})
        yield there.render_as_string(hide_password=False)
    finally:
        process.terminate()
        await process.wait()
        config.unlink()


def _owner(host: str) -> int:
    """The user of pgbouncer, which refuses to run as root: the owner of the server's socket, or nobody."""
    return Path(host).stat().st_uid if host.startswith("/") else 65534


async def test_lost_prepared_statements_name_the_parameter_to_set(pooled_url: str) -> None:
    engines = [open_engine(make_url(pooled_url).set(query={}), "guestledger") for _ in range(2)]
    asked = [PostgresConsumers(engine, "guestledger").all() for engine in engines * 50]
    errors = {
        str(error) for error in await asyncio.gather(*asked, return_exceptions=True) if isinstance(error, Exception)
    }
    assert any("add prepared_statement_cache_size=0 to the parameters" in text for text in errors), errors
    assert any("A lent engine needs the `connect_args`" in text for text in errors), errors
    for engine in engines:
        await engine.dispose()


async def test_appending_reading_and_tailing_work_without_hints(pooled_url: str) -> None:
    writing, reading = open_engine(pooled_url, "guestledger"), open_engine(pooled_url, "guestledger")
    writer, reader = open_store(writing), open_store(reading)
    seen: list[int] = []

    async def follow() -> None:
        async for batch in tail(reader, SystemClock(), poll_ms=20):
            seen.extend(event.position for event in batch.events)
            if seen[-1] == 299:
                return

    async def append() -> None:
        for _ in range(50):
            await writer.append(proposed())

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(follow())
        for _ in range(6):
            tasks.create_task(append())
    assert seen == list(range(300))
    for store, engine in ((writer, writing), (reader, reading)):
        await store.close()
        await engine.dispose()


async def test_a_consumer_keeps_its_lease_and_its_checkpoint(pooled_url: str, database_url: str) -> None:
    await logs.write(database_url, 100)
    engine = open_engine(pooled_url, "guestledger")
    store, checkpoints = open_store(engine), PostgresConsumers(engine, "guestledger")
    done, seen = asyncio.Event(), []

    async def handle(events: object) -> None:
        seen.extend(event.position for event in events)  # type: ignore[attr-defined]
        if len(seen) == 100:
            done.set()

    pace = ConsumerOptions(batch=10, poll_ms=20)
    task = asyncio.create_task(
        Consumer("queue", handle, store=store, checkpoints=checkpoints, clock=SystemClock(), options=pace).run()
    )
    async with asyncio.timeout(PATIENCE):
        await done.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert seen == list(range(100))
    await store.close()
    await engine.dispose()


async def test_a_whole_ledger_is_created_and_works(pooled_url: str) -> None:
    await migrate.upgrade(pooled_url, "another")
    async with (
        simulated(
            Settings(encryption_key=KEY, database_url=pooled_url, schema="another", allow_owner=True), SimulatorConfig()
        ) as settings,
        connect(settings) as ledger,
    ):
        opened = await asyncio.gather(*(ledger.open_session(request()) for _ in range(40)))
        assert {session.status for session in opened} == {"active"}
        assert len([row async for row in ledger.sessions()]) == 40
        assert (await ledger.metrics()).tracked == 40
        assert len([entry async for entry in ledger.audit()]) == 40


async def test_a_lent_pool_works_with_the_documented_arguments(pooled_url: str) -> None:
    await migrate.upgrade(pooled_url, "lent")
    [shown] = re.findall(r"connect_args=(\{.*statement_cache_size.*?\})", (ROOT / "docs" / "embedding.md").read_text())
    engine = create_async_engine(make_url(pooled_url).set(query={}), pool_size=10, connect_args=eval(shown))
    async with (
        simulated(Settings(encryption_key=KEY, schema="lent", allow_owner=True), SimulatorConfig()) as settings,
        connect(settings, engine=engine) as ledger,
    ):
        opened = await asyncio.gather(*(ledger.open_session(request()) for _ in range(40)))
        assert {session.status for session in opened} == {"active"}
        read = await asyncio.gather(*(ledger.events.consumers() for _ in range(50)))
        assert read == [[]] * 50
    await engine.dispose()
