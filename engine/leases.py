"""Holding leases: while a session is worked on, its lease is renewed, so that a lease can be short and still be kept."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

from engine.domain.errors import ServiceError
from engine.ports import DueWork, Lease

logger = logging.getLogger("guestledger")


class Leases:
    """The leases that one process holds; renewed three times within their span, `ms`, for as long as they are held."""

    def __init__(self, due_work: DueWork, ms: int) -> None:
        self._due_work = due_work
        self._ms = ms
        self._held: set[tuple[Lease, UUID]] = set()
        self._beating: asyncio.Task[None] | None = None

    @contextmanager
    def hold(self, lease: Lease, stream_id: UUID) -> Iterator[None]:
        """Keep `lease` on `stream_id` alive within the block."""
        self._held.add((lease, stream_id))
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            self._held.discard((lease, stream_id))

    async def close(self) -> None:
        """Stop renewing: what is still held lapses by itself."""
        if self._beating is not None:
            self._beating.cancel()
            with suppress(asyncio.CancelledError):
                await self._beating

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._ms / 3_000)
            named: defaultdict[Lease, list[UUID]] = defaultdict(list)
            for lease, stream_id in self._held:
                named[lease].append(stream_id)
            try:
                for lease, stream_ids in named.items():
                    await self._due_work.heartbeat(lease, stream_ids)
            except ServiceError as error:
                logger.warning("leases could not be renewed, others may take these sessions on: %s", error)
            except Exception:
                # Whatever it is, the next beat may get through; no beat ever would if this ended here.
                logger.exception("leases could not be renewed, others may take these sessions on")
