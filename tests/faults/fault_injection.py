"""Ending work at any moment: whatever it was about to wait for, it never gets to know what came of it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import CoroutineType
from typing import Any

_OURS = str(Path(__file__).parents[2])
_ending: ContextVar["SuddenEnd | None"] = ContextVar("_ending", default=None)


class SuddenEnd:
    """Lets work, and every task that it starts, live until it has had to wait `moments` times; then all of it is cancelled.

    The tasks of libraries are not counted and not cancelled, nor are those that are started while all this comes down:
    they close connections, as the system does for a process that has ended. With `alone`, the work ends but not the
    tasks it started, as when somebody stops waiting for it. With `only_within`, what is waited for outside `within` does
    not count.
    """

    def __init__(self, moments: int, *, alone: bool = False, only_within: bool = False) -> None:
        self.came = False
        self._left = moments
        self._alone = alone
        self._counting = not only_within
        self._tasks: set[asyncio.Task[Any]] = set()

    async def of(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Run `work` to its end, or to the sudden one."""
        with _factory(asyncio.get_running_loop()):
            _ending.set(self)
            try:
                task = asyncio.create_task(_of(work))
            finally:
                _ending.set(None)
            while left := {task for task in self._tasks if not task.done()}:
                await asyncio.wait(left)
        if not self.came:
            task.result()

    @contextmanager
    def within(self) -> Iterator[None]:
        """Count what is waited for in this block: in the work, and in all that it has started."""
        self._counting = True
        try:
            yield
        finally:
            self._counting = False

    def start(self, loop: asyncio.AbstractEventLoop, work: CoroutineType, **how: Any) -> asyncio.Task[Any]:
        """A task for `work`."""
        if self._alone and self._tasks:
            return asyncio.Task(work, loop=loop, **how)
        watched = work if self.came or _is_of_a_library(work) else _Watched(work, self._wait)
        task = asyncio.Task(watched, loop=loop, **how)
        self._tasks.add(task)
        return task

    def _wait(self) -> None:
        self._left -= self._counting
        if not self.came and self._left == 0:
            self.came = True
            for task in self._tasks:
                if isinstance(task.get_coro(), _Watched):
                    task.cancel()


class _Watched(Coroutine[Any, Any, Any]):
    """A coroutine, which calls `waits` each time before it has to wait."""

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
        raise AssertionError("it is for a task")


async def _of(work: Callable[[], Awaitable[Any]]) -> Any:
    return await work()


def _is_of_a_library(work: CoroutineType) -> bool:
    file = work.cr_code.co_filename
    return "site-packages" in file or not file.startswith(_OURS)


@contextmanager
def _factory(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    before = loop.get_task_factory()

    def start(loop: asyncio.AbstractEventLoop, work: Any, **how: Any) -> asyncio.Task[Any]:
        ending = _ending.get()
        return asyncio.Task(work, loop=loop, **how) if ending is None else ending.start(loop, work, **how)

    loop.set_task_factory(start)
    try:
        yield
    finally:
        loop.set_task_factory(before)
