"""The limit on one process's calls to the provider."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class CallLimit:
    """Places for calls. Callers of `open_session` and claimed steps share them."""

    def __init__(self, max_calls: int) -> None:
        self._max_calls = max_calls
        self._places = asyncio.Semaphore(max_calls)
        self._unclaimed = 0

    @asynccontextmanager
    async def place(self, claimed: bool) -> AsyncIterator[None]:
        """A place, once one is free."""
        self._unclaimed += not claimed
        try:
            async with self._places:
                yield
        finally:
            self._unclaimed -= not claimed

    @property
    def max_claimed(self) -> int:
        """How many claimed steps can have a place: more would wait where no other process can run them. At least 1."""
        return max(1, self._max_calls - self._unclaimed)
