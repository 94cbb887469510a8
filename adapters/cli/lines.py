"""Reading a file or stdin beside the event loop."""

import asyncio
import os
import select
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TypeVar

from guestledger.adapters.cli.streams import wait_until_ready

MAX_LINE = 64 * 1024
"""Longer lines are truncated to one byte more."""
CHUNK = 64 * 1024
_STDIN = 0

Line = tuple[int, bytes]
"""A line and its number, from 1."""

Result = TypeVar("Result")


class UnreadableInput(Exception):
    """The input cannot be read, or not to its end; the text says why."""


async def open_input(file: Path) -> int:
    """Return a descriptor of the file; `-` is stdin. A named pipe waits for its writer. Raises `UnreadableInput`."""
    if str(file) == "-":
        return _STDIN
    try:
        return await in_thread(partial(os.open, file, os.O_RDONLY))
    except OSError as error:
        raise UnreadableInput(error.strerror) from None


def read_chunk(descriptor: int) -> bytes:
    """Return what there is to read, empty at the end. The process that started us may have made stdin non-blocking."""
    while True:
        try:
            return os.read(descriptor, CHUNK)
        except BlockingIOError:
            wait_until_ready(descriptor, select.POLLIN)


async def read_text(file: Path, limit: int) -> str:
    """Return the text of a small file or of stdin, at most `limit` bytes of it. Raises `UnreadableInput`."""
    descriptor, found = await open_input(file), b""
    try:
        while len(found) < limit and (chunk := await in_thread(partial(read_chunk, descriptor))):
            found += chunk
        return found[:limit].decode()
    except OSError as error:
        raise UnreadableInput(error.strerror) from None
    except UnicodeDecodeError:
        raise UnreadableInput("it is not UTF-8") from None


async def numbered_lines(read: Callable[[], bytes]) -> AsyncIterator[Line]:
    """Yield the lines that are not blank. `read` returns the next part of the input, and an empty one at its end.

    Raises `UnreadableInput`. An unfinished line before that is not yielded.
    """
    number, rest, begun = 0, b"", False
    while chunk := await _read(read):
        rest += chunk
        if not begun and len(rest) > 1:
            _check_encoding(rest)
            begun, rest = True, rest.removeprefix(b"\xef\xbb\xbf")
        *lines, rest = rest.split(b"\n")
        for line in lines:
            number += 1
            if line.strip():
                yield number, line[: MAX_LINE + 1]
        rest = rest[: MAX_LINE + 1]
    if rest.strip():
        yield number + 1, rest


def count_lines(descriptor: int) -> int | None:
    """Return how many lines are ahead, if that can be seen without reading them, and somebody watches the progress."""
    with suppress(OSError):
        if sys.stderr.isatty() and stat.S_ISREG(os.fstat(descriptor).st_mode):
            at, number = os.lseek(descriptor, 0, os.SEEK_CUR), 0
            while chunk := os.pread(descriptor, 1 << 20, at):
                at += len(chunk)
                number += chunk.count(b"\n")
            return number
    return None


async def _read(read: Callable[[], bytes]) -> bytes:
    try:
        return await in_thread(read)
    except OSError as error:
        raise UnreadableInput(error.strerror) from None


def _check_encoding(begin: bytes) -> None:
    if begin[:2] in (b"\xff\xfe", b"\xfe\xff") or 0 in begin[:2]:
        raise UnreadableInput("it is UTF-16: convert it with `iconv -f UTF-16 -t UTF-8`")


async def in_thread(work: Callable[[], Result]) -> Result:
    """Call `work` in a daemon thread: unlike an executor's, it does not delay the end of the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def finish(result: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if done.done() else result())

    def call() -> None:
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - raised to the caller
            finish(partial(done.set_exception, error))
        else:
            finish(partial(done.set_result, result))

    Thread(target=call, daemon=True).start()
    return await done
