"""SIGTERM and SIGINT: the first stops a command, the second ends the process at once."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

_SHOW_CURSOR = b"\x1b[?25h"


class Stopping:
    """The process's reaction to signals. The one instance is `stopping`."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """The first signal received."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Callable[[], object] | None = None

    def install(self) -> None:
        """Handle signals from now on. A SIGINT that the parent process ignores stays ignored."""
        signal.signal(signal.SIGTERM, self._received)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._received)

    def then(self, stop: Callable[[], object]) -> None:
        """On the first signal, call `stop` once in the running event loop. Replaces any earlier `stop`.

        If the signal has come already, `stop` is called soon.
        """
        self._loop, self._stop = asyncio.get_running_loop(), stop
        if self.signal is not None:
            self._loop.call_soon(self._call)

    def _received(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            if sys.stderr.isatty():
                os.write(2, _SHOW_CURSOR)
            os._exit(128 + number)  # process 1 of a container has no default action for signals
        self.signal = number
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._call)

    def _call(self) -> None:
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()


stopping = Stopping()
