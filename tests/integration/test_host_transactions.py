"""A host that opens sessions within transactions of its own, on a pool that it lends to the ledger."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from guestledger.adapters.postgres import lent_pool
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.errors import ServiceError
from guestledger.engine.ledger import Ledger
from tests.integration.conftest import NewLogin, Sql
from tests.keys import KEY
from tests.unit.samples import request

LONG = 60  # seconds; only a deadlock takes longer
PLACES = 4
REQUESTS = 20


@asynccontextmanager
async def lent(url: str, simulator: Simulator) -> AsyncIterator[tuple[AsyncEngine, Ledger]]:
    """A host's pool, and a ledger on it."""
    engine = create_async_engine(url, pool_size=PLACES, max_overflow=0, pool_timeout=LONG, hide_parameters=True)
    settings = Settings(
        encryption_key=KEY,
        cxone_url=simulator.url,
        cxone_client_id=simulator.client_id,
        cxone_client_secret=simulator.client_secret,
    )
    try:
        async with connect(replace(settings), engine=engine, scheduler=False) as ledger:
            yield engine, ledger
    finally:
        await engine.dispose()


async def open_within_a_transaction(engine: AsyncEngine, ledger: Ledger) -> Any:
    async with engine.begin() as connection:
        await connection.execute(text("SELECT 1"))
        return await ledger.open_session(request())


async def test_requests_that_hold_the_hosts_whole_pool_are_served(
    ledger_url: str, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    async with lent(ledger_url, simulator) as (engine, ledger), asyncio.timeout(LONG):
        opened = await asyncio.gather(*(open_within_a_transaction(engine, ledger) for _ in range(REQUESTS)))
        while engine.pool.checkedout():  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)  # the last hint is sent after the last answer
    assert {session.status for session in opened} == {"active"}
    reported = [record for record in caplog.records if "connections of the host's pool" in record.getMessage()]
    assert 1 <= len(reported) < PLACES
    assert (reported[0].levelno, reported[0].getMessage()[:6]) == (logging.WARNING, f"all {PLACES} ")


async def test_connections_outside_the_hosts_pool_are_closed_after_use(
    ledger_url: str, simulator: Simulator, sql: Sql
) -> None:
    mine = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{make_url(ledger_url).username}'"
    async with lent(ledger_url, simulator) as (engine, ledger), asyncio.timeout(LONG):
        await asyncio.gather(*(open_within_a_transaction(engine, ledger) for _ in range(REQUESTS)))
        while (await sql(mine))[0][0] > PLACES:  # the server notices a moment later
            await asyncio.sleep(0.01)


async def test_a_host_that_holds_every_connection_it_may_have_gets_an_error_with_the_cause(
    ledger_url: str, simulator: Simulator, new_login_at: NewLogin
) -> None:
    url = await new_login_at(ledger_url, f"IN ROLE guestledger_runtime CONNECTION LIMIT {PLACES}")
    async with lent(url, simulator) as (engine, ledger), asyncio.timeout(LONG):
        async with AsyncExitStack() as stack:  # the pool opens all of its connections, and keeps them
            for _ in range(PLACES):
                await stack.enter_async_context(engine.connect())
        found = await asyncio.gather(
            *(open_within_a_transaction(engine, ledger) for _ in range(REQUESTS)), return_exceptions=True
        )
        errors = [error for error in found if isinstance(error, BaseException)]
        assert errors
        for error in errors:
            assert isinstance(error, ServiceError)
            assert f"all {PLACES} connections of the host's pool are in use" in str(error)
            assert "transactions" in str(error)
        assert (await ledger.open_session(request())).status == "active"  # outside a transaction


@pytest.mark.parametrize("disposed", [False, True], ids=["lent", "disposed of meanwhile"])
async def test_reads_by_a_host_that_holds_its_whole_pool_are_served(
    ledger_url: str, simulator: Simulator, disposed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        lent(ledger_url, simulator) as (engine, ledger),
        asyncio.timeout(LONG / 2),
    ):  # before the pool's own timeout
        opened = await ledger.open_session(request())
        while engine.pool.checkedout():  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)  # the last hint is sent after the last answer
        if disposed:
            await engine.dispose()
        async with AsyncExitStack() as stack:
            for _ in range(PLACES):
                await stack.enter_async_context(engine.connect())

            shown = [row.id async for row in ledger.sessions()]
            entries = [entry.id async for entry in ledger.audit()]
            metrics = await ledger.metrics()
            found = await ledger.session(str(opened.session_id))

            assert engine.pool.checkedout() == PLACES  # type: ignore[attr-defined]
    assert opened.id in shown
    assert opened.id in entries
    assert metrics.tracked > 0
    assert found.id == opened.id
    reported = [record for record in caplog.records if "connections of the host's pool" in record.getMessage()]
    assert len(reported) == 1


async def test_a_rebuild_on_a_pool_that_is_used_up_ends_with_the_cause(
    ledger_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs two connections, and there is one outside the pool."""
    monkeypatch.setattr(lent_pool, "_TURN_SECONDS", 0.2)
    async with lent(ledger_url, simulator) as (engine, ledger), asyncio.timeout(LONG), AsyncExitStack() as held:
        for _ in range(PLACES):
            await held.enter_async_context(engine.connect())
        with pytest.raises(ServiceError, match="connections of the host's pool are in use"):
            await ledger.projections.verify("sessions")
