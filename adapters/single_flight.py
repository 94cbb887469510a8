"""One run of the same work at a time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from guestledger.engine.domain.errors import LedgerClosed

Result = TypeVar("Result")


class SingleFlight(Generic[Result]):
    """Concurrent callers share a result. It is not cached."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[Result]] = {}
        self._closed = False

    async def run(self, key: str, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """The result of the run in progress, else of a new one. Raises `LedgerClosed` if `close` is faster."""
        if self._closed:
            raise LedgerClosed
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(work())
            self._running[key] = task
            task.add_done_callback(lambda ended: self._forget(key, ended))
        # A cancelled caller must not cancel the work of the others. No `shield`: with it, Python 3.14 logs the exception of
        # work whose callers have gone, with a traceback.
        await asyncio.wait((task,))
        if task.cancelled():
            raise LedgerClosed
        return task.result()

    async def close(self) -> None:
        """Cancel every run in progress, and begin no other."""
        self._closed = True
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _forget(self, key: str, ended: asyncio.Task[Result]) -> None:
        del self._running[key]
        if not ended.cancelled():
            ended.exception()  # else asyncio logs it if nobody waits
