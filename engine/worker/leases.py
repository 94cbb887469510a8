"""Holding leases: while a session is worked on, its lease is renewed, so that a lease can be short and still be kept.

Whether a lease still holds is judged here by this process's own monotonic clock, from a moment before the database was
asked for it: a process that stood still, or could not reach the database, so knows its lease for lost no later than the
database lets anybody else have it. But for one thing: an expiry that a lease holds up is recorded over it. What was decided
under that lease then fails on its version, as under one that has lapsed.
"""

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

from guestledger.engine.domain.errors import ServiceError
from guestledger.engine.log.appends import Lease
from guestledger.engine.ports import DueSteps

logger = logging.getLogger("guestledger")
waiting = logging.getLogger("guestledger.waiting")

# A database that is away must not hold up an end.
_GIVE_BACK_SECONDS = 2.0


class LeaseLost(Exception):
    """The lease on a session may have lapsed: somebody else may work on it by now. Nothing may be sent on its account."""


class Leases:
    """The leases that one process holds; renewed three times within their span, `ms`, for as long as they are held."""

    def __init__(self, due_work: DueSteps, ms: int) -> None:
        self._due_work = due_work
        self._ms = ms
        self._held: dict[tuple[Lease, UUID], float] = {}  # and until when each is known to hold
        self._cut_off: set[UUID] = set()
        self._beating: asyncio.Task[None] | None = None

    @staticmethod
    def now() -> float:
        """Seconds on this process's monotonic clock: to be read before the database is asked for a lease."""
        return asyncio.get_running_loop().time()

    def renewed(self, lease: Lease, stream_id: UUID, asked_at: float) -> None:
        """Take note that the database gave or renewed `lease` on a session that is held, asked at `asked_at` (`now`)."""
        held = (lease, stream_id)
        if held in self._held:
            self._held[held] = max(asked_at + lease.ms / 1_000, self._held[held])

    def check(self, lease: Lease, stream_id: UUID) -> None:
        """To be called right before anything is sent. Raises `LeaseLost` unless the lease was renewed within its span."""
        if self.now() >= self._held.get((lease, stream_id), -math.inf):
            raise LeaseLost

    @contextmanager
    def claiming(self, lease: Lease) -> Iterator[float]:
        """Claim under `lease` within the block, and make ready to hold what was claimed; gives the time to hold it from.

        Who is cut off within it may have claimed without having learnt of it: `close` gives that back.
        """
        with self._noting_cut_off(lease):
            yield self.now()

    @contextmanager
    def hold(self, lease: Lease, stream_id: UUID, asked_at: float | None = None) -> Iterator[None]:
        """Keep `lease` on `stream_id` alive within the block.

        `asked_at` (`now`) is when it was asked for; `None` where it is yet to come, with the first append.
        """
        self._held[lease, stream_id] = -math.inf
        if asked_at is not None:
            self.renewed(lease, stream_id, asked_at)
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())
        try:
            with self._noting_cut_off(lease):
                yield
        finally:
            del self._held[lease, stream_id]

    @contextmanager
    def _noting_cut_off(self, lease: Lease) -> Iterator[None]:
        try:
            yield
        except asyncio.CancelledError:
            self._cut_off.add(lease.owner)
            raise

    async def close(self) -> None:
        """Stop renewing, and give back what was cut off. Where that fails, it lapses by itself.

        To be called once nothing is being appended: an append that comes late would take its lease again.
        """
        if self._beating is not None:
            self._beating.cancel()
            with suppress(asyncio.CancelledError):
                await self._beating
        # An owner that still has a run under way keeps what it has.
        if owners := self._cut_off - {lease.owner for lease, _stream_id in self._held}:
            with suppress(ServiceError, TimeoutError):
                async with asyncio.timeout(_GIVE_BACK_SECONDS):
                    await self._due_work.release_all(owners)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._ms / 3_000)
            named: defaultdict[Lease, list[UUID]] = defaultdict(list)
            for lease, stream_id in self._held:
                named[lease].append(stream_id)
            try:
                for lease, stream_ids in named.items():
                    asked_at = self.now()
                    for stream_id in await self._due_work.heartbeat(lease, stream_ids):
                        self.renewed(lease, stream_id, asked_at)
            except ServiceError as error:
                waiting.warning("leases could not be renewed, others may take these sessions on: %s", error)
            except Exception:
                # Whatever it is, the next beat may get through; no beat ever would if this ended here.
                logger.exception("leases could not be renewed, others may take these sessions on")
