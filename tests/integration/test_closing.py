"""What a call may still do once its ledger is closed. The check for leaks after each test finds what stays open."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import create_async_engine
from uuid_utils.compat import uuid7

from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.pool import close_engine
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.errors import LedgerClosed, ServiceError
from guestledger.engine.domain.events import CreationAttempted
from guestledger.engine.limits.admission import AdmissionRequest
from guestledger.engine.log.appends import Append, StepChanges
from tests.integration.conftest import NewLedger, OpenEngine, Sql
from tests.unit.samples import request


def an_append() -> Append:
    stream_id = uuid7()
    event = CreationAttempted(
        at=datetime.now(UTC), channel_id="ch_1", attempt=1, idempotency_key="key", request_hmac="0" * 64
    )
    return Append(
        stream_id=stream_id,
        expected_version=0,
        events=(event,),
        steps=StepChanges(),
        actor="test",
        causation_id=uuid4(),
        correlation_id=str(stream_id),
    )


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


async def test_append_after_close_starts_no_notifier(store: PostgresEventStore) -> None:
    first = an_append()
    await store.append(first)
    await store.close()
    assert (await store.append(replace(first, expected_version=1, causation_id=uuid4()))).position == 1


async def test_closed_store_refuses_a_session_and_an_attempt(store: PostgresEventStore) -> None:
    first = an_append()
    await store.append(first)
    await store.close()
    asking = AdmissionRequest(limiter="api", retry=False, reserved=False)
    for append in (an_append(), replace(first, expected_version=1, causation_id=uuid4(), admission=asking)):
        with pytest.raises(LedgerClosed):
            await store.append(append)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(slow_ms=500)) as running:
        yield running


async def test_calls_that_outlive_their_ledger_end(new_ledger: NewLedger) -> None:
    async with new_ledger() as ledger:
        opening = [asyncio.create_task(ledger.open_session(request())) for _ in range(20)]
        await asyncio.sleep(0.1)
    outcomes = await asyncio.gather(*opening, return_exceptions=True)
    assert all(isinstance(outcome, ServiceError) for outcome in outcomes)
    with pytest.raises(LedgerClosed):
        await ledger.accept(request())


@pytest.mark.parametrize("turns", [0, 20, 100])
async def test_calls_that_outlive_their_ledger_send_nothing_over_a_lent_pool(
    new_ledger: NewLedger, ledger_url: str, sql: Sql, turns: int
) -> None:
    engine = create_async_engine(ledger_url)
    async with new_ledger(engine=engine) as ledger:
        opening = [asyncio.create_task(ledger.open_session(request())) for _ in range(20)]
        for _ in range(turns):
            await asyncio.sleep(0)
    outcomes = await asyncio.gather(*opening, return_exceptions=True)
    assert all(isinstance(outcome, LedgerClosed) or outcome.status == "pending" for outcome in outcomes), outcomes
    with pytest.raises(LedgerClosed):
        await ledger.open_session(request())
    assert not await sql("SELECT 1 FROM guestledger.events WHERE event_type = 'CreationAttempted'")
    await engine.dispose()
