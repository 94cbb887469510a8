"""Callers that share one run of the same work."""

import asyncio

import pytest

from guestledger.adapters.single_flight import SingleFlight
from guestledger.engine.domain.errors import LedgerClosed


async def test_a_caller_that_goes_leaves_the_work_to_the_others() -> None:
    flights, may_end = SingleFlight[str](), asyncio.Event()

    async def work() -> str:
        await may_end.wait()
        return "done"

    goes, stays = (asyncio.create_task(flights.run("key", work)) for _ in range(2))
    await asyncio.sleep(0)
    goes.cancel()
    await asyncio.sleep(0)
    may_end.set()
    assert await stays == "done"
    assert goes.cancelled()


async def test_what_fails_for_callers_that_have_gone_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    flights, may_end = SingleFlight[str](), asyncio.Event()

    async def work() -> str:
        await may_end.wait()
        raise OSError

    caller = asyncio.create_task(flights.run("key", work))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait((caller,))
    may_end.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not caplog.records  # Python 3.14 logs what a future behind `shield` fails by


async def test_callers_that_outlive_the_ledger_get_an_error_and_are_not_cancelled() -> None:
    flights = SingleFlight[bool]()
    caller = asyncio.create_task(flights.run("key", asyncio.Event().wait))
    await asyncio.sleep(0)
    await flights.close()
    with pytest.raises(LedgerClosed):
        await caller
    with pytest.raises(LedgerClosed):
        await flights.run("key", asyncio.Event().wait)
