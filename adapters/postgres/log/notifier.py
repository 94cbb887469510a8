"""Hints that the log has grown: at once within a process, by NOTIFY and LISTEN between processes.

Readers also poll: pgbouncer in transaction mode loses the hints of other processes. NOTIFY locks the whole cluster while it
commits, so it follows the append on another connection, once for all appends since the last one.
"""

import asyncio
import logging
from contextlib import suppress
from contextvars import Context
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from tenacity import AsyncRetrying, retry_if_result, wait_random

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import SET_SEARCH_PATH, driver_connection
from guestledger.engine.domain.errors import GuestledgerError

logger = logging.getLogger("guestledger")

MAX_CHANNEL = 63
"""Bytes, PostgreSQL's limit. Ledgers with the same cut name share their hints."""

_COALESCE_SECONDS = 0.01
# A hint wakes all processes, and most appends leave no work for them.
_REST_SECONDS = 0.25
# Any login of the database may notify. Readers wake at most this often, and from this many hints a second on they poll.
_SPACING_SECONDS = 0.02
_MAX_PER_SECOND = 1_000
_PAUSE_SECONDS = 30.0
_FAREWELL_SECONDS = 1.0

_listen_forever = AsyncRetrying(wait=wait_random(0.5, 1.5), retry=retry_if_result(lambda _lost: True))


def channel(schema: str) -> str:
    """The NOTIFY channel of the ledger in this schema."""
    return f"guestledger_{schema}"[:MAX_CHANNEL]


class LogNotifier:
    """Sends and receives one ledger's hints."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self._channel = channel(schema)
        self._next = asyncio.Event()
        self._hints = 0
        self._waking: asyncio.TimerHandle | None = None
        self._flooded = False
        self._grown = False
        self._urgent = asyncio.Event()
        self._closed = False
        self._sending: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    def next(self) -> asyncio.Event:
        """The event that the next hint will set."""
        if self._listening is None and not self._closed:
            # Of no caller: it outlives the call.
            self._listening = asyncio.create_task(_listen_forever.copy()(self._listen), context=Context())
        return self._next

    def announce(self, *, urgent: bool) -> None:
        """Signal that the log has grown, in the background. `urgent`: it holds work for other processes."""
        self._wake()
        self._grown = True
        if urgent:
            self._urgent.set()
        if self._sending is None and not self._closed:  # an append can outlive its ledger
            self._sending = asyncio.create_task(self._send())

    async def close(self) -> None:
        """Send the last hint if that takes no longer than a second, and stop listening."""
        self._closed = True
        self._urgent.set()
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=_FAREWELL_SECONDS)
        if self._waking is not None:
            self._waking.cancel()
        tasks = [task for task in (self._sending, self._listening) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _wake(self) -> None:
        waited_for, self._next = self._next, asyncio.Event()
        waited_for.set()

    def _take_hint(self, lost: asyncio.Event) -> None:
        self._hints += 1
        if self._hints > _MAX_PER_SECOND:
            lost.set()
        if self._waking is None:
            self._wake()
            self._waking = asyncio.get_running_loop().call_later(_SPACING_SECONDS, self._wake_again, self._hints)

    def _wake_again(self, hints: int) -> None:
        self._waking = None
        if self._hints != hints:  # more came meanwhile
            self._wake()

    async def _send(self) -> None:
        notify = f"BEGIN; {SET_SEARCH_PATH}; SET LOCAL synchronous_commit = off; NOTIFY {quoted(self._channel)}; COMMIT"
        try:
            while self._grown:
                self._grown = False
                self._urgent.clear()
                with suppress(GuestledgerError), reported():
                    async with driver_connection(self._engine) as driver:
                        await driver.execute(notify)
                await asyncio.sleep(_COALESCE_SECONDS)
                if not self._closed:
                    await self._rest()
        finally:
            self._sending = None

    async def _rest(self) -> None:
        """Wait until there is something urgent, at most until the next hint may be sent anyway."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_REST_SECONDS):
                await self._urgent.wait()

    async def _listen(self) -> None:
        try:
            with suppress(GuestledgerError), reported():
                await self._listen_once()
        except Exception:
            logger.exception("hints from other processes are not received for now; readers poll")
        if self._hints > _MAX_PER_SECOND:
            if not self._flooded:
                logger.warning(
                    "more than %d hints a second arrive on the channel %s, which any login of the database may do: "
                    "polling instead, for as long as that lasts",
                    _MAX_PER_SECOND,
                    self._channel,
                )
            self._flooded = True
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _listen_once(self) -> None:
        lost = asyncio.Event()
        async with self._engine.connect() as connection:
            raw = await connection.get_raw_connection()
            driver: Any = raw.driver_connection
            # It must not take one of the pool's places for good.
            raw.detach()
            try:
                driver.add_termination_listener(lambda _driver: lost.set())
                self._hints = 0
                await driver.add_listener(self._channel, lambda *_notification: self._take_hint(lost))
                self._wake()  # for what was sent before
                await self._watch(lost)
            finally:
                driver.terminate()  # closing it could wait for a server that hangs

    async def _watch(self, lost: asyncio.Event) -> None:
        """Wait until the connection is lost or hints flood it."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await lost.wait()
            if lost.is_set():  # perhaps just as the second ended: what flooded it must be counted still
                return
            self._flooded &= self._hints > 0
            self._hints = 0
