"""A call that outlives its ledger opens nothing that nobody would close. What is left open, the check of each test finds."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from guestledger.adapters.postgres.errors import LedgerClosed
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.pool import close_engine
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.errors import ServiceError
from tests.integration.conftest import NewLedger, OpenEngine
from tests.integration.plain_sql import SCHEMA
from tests.pacing import proposed
from tests.unit.samples import request


async def test_closed_engine_refuses_new_connections(new_engine: OpenEngine) -> None:
    engine = new_engine()
    await close_engine(engine)
    with pytest.raises(LedgerClosed):
        await engine.connect()


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13])
async def test_connection_being_made_is_closed_with_its_engine(new_engine: OpenEngine, turns: int) -> None:
    engine = new_engine()
    connecting = asyncio.create_task(engine.connect().start())
    for _ in range(turns):
        await asyncio.sleep(0)
    await close_engine(engine)
    (outcome,) = await asyncio.gather(connecting, return_exceptions=True)
    assert isinstance(outcome, LedgerClosed)


async def test_append_after_close_starts_no_notifier(new_engine: OpenEngine) -> None:
    store = PostgresEventStore(new_engine(), SCHEMA)
    await store.append(proposed())
    await store.close()
    assert (await store.append(proposed())).position == 1


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(slow_ms=500)) as running:
        yield running


async def test_requests_that_outlive_their_ledger_end_and_leak_nothing(new_ledger: NewLedger) -> None:
    async with new_ledger() as ledger:
        opening = [asyncio.create_task(ledger.open_session(request())) for _ in range(20)]
        await asyncio.sleep(0.1)
    outcomes = await asyncio.gather(*opening, return_exceptions=True)
    assert all(isinstance(outcome, BaseException) for outcome in outcomes)
    with pytest.raises(ServiceError):
        await ledger.accept(request())
