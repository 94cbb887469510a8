"""Fault injection: cut work off at any await, as a crash does. It never learns the result of what it waited for."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import CoroutineType
from typing import Any

_OURS = str(Path(__file__).parents[2])
_current: ContextVar["CutOff | None"] = ContextVar("_current", default=None)


class CutOff:
    """Cancels work, and every task that it starts, when these have waited `awaits` times together.

    Tasks of libraries are neither counted nor cancelled. The same holds for tasks that are started after the cut: they
    close connections, as the system does for a process that has ended. With `alone`, the tasks that the work has started
    live on, as when a caller stops waiting. With `only_within`, only awaits in a `within` block count.
    """

    def __init__(self, awaits: int, *, alone: bool = False, only_within: bool = False) -> None:
        self.happened = False
        self._left = awaits
        self._alone = alone
        self._counting = not only_within
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Run `work` until it ends or is cut off."""
        with _factory(asyncio.get_running_loop()):
            _current.set(self)
            try:
                task = asyncio.create_task(_awaited(work))
            finally:
                _current.set(None)
            while left := {task for task in self._tasks if not task.done()}:
                await asyncio.wait(left)
        if not self.happened:
            task.result()

    @contextmanager
    def within(self) -> Iterator[None]:
        """Count awaits during this block: those of the work, and of all tasks that it has started."""
        self._counting = True
        try:
            yield
        finally:
            self._counting = False

    def start(self, loop: asyncio.AbstractEventLoop, work: CoroutineType, **options: Any) -> asyncio.Task[Any]:
        """Create a task for `work`."""
        if self._alone and self._tasks:
            return asyncio.Task(work, loop=loop, **options)
        watched = work if self.happened or _is_of_a_library(work) else _Watched(work, self._count)
        task = asyncio.Task(watched, loop=loop, **options)
        self._tasks.add(task)
        return task

    def _count(self) -> None:
        self._left -= self._counting
        if not self.happened and self._left == 0:
            self.happened = True
            for task in self._tasks:
                if isinstance(task.get_coro(), _Watched):
                    task.cancel()


class _Watched(Coroutine[Any, Any, Any]):
    """A coroutine that calls `waits` each time before it waits."""

    def __init__(self, work: CoroutineType, waits: Callable[[], None]) -> None:
        self._work = work
        self._waits = waits

    def send(self, value: Any) -> Any:
        waited_for = self._work.send(value)
        self._waits()
        return waited_for

    def throw(self, *error: Any) -> Any:
        waited_for = self._work.throw(*error)
        self._waits()
        return waited_for

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Any:
        raise AssertionError("only a task may run it")


async def _awaited(work: Callable[[], Awaitable[Any]]) -> Any:
    return await work()


def _is_of_a_library(work: CoroutineType) -> bool:
    file = work.cr_code.co_filename
    return "site-packages" in file or not file.startswith(_OURS)


@contextmanager
def _factory(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    before = loop.get_task_factory()

    def start(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        cut = _current.get()
        return asyncio.Task(work, loop=loop, **options) if cut is None else cut.start(loop, work, **options)

    loop.set_task_factory(start)
    try:
        yield
    finally:
        loop.set_task_factory(before)
