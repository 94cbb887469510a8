"""A provider and a webhook receiver whose answers a test writes byte for byte."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

Answer = Callable[[int], bytes]
"""The answer to a request, by its number from 1 on."""


CUT = b"|cut|"
"""At the end of an answer: the connection is closed there."""


def reply(status: int, body: Any = b"", *headers: str) -> bytes:
    """An HTTP answer; a body other than bytes is sent as JSON."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(sent)}", *headers]
    return "\r\n".join(head).encode("latin1") + b"\r\n\r\n" + sent


def created(number: int, **changes: Any) -> dict[str, Any]:
    """The body of a well-formed answer to a creation."""
    expiry = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3_600))
    return {"sessionId": f"sess_{number}", "token": "gt_1", "expiresAt": expiry, "status": "active", **changes}


class ScriptedPeer:
    """Counts requests by kind: `token`, `channels`, `sessions`, `hook`."""

    def __init__(self, **answers: Answer) -> None:
        self.counts: Counter[str] = Counter()
        self.url = ""
        self._answers: dict[str, Answer] = {
            "token": lambda _: reply(200, {"access_token": "t", "token_type": "Bearer", "expires_in": 3_600}),
            "channels": lambda _: reply(200, {"status": "active", "supportedProtocols": ["web_chat"]}),
            "sessions": lambda number: reply(201, created(number)),
            "hook": lambda _: reply(200),
            **answers,
        }

    @property
    def settings(self) -> dict[str, str]:
        """The settings of a ledger that uses it, without a webhook."""
        return {"cxone_url": self.url, "cxone_client_id": "client", "cxone_client_secret": "secret"}

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").lower()
                size = next((int(row[15:]) for row in head.split("\r\n") if row.startswith("content-length:")), 0)
                await reader.readexactly(size)
                kind = next(name for name in self._answers if name in head.split("\r\n")[0])
                self.counts[kind] += 1
                answer = self._answers[kind](self.counts[kind])
                writer.write(answer.removesuffix(CUT))
                await writer.drain()
                if answer.endswith(CUT):
                    break
        writer.close()


@asynccontextmanager
async def scripted_peer(**answers: Answer) -> AsyncIterator[ScriptedPeer]:
    """A peer on loopback, for the block. It answers well where `answers` do not say otherwise."""
    peer = ScriptedPeer(**answers)
    listening = await asyncio.start_server(peer.talk, "127.0.0.1", 0)
    peer.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield peer
    finally:
        listening.close()
