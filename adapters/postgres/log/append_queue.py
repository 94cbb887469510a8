"""The appends that wait for their batch. They are sealed while the batch before is committed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice, takewhile

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
_SEALING_SECONDS = 2.0
"""How long a batch waits for appends whose keys are being fetched."""


class Waiting:
    """An append, and the caller that waits for its outcome."""

    __slots__ = ("_fetching", "append", "failure", "outcome", "proposal")

    def __init__(self, append: Append) -> None:
        self.append = append
        self.outcome: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self.proposal: Proposal
        """As it is stored; once it is sealed."""
        self.failure: Exception | None = None
        """Why what it needs could not be fetched."""
        self._fetching: asyncio.Task[None] | None = None

    @property
    def fetching(self) -> asyncio.Task[None] | None:
        """The task that fetches its keys and seals it; `None`: none does."""
        return None if self._fetching is None or self._fetching.done() else self._fetching

    def seal(self, personal: PersonalData, fetch: Callable[[Append], Awaitable[Sealing]]) -> None:
        """Seal it now, or start to `fetch` what that needs. Raises `EventTooLarge`."""
        if (sealing := personal.seal_now(self.append)) is None:
            self._fetching = asyncio.create_task(self._fetch(fetch))
        else:
            self.proposal = _proposed(self.append, sealing)

    def reject(self, error: Exception) -> None:
        """Its caller gets this error, unless it has its outcome or was cancelled."""
        if not self.outcome.done():
            self.outcome.set_exception(error)

    def withdraw(self) -> None:
        """Nobody waits for it any more."""
        if self._fetching is not None:
            self._fetching.cancel()

    async def _fetch(self, fetch: Callable[[Append], Awaitable[Sealing]]) -> None:
        try:
            self.proposal = _proposed(self.append, await fetch(self.append))
        except Exception as error:  # noqa: BLE001 - whatever it is, its caller has to get it
            self.failure = error


class AppendQueue:
    """Appends in the order of arrival. `fetch` seals an append whose keys this process does not know."""

    def __init__(self, personal: PersonalData, fetch: Callable[[Append], Awaitable[Sealing]]) -> None:
        self._personal = personal
        self._fetch = fetch
        self._waiting: dict[Waiting, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, append: Append) -> Waiting:
        """Add an append at the end. Raises `EventTooLarge`."""
        waiting = Waiting(append)
        waiting.seal(self._personal, self._fetch)
        self._waiting[waiting] = None
        return waiting

    def remove(self, waiting: Waiting) -> None:
        """Take it out, if it still waits; its caller has its outcome, or was cancelled."""
        self._waiting.pop(waiting, None)
        waiting.withdraw()

    async def next_batch(self) -> list[Waiting]:
        """Take the next appends. One that cannot be sealed is rejected alone; one that waits for the key vault holds up no other."""
        taken = list(islice(self._waiting, MAX_IN_BATCH))
        if tasks := [task for waiting in taken if (task := waiting.fetching) is not None]:
            await asyncio.wait(tasks, timeout=_SEALING_SECONDS)
            if len(tasks) == len(taken):
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return self._take(taken)

    def take_more(self, number: int) -> list[Waiting]:
        """Take at most so many more. In the order of arrival, so up to the first one that waits for its keys."""
        return self._take([*takewhile(lambda waiting: waiting.fetching is None, islice(self._waiting, number))])

    def take_all(self) -> list[Waiting]:
        """Take them all, sealed or not."""
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    def _take(self, wanted: Iterable[Waiting]) -> list[Waiting]:
        """Those that can be written now. They wait no more, nor do those that cannot be sealed."""
        taken = []
        for waiting in wanted:
            if waiting.fetching is None and waiting in self._waiting:
                del self._waiting[waiting]
                if waiting.failure is not None:
                    waiting.reject(waiting.failure)
                elif not waiting.outcome.done():
                    taken.append(waiting)
        return taken


def _proposed(append: Append, sealing: Sealing) -> Proposal:
    return Proposal(append, [_text(event) for event in sealing.events], sealing)


def _text(event: Event) -> str:
    text = encode(event)
    if (size := len(text) if text.isascii() else len(text.encode())) > MAX_BYTES:
        raise EventTooLarge(wire_name(event), size, MAX_BYTES)
    return text
