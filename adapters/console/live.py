"""Server-sent events: one event when the log has grown. The page then reads itself again."""

import asyncio
from contextlib import suppress

from guestledger.adapters.api.exchange import Parts, Response
from guestledger.adapters.api.problems import Refused
from guestledger.adapters.api.route import Context, Params
from guestledger.engine.ledger import Ledger

STREAMS = 64
"""At most this many in one process."""
SECONDS = 25.0
"""How long a stream lasts. The browser opens the next one itself; a server that does not say when it stops waits no longer."""
_PAUSE = 1.0


class Live:
    """The handler, and how many streams it has open."""

    def __init__(self) -> None:
        self._open = 0

    async def stream(self, _asked: Params, context: Context) -> Response:
        """Send an event at once, and one after each growth of the log, at most one a second."""
        if self._open >= STREAMS:
            raise Refused("rate-limited", "Too many pages are live: this one stays as it is.", {"retry-after": "30"})
        headers = {"content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no"}
        return Response(headers=headers, body=self._events(context.ledger, context.stopping))

    async def _events(self, ledger: Ledger, stopping: asyncio.Event) -> Parts:
        self._open += 1
        try:
            end, seen = asyncio.get_running_loop().time() + SECONDS, None
            while asyncio.get_running_loop().time() < end and not stopping.is_set():
                head = await ledger.events.head()
                if head != seen:
                    yield f"retry: 1000\nid: {head}\nevent: grown\ndata: {head}\n\n".encode()
                    seen = head
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), _PAUSE)
        finally:
            self._open -= 1
