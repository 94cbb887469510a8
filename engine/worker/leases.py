"""Holding leases: a lease is short, and is renewed while its session is worked on.

Whether a lease still holds is judged by this process's monotonic clock, from before the database was asked for it. A process
that stood still, or cannot reach the database, stops before the database gives the lease to anybody else.
"""

import asyncio
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

from guestledger.engine.domain.errors import ServiceError
from guestledger.engine.log.appends import Lease
from guestledger.engine.ports.due_steps import DueSteps

logger = logging.getLogger("guestledger")
waiting = logging.getLogger("guestledger.waiting")

# A database that is away must not hold up an end.
_RELEASE_SECONDS = 2.0
# Heartbeats at once; each takes a connection of the pool.
_MAX_RENEWALS = 4


class LeaseLost(Exception):
    """The lease may have lapsed: another worker may be at work. Nothing may be sent."""


class Leases:
    """The leases of one process. Each is renewed three times within `ms` while it is held."""

    def __init__(self, due_steps: DueSteps, ms: int) -> None:
        self._due_steps = due_steps
        self._ms = ms
        self._valid_until: dict[tuple[Lease, UUID], float] = {}
        self._holders: Counter[tuple[Lease, UUID]] = Counter()
        self._cut_off: set[UUID] = set()
        self._beating: asyncio.Task[None] | None = None
        self._renewing = asyncio.Semaphore(_MAX_RENEWALS)

    @staticmethod
    def now() -> float:
        """Seconds on the monotonic clock. Read it before the database is asked for a lease."""
        return asyncio.get_running_loop().time()

    def renewed(self, lease: Lease, stream_id: UUID, asked_at: float) -> None:
        """Note that the database gave or renewed `lease` on a stream, asked at `asked_at`."""
        key = (lease, stream_id)
        if key in self._valid_until:
            self._valid_until[key] = max(asked_at + lease.ms / 1_000, self._valid_until[key])

    def check(self, lease: Lease, stream_id: UUID) -> None:
        """Raise `LeaseLost` unless the lease is valid. Call it right before anything is sent."""
        if self.now() >= self._valid_until.get((lease, stream_id), -math.inf):
            raise LeaseLost

    @contextmanager
    def claiming(self, lease: Lease) -> Iterator[float]:
        """Claim under `lease` within the block; gives the time to hold it from.

        A claim that is cut off may have succeeded unseen: `close` releases it.
        """
        with self._noting_cut_off(lease):
            yield self.now()

    @contextmanager
    def hold(self, lease: Lease, stream_id: UUID, asked_at: float | None = None) -> Iterator[None]:
        """Keep `lease` on `stream_id` alive within the block.

        `asked_at` is when it was asked for; `None`: the first append asks for it.
        """
        key = (lease, stream_id)
        self._valid_until.setdefault(key, -math.inf)
        self._holders[key] += 1
        if asked_at is not None:
            self.renewed(lease, stream_id, asked_at)
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())
        try:
            with self._noting_cut_off(lease):
                yield
        finally:
            self._holders[key] -= 1
            if not self._holders[key]:
                del self._holders[key], self._valid_until[key]

    @contextmanager
    def _noting_cut_off(self, lease: Lease) -> Iterator[None]:
        try:
            yield
        except asyncio.CancelledError:
            self._cut_off.add(lease.owner)
            raise

    async def close(self) -> None:
        """Stop renewing, and release what was cut off. If that fails, it lapses.

        Call it once nothing is being appended: a late append would take its lease again.
        """
        if self._beating is not None:
            self._beating.cancel()
            with suppress(asyncio.CancelledError):
                await self._beating
        # An owner that still has work in flight keeps its leases.
        if owners := self._cut_off - {lease.owner for lease, _stream_id in self._valid_until}:
            with suppress(ServiceError, TimeoutError):
                async with asyncio.timeout(_RELEASE_SECONDS):
                    await self._due_steps.release_all(owners)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._ms / 3_000)
            held: defaultdict[Lease, list[UUID]] = defaultdict(list)
            for lease, stream_id in self._valid_until:
                held[lease].append(stream_id)
            renewals = (self._renew(lease, stream_ids) for lease, stream_ids in held.items())
            failures = [failure for failure in await asyncio.gather(*renewals, return_exceptions=True) if failure]
            for failure in failures[:1]:
                # The next beat may succeed. If the loop ended here, none ever would.
                if isinstance(failure, ServiceError | TimeoutError):
                    waiting.warning(
                        "leases not renewed; other workers may take the sessions: %s", failure or "no answer"
                    )
                else:
                    logger.error("leases not renewed; other workers may take the sessions", exc_info=failure)

    async def _renew(self, lease: Lease, stream_ids: list[UUID]) -> None:
        # One connection that hangs must not hold up the others.
        async with self._renewing, asyncio.timeout(self._ms / 3_000):
            asked_at = self.now()
            for stream_id in await self._due_steps.heartbeat(lease, stream_ids):
                self.renewed(lease, stream_id, asked_at)
