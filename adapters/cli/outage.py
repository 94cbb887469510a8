"""Riding out a short outage of the database or the key vault."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import guestledger
from guestledger.adapters.cli.error_lines import error_line
from guestledger.adapters.cli.running import say

MAX_SECONDS = 15
"""How long `open` waits for the database, as `worker --until-idle` does."""
_PROBE_SECONDS = 0.3


def is_outage(error: guestledger.GuestledgerError) -> bool:
    """Whether a database is away, perhaps for a moment only."""
    return isinstance(error, guestledger.ServiceUnreachable) and error.service in (
        "database",
        "key vault",
        "embedded PostgreSQL",
    )


class Outage:
    """Whether the databases answer. `probe` raises `ServiceError` while they do not."""

    def __init__(self, probe: Callable[[], Awaitable[object]]) -> None:
        self.gone: guestledger.GuestledgerError | None = None
        """The error of an outage that did not end in time, or of what came after it: the database is gone for good."""
        self._probe = probe
        self._over = asyncio.Event()
        self._over.set()
        self._waiting: asyncio.Task[None] | None = None

    def note(self, error: guestledger.GuestledgerError) -> None:
        """An outage has been met: say so once, and begin to wait for its end."""
        if self._waiting is None and self.gone is None:
            say(f"{error_line(error)}; waiting up to {MAX_SECONDS} s for it")
            self._over.clear()
            self._waiting = asyncio.create_task(self._wait(error))

    async def over(self) -> bool:
        """Wait for the end of an outage. False: the database is gone for good."""
        await self._over.wait()
        return self.gone is None

    def close(self) -> None:
        """Wait no longer."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._over.set()

    async def _wait(self, error: guestledger.GuestledgerError) -> None:
        try:
            async with asyncio.timeout(MAX_SECONDS):
                await self._answer()
        except TimeoutError:
            self.gone = error
        except guestledger.GuestledgerError as fault:  # waiting does not mend it
            self.gone = fault
        else:
            say(f"the {getattr(error, 'service', 'database')} answers again")
        finally:
            self._waiting = None
            self._over.set()

    async def _answer(self) -> None:
        while True:
            try:
                await self._probe()
            except guestledger.ServiceError:
                await asyncio.sleep(_PROBE_SECONDS)
            else:
                return
