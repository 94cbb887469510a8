"""Leases: short, and renewed while their session is worked on.

A lease is valid by this process's monotonic clock, counted from before the database was asked. A process that stood
still, or cannot reach the database, stops before another one gets the lease.
"""

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import Context
from types import TracebackType
from typing import Self
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


class HeldLease:
    """A lease on one session's steps, renewed for as long as the block lasts."""

    __slots__ = ("_leases", "_valid_until", "lease", "stream_id")

    def __init__(self, leases: "Leases", lease: Lease, stream_id: UUID, asked_at: float | None) -> None:
        self.lease = lease
        self.stream_id = stream_id
        self._leases = leases
        self._valid_until = -math.inf if asked_at is None else asked_at + lease.ms / 1_000

    def renewed(self, asked_at: float) -> None:
        """Note that the database gave or renewed it, asked at `asked_at`."""
        if self in self._leases.held:
            self._valid_until = max(asked_at + self.lease.ms / 1_000, self._valid_until)

    def check(self) -> None:
        """Raise `LeaseLost` unless it is valid."""
        if self._leases.closed or Leases.now() >= self._valid_until:
            raise LeaseLost

    def __enter__(self) -> Self:
        self._leases.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leases.held.discard(self)
        self._valid_until = -math.inf
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            self._leases.cut_off.add(self.lease.owner)


class Leases:
    """The leases of one process. Each is renewed three times within `ms` while it is held."""

    def __init__(self, due_steps: DueSteps, ms: int) -> None:
        self.held: set[HeldLease] = set()
        self.cut_off: set[UUID] = set()
        """Owners whose work or claim was cancelled: it may have succeeded unseen, and `close` releases it."""
        self.closed = False
        """Whether no lease is renewed any more, and so nothing sent."""
        self._due_steps = due_steps
        self._ms = ms
        self._beating: asyncio.Task[None] | None = None
        self._renewing = asyncio.Semaphore(_MAX_RENEWALS)

    @staticmethod
    def now() -> float:
        """Seconds on the monotonic clock. Read it before the database is asked for a lease."""
        return asyncio.get_running_loop().time()

    @contextmanager
    def claiming(self, lease: Lease) -> Iterator[float]:
        """Claim under `lease` within the block; gives the time to hold it from."""
        try:
            yield self.now()
        except asyncio.CancelledError:
            self.cut_off.add(lease.owner)
            raise

    def hold(self, lease: Lease, stream_id: UUID, asked_at: float | None = None) -> HeldLease:
        """Keep `lease` on `stream_id` alive within the block.

        `asked_at` is when it was asked for; `None`: the first append asks for it.
        """
        return HeldLease(self, lease, stream_id, asked_at)

    def begin(self, held: HeldLease) -> None:
        """Renew `held` from now on."""
        self.held.add(held)
        if self._beating is None and not self.closed:
            self._beating = asyncio.create_task(self._beat(), context=Context())  # of no session

    async def close(self) -> None:
        """Stop renewing, and release what was cut off. If that fails, it lapses.

        Call it once nothing is being appended: a late append would take its lease again.
        """
        self.closed = True
        if self._beating is not None:
            self._beating.cancel()
            with suppress(asyncio.CancelledError):
                await self._beating
        # An owner that still has work in flight keeps its leases.
        if owners := self.cut_off - {held.lease.owner for held in self.held}:
            with suppress(ServiceError, TimeoutError):
                async with asyncio.timeout(_RELEASE_SECONDS):
                    await self._due_steps.release_all(owners)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._ms / 3_000)
            by_lease: defaultdict[Lease, list[HeldLease]] = defaultdict(list)
            for held in self.held:
                by_lease[held.lease].append(held)
            renewals = (self._renew(lease, together) for lease, together in by_lease.items())
            failures = [failure for failure in await asyncio.gather(*renewals, return_exceptions=True) if failure]
            for failure in failures[:1]:
                # The next beat may succeed. If the loop ended here, none ever would.
                if isinstance(failure, ServiceError | TimeoutError):
                    waiting.warning(
                        "leases not renewed; other workers may take the sessions: %s", str(failure) or "no answer"
                    )
                else:
                    logger.error("leases not renewed; other workers may take the sessions", exc_info=failure)

    async def _renew(self, lease: Lease, together: list[HeldLease]) -> None:
        # One connection that hangs must not hold up the others.
        async with self._renewing, asyncio.timeout(self._ms / 3_000):
            asked_at = self.now()
            renewed = await self._due_steps.heartbeat(lease, list({held.stream_id for held in together}))
            for held in together:
                if held.stream_id in renewed:
                    held.renewed(asked_at)
