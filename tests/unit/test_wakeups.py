"""When a worker looks for work, and what it wakes."""

import asyncio
from typing import Any

import pytest

from guestledger.engine.ports.due_steps import Outlook
from guestledger.engine.worker.wakeups import WakeupPoller


class Seen:
    """A database with nothing to do but this projecting, and its clock."""

    def __init__(self, unprojected_ms: int | None) -> None:
        self._unprojected_ms = unprojected_ms

    def arrival(self) -> asyncio.Event:
        return asyncio.Event()

    def jitter(self) -> float:
        return 0.5

    async def outlook(self, _wanted: object) -> Outlook:
        return Outlook(claimable=frozenset(), next_due_ms=None, unprojected_ms=self._unprojected_ms)


@pytest.mark.parametrize(
    ("unprojected_ms", "behind"),
    [(None, False), (0, False), (199, False), (200, True), (3_600_000, True), (-1, True)],
    ids=["none", "new", "young", "old enough", "old", "from before the clock was set back"],
)
async def test_projections_catch_up_once_the_first_event_is_old_enough(
    unprojected_ms: int | None, behind: bool
) -> None:
    seen: Any = Seen(unprojected_ms)
    poller = WakeupPoller(store=seen, due_steps=seen, wanted={}, clock=seen)
    stopping = asyncio.Event()
    stopping.set()
    await poller.look(stopping)
    assert poller.behind.is_set() is behind
