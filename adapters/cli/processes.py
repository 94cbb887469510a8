"""Work in several processes."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from guestledger.adapters.cli.running import fail

Part = TypeVar("Part")
Result = TypeVar("Result")


async def in_processes(jobs: int, work: Callable[[Part], Result], parts: Iterable[Part]) -> AsyncIterator[Result]:
    """Yield what `work` returns for each part, in no order. `work` is a function of a module, and all values can be pickled.

    When it is cancelled, or the caller leaves early, the processes end at once.
    """
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    loop = asyncio.get_running_loop()
    # A terminal interrupts all processes; this one ends the others. They inherit what is blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        results = [loop.run_in_executor(pool, work, part) for part in parts]
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        for result in asyncio.as_completed(results):
            yield await result
    except BrokenProcessPool:
        fail("a process ended before its work was done: use fewer --jobs if memory ran out")
    finally:
        for child in multiprocessing.active_children():
            child.kill()
        for result in results:
            result.cancel()
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    logging.disable()  # the first process says it
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
