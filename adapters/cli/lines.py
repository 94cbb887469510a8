"""Reading lines of a file or of stdin beside the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import BinaryIO

MAX_LINE = 64 * 1024
"""Longer lines are truncated to one byte more."""

Line = tuple[int, bytes]
"""A line and its number, from 1."""


async def numbered_lines(file: BinaryIO) -> AsyncIterator[Line]:
    """Yield the lines that are not blank."""
    number = 0
    while line := await _in_thread(partial(file.readline, MAX_LINE + 1)):
        number += 1
        rest = line
        while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
            rest = await _in_thread(partial(file.readline, MAX_LINE + 1))
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if line.strip():
            yield number, line


def count_lines(file: BinaryIO) -> int | None:
    """Return the number of lines, if the file can be read twice."""
    with suppress(OSError, ValueError):
        if file.seekable():
            number = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
            file.seek(0)
            return number
    return None


async def _in_thread(read: Callable[[], bytes]) -> bytes:
    """Call `read` in a daemon thread: unlike an executor's, it does not delay the end of the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bytes] = loop.create_future()

    def finish(result: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if done.done() else result())

    def work() -> None:
        try:
            line = read()
        except Exception as error:  # noqa: BLE001 - raised to the caller
            finish(partial(done.set_exception, error))
        else:
            finish(partial(done.set_result, line))

    Thread(target=work, daemon=True).start()
    return await done
