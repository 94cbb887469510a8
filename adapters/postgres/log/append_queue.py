"""The appends that wait for their batch. They are sealed while the batch before is committed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from uuid import UUID

from guestledger.adapters.postgres.log.batch import Proposal
from guestledger.adapters.postgres.personal.personal_data import PersonalData
from guestledger.adapters.postgres.personal.sealed_append import Sealing
from guestledger.engine.domain.errors import EventTooLarge
from guestledger.engine.domain.events import Event
from guestledger.engine.log.appends import Append, Appended
from guestledger.engine.log.codec import encode, wire_name

MAX_IN_BATCH = 200
MAX_BYTES = 256 * 1024
"""Of one event, as canonical JSON."""


class Waiting:
    """An append, and the caller that waits for its outcome."""

    __slots__ = ("append", "failure", "fetching", "outcome", "proposal")

    def __init__(self, append: Append) -> None:
        self.append = append
        self.outcome: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self.proposal: Proposal
        """As it is stored; set once it is sealed."""
        self.failure: Exception | None = None
        """Why it cannot be sealed, if its keys had to be fetched."""
        self.fetching: asyncio.Task[None] | None = None
        """The task that fetches its keys and seals it, while it runs."""

    def reject(self, error: Exception) -> None:
        """Its caller gets this error, unless it has its outcome or was cancelled."""
        if not self.outcome.done():
            self.outcome.set_exception(error)


class AppendQueue:
    """Appends in the order of arrival. One that waits for the key vault holds up no other stream.

    `fetch` seals an append whose keys this process does not know.
    """

    def __init__(self, personal: PersonalData, fetch: Callable[[Append], Awaitable[Sealing]]) -> None:
        self._personal = personal
        self._fetch = fetch
        self._waiting: dict[Waiting, None] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, append: Append) -> Waiting:
        """Add an append at the end. Raises `EventTooLarge`, unless its keys have to be fetched before that shows."""
        waiting = Waiting(append)
        if (sealing := self._personal.seal_now(append)) is None:
            waiting.fetching = asyncio.create_task(self._seal(waiting))
        else:
            waiting.proposal = _proposed(append, sealing)
        self._waiting[waiting] = None
        self._changed.set()
        return waiting

    def remove(self, waiting: Waiting) -> None:
        """Take it out, if it still waits: its caller has its outcome, or was cancelled."""
        self._waiting.pop(waiting, None)
        if waiting.fetching is not None:
            waiting.fetching.cancel()
        self._changed.set()

    async def until_writable(self) -> None:
        """Return once an append can be taken, or none waits any more."""
        while self._waiting and not any(True for _ in self._writable()):
            self._changed.clear()
            await self._changed.wait()

    def take(self, number: int = MAX_IN_BATCH) -> list[Waiting]:
        """Take at most so many of those that can be written. What could not be sealed is rejected."""
        taken = []
        for waiting in list(islice(self._writable(), number)):
            del self._waiting[waiting]
            if waiting.failure is not None:
                waiting.reject(waiting.failure)
            elif not waiting.outcome.done():
                taken.append(waiting)
        return taken

    def take_all(self) -> list[Waiting]:
        """Take them all, sealed or not."""
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    def _writable(self) -> Iterator[Waiting]:
        held_up: set[UUID] = set()
        for waiting in self._waiting:
            stream_id = waiting.append.stream_id
            if waiting.fetching is not None or stream_id in held_up:
                held_up.add(stream_id)  # a later append to the stream builds on this one
            else:
                yield waiting

    async def _seal(self, waiting: Waiting) -> None:
        try:
            waiting.proposal = _proposed(waiting.append, await self._fetch(waiting.append))
        except asyncio.CancelledError:
            waiting.outcome.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, its caller has to get it
            waiting.failure = error
        finally:
            waiting.fetching = None
            self._changed.set()


def _proposed(append: Append, sealing: Sealing) -> Proposal:
    return Proposal(append, [_text(event) for event in sealing.events], sealing)


def _text(event: Event) -> str:
    text = encode(event)
    if (size := len(text) if text.isascii() else len(text.encode())) > MAX_BYTES:
        raise EventTooLarge(wire_name(event), size, MAX_BYTES)
    return text
