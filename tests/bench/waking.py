"""How soon an idle worker claims work that another process recorded: with a hint, and where hints are lost."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest import mock

from guestledger.adapters.postgres.log.notifier import LogNotifier
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.ledger import Ledger
from guestledger.engine.ports.due_steps import Claimed
from tests.bench.figures import Figure
from tests.bench.opening import REQUEST
from tests.keys import KEY

HINTED = 100
UNHINTED = 5


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """Milliseconds from the end of the append to the claim; nothing is opened, for there is no CXone."""
    settings = Settings(encryption_key=KEY, data_dir=data_dir)
    async with connect(settings) as worker, connect(settings, scheduler=False) as other:
        hinted = [await _claimed_after_ms(worker, other) for _ in range(HINTED)]
        with mock.patch.object(LogNotifier, "announce"):
            unhinted = [await _claimed_after_ms(worker, other) for _ in range(UNHINTED)]
    hinted.sort()
    yield Figure(name="idle worker claims, with a hint, p50", value=hinted[HINTED // 2], unit="ms")
    yield Figure(name="idle worker claims, with a hint, p99", value=hinted[HINTED * 99 // 100], unit="ms")
    yield Figure(name="idle worker claims, hints lost, longest", value=max(unhinted), unit="ms")


async def _claimed_after_ms(worker: Ledger, other: Ledger) -> float:
    await asyncio.sleep(0.3)  # it has gone back to sleep by then
    claimed: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    whole = worker.scheduler._due_steps.claim

    async def claim(*given: Any) -> Any:
        claimed_now = await whole(*given)
        if claimed_now.claims and not claimed.done():
            claimed.set_result(time.perf_counter())
        return Claimed(claims=[])  # it stays leased, and so out of the way of the next

    with mock.patch.object(worker.scheduler._due_steps, "claim", claim):
        await other.accept(REQUEST)
        recorded = time.perf_counter()
        return (await claimed - recorded) * 1_000
