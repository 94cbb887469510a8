"""One run of the same work at a time, shared by all who ask for it meanwhile."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class SingleFlight(Generic[Result]):
    """Work in progress by key. Nothing is kept once a run has ended, be it well or badly."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[Result]] = {}

    async def run(self, key: str, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """What `work` returns or raises, from the run under way for `key` or else from a new one."""
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(work())
            self._running[key] = task
            task.add_done_callback(lambda ended: self._forget(key, ended))
        # The work runs in a task of its own, so that whoever stops waiting does not stop it for the others.
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Stop what is still running."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _forget(self, key: str, ended: asyncio.Task[Result]) -> None:
        del self._running[key]
        if not ended.cancelled():
            ended.exception()  # seen, even when nobody waits for it any more: else asyncio logs it
