"""The protocol between `tests.bench.store` and each side's program.

Each side runs in its own process. It prints `ready` and then answers each line on standard input, a number of lifecycles,
with a line of JSON: the seconds they took in all, and those of each append.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any


def answer(one_round: Callable[[Any], list[float]], *, prepare: Callable[[int], Any] = int) -> None:
    """Serve rounds until the input ends.

    `one_round` carries out the lifecycles and returns the seconds of each append; what `prepare` makes of their number
    before, is not timed.
    """
    print("ready", flush=True)
    for line in sys.stdin:
        prepared = prepare(int(line))
        began = time.perf_counter()
        appends = one_round(prepared)
        print(json.dumps({"seconds": time.perf_counter() - began, "appends": appends}), flush=True)


async def at_once(
    lifecycle: Callable[[list[float]], Awaitable[None]], lifecycles: int, concurrency: int
) -> list[float]:
    """Carry out so many lifecycles, `concurrency` of them at a time, each of which notes the seconds of its appends."""
    left = iter(range(lifecycles))
    appends: list[float] = []

    async def worker() -> None:
        for _ in left:
            await lifecycle(appends)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(concurrency):
            tasks.create_task(worker())
    return appends
