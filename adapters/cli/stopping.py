"""SIGTERM and SIGINT: the first asks a command to stop, a second one ends the process there and then.

Nothing but the standard library is needed here, so that a signal is heeded before all the rest is read in.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

_SHOW_CURSOR = b"\x1b[?25h"


class Stopping:
    """What a process does when it is told to stop. There is one of it, `stopping`, as there is one process."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """The signal that came first."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Callable[[], object] | None = None

    def install(self) -> None:
        """Take notice of signals from now on. A SIGINT that whoever started the process wants ignored is ignored."""
        signal.signal(signal.SIGTERM, self._came)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._came)

    def then(self, stop: Callable[[], object]) -> None:
        """When told to stop, call this once in the running event loop, and nothing that was named earlier.

        Soon, if that has been told already.
        """
        self._loop, self._stop = asyncio.get_running_loop(), stop
        if self.signal is not None:
            self._loop.call_soon(self._obey)

    def _came(self, number: int, _frame: FrameType | None) -> None:
        # Not by the signal's default action: the first process of a container has none.
        if self.signal is not None:
            if sys.stderr.isatty():
                os.write(2, _SHOW_CURSOR)
            os._exit(128 + number)
        self.signal = number
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._obey)

    def _obey(self) -> None:
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()


stopping = Stopping()
