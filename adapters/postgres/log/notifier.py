"""Hints that the log has grown: at once within a process, by NOTIFY and LISTEN between processes.

Nothing depends on a hint: each may be late, in vain, or lost (behind a pgbouncer in transaction mode all from elsewhere
are), and readers poll besides. NOTIFY takes a lock of the whole cluster while it commits, so it is kept out of the append:
it goes out after the commit, over another connection, once for all that was committed meanwhile.
"""

import asyncio
import logging
import random
from contextlib import suppress
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.connection import driver_connection, reported
from guestledger.adapters.postgres.statements import quoted
from guestledger.engine.domain.errors import GuestledgerError

logger = logging.getLogger("guestledger")

MAX_CHANNEL = 63  # bytes, PostgreSQL's limit; a name that is cut and so shared gives hints in vain, no more

# At most a hundred hints a second leave a process, and a hint is at most this late.
_COALESCE_SECONDS = 0.01
_LISTEN_AGAIN_SECONDS = 1.0
_LAST_WORD_SECONDS = 1.0


def channel(schema: str) -> str:
    """The channel on which the hints of the ledger in this schema go out."""
    return f"guestledger_{schema}"[:MAX_CHANNEL]


class LogNotifier:
    """One ledger's hints, sent and received. It listens from the first time that somebody waits."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self._channel = channel(schema)
        self._next = asyncio.Event()
        self._grown = False
        self._closed = False
        self._sending: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    def next(self) -> asyncio.Event:
        """The event that the next hint will set."""
        if self._listening is None and not self._closed:
            self._listening = asyncio.create_task(self._listen())
        return self._next

    def announce(self) -> None:
        """Say that the log has grown. Returns at once; what then fails is nobody's concern."""
        self._wake()
        self._grown = True
        if self._sending is None and not self._closed:  # an append can outlive the ledger it was made by
            self._sending = asyncio.create_task(self._send())

    async def close(self) -> None:
        """Send the last hint, if that can be done soon, and stop listening."""
        self._closed = True
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=_LAST_WORD_SECONDS)
        tasks = [task for task in (self._sending, self._listening) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _wake(self) -> None:
        waited_for, self._next = self._next, asyncio.Event()
        waited_for.set()

    async def _send(self) -> None:
        # Asynchronous commit: a notification alone would be worth no flush of the log to disk.
        notify = f"BEGIN; SET LOCAL synchronous_commit = off; NOTIFY {quoted(self._channel)}; COMMIT"
        try:
            while self._grown:
                self._grown = False
                with suppress(GuestledgerError), reported():
                    async with driver_connection(self._engine) as driver:
                        await driver.execute(notify)
                await asyncio.sleep(_COALESCE_SECONDS)
        finally:
            self._sending = None

    async def _listen(self) -> None:
        while True:
            try:
                with suppress(GuestledgerError), reported():
                    await self._listen_once()
            except Exception:
                # Readers poll, so all goes on; but it must not end unseen.
                logger.exception("no hints are heard from other processes for now")
            await asyncio.sleep(_LISTEN_AGAIN_SECONDS * (0.5 + random.random()))  # noqa: S311 - it spreads reconnects

    async def _listen_once(self) -> None:
        """Listen until the connection is lost."""
        lost = asyncio.Event()
        async with self._engine.connect() as connection:
            raw = await connection.get_raw_connection()
            driver: Any = raw.driver_connection
            # It is held for good, so it must not take one of the pool's places. Detached, it is closed with this block.
            raw.detach()
            try:
                driver.add_termination_listener(lambda _driver: lost.set())
                await driver.add_listener(self._channel, lambda *_notification: self._wake())
                self._wake()  # for whatever was sent before
                await lost.wait()
            finally:
                driver.terminate()  # closed by the block's end alone, a server that hangs would be waited for
