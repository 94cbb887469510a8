"""The standard streams, whatever state they are in: closed, full, non-blocking, or unable to encode a character."""

import asyncio
import errno
import io
import os
import select
import sys
from typing import Any, cast

from guestledger.adapters.forms.text import UNSAFE_TEXT, escape, plain

__all__ = ["PIPE_BUFFER", "OutputLost", "install", "json_line", "plain", "send", "wait_until_ready", "write"]

PIPE_BUFFER = 4096
"""Bytes that a pipe takes at once if it takes any (Linux)."""


class OutputLost(Exception):
    """Standard output does not take what is written; the text says why. What was not written is discarded."""

    def __init__(self, error: OSError) -> None:
        super().__init__("stdout is closed" if error.errno == errno.EBADF else error.strerror)
        self.reader_left = error.errno == errno.EPIPE
        """As behind `| head`: a reading command ends without a word."""


class _Output(io.RawIOBase):
    """Waits where a non-blocking descriptor is full. After `OutputLost`, it discards everything."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lost = False

    def write(self, data: Any) -> int:
        while not self._lost:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                wait_until_ready(self._descriptor, select.POLLOUT)
            except OSError as error:
                self._lost = True
                self._fail(error)
        return len(data)

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def _fail(self, error: OSError) -> None:
        raise OutputLost(error)


class _Notes(_Output):
    """Standard error: nothing is left to report its failure to."""

    def _fail(self, error: OSError) -> None:
        pass


class _Text(io.TextIOWrapper):
    """Escapes what a terminal must not get, and what the encoding does not have."""

    def __init__(self, raw: _Output, encoding: str, *, by_line: bool) -> None:
        super().__init__(
            io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", newline="", line_buffering=by_line
        )

    def write(self, text: str) -> int:
        super().write(UNSAFE_TEXT.sub(escape, text))
        return len(text)


def install() -> None:
    """Replace `sys.stdout` and `sys.stderr`, and keep the numbers of closed streams from being used for other files."""
    if isinstance(sys.stdout, _Text):
        return
    for descriptor, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: reading or writing there goes on failing
            os.open(os.devnull, mode)
    # A stream that was closed when Python started is None.
    given, notes = cast("io.TextIOWrapper | None", sys.stdout), cast("io.TextIOWrapper | None", sys.stderr)
    sys.stdout = _Text(_Output(1), given.encoding if given else "utf-8", by_line=bool(given and given.isatty()))
    sys.stderr = _Text(_Notes(2), notes.encoding if notes else "utf-8", by_line=True)


def json_line(value: Any) -> bytes:
    """Return one line of JSON, with escapes for what the terminal must not get or cannot show."""
    from guestledger.adapters.forms import json_lines

    return json_lines.json_line(value, ascii_only=sys.stdout.encoding.lower().replace("-", "") != "utf8")


def write(data: bytes) -> None:
    """Write to stdout at once. Raises `OutputLost`."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


async def send(data: bytes) -> None:
    """As `write`. While the reader is slow, the event loop goes on: it renews leases."""
    rest = memoryview(data)
    while rest:
        await _until_writable(sys.stdout.fileno())
        write(bytes(rest[:PIPE_BUFFER]))
        rest = rest[PIPE_BUFFER:]


def wait_until_ready(descriptor: int, what: int) -> None:
    """Wait until a non-blocking descriptor can be read or written: `select.POLLIN` or `POLLOUT`."""
    waiting = select.poll()
    waiting.register(descriptor, what)
    waiting.poll()


async def _until_writable(descriptor: int) -> None:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLOUT)
    if waiting.poll(0):
        return
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(descriptor, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)
