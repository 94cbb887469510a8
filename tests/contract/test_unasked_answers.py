"""Answers that no request asked for."""

import asyncio
import json
from contextlib import suppress
from types import SimpleNamespace

import pytest

from guestledger.adapters.http.status_line import KeepingHandler
from guestledger.engine.domain.personal import SecretBytes
from guestledger.engine.ports.provider import PreparedCreation

GUESTS = ("ann", "bob", "cid")


async def nothing(): ...


def answer(fields, *headers):
    sent = json.dumps(fields).encode()
    return "\r\n".join(["HTTP/1.1 201 Created", f"Content-Length: {len(sent)}", *headers]).encode() + b"\r\n\r\n" + sent


def session_of(guest):
    return {"sessionId": f"sess_of_{guest}", "token": f"gt_of_{guest}"}


@pytest.fixture
async def twice():
    """A server that keeps connections open and sends its first answer again as soon as `again` is set."""
    again = asyncio.Event()
    connections = []

    async def serve(reader, writer):
        connections.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                made = session_of((await reader.readexactly(length)).decode())
                writer.write(answer(made))
                if not again.is_set():
                    await again.wait()
                    writer.write(answer(made, "X-Unasked: yes"))

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield SimpleNamespace(url=url, again=again, connections=connections)
    listening.close()
    for writer in connections:
        writer.close()


async def test_an_answer_that_nobody_asked_for_goes_to_no_later_guest(twice, client_of, with_token, monkeypatch):
    received = asyncio.Event()
    data_received = KeepingHandler.data_received

    def watched(handler, data):
        data_received(handler, data)
        if b"X-Unasked" in data:
            received.set()

    monkeypatch.setattr(KeepingHandler, "data_received", watched)
    made = []
    async with client_of(twice) as client:
        with_token(client)
        for guest in GUESTS:
            prepared = PreparedCreation(body=SecretBytes(guest.encode()), request_hmac="")
            made.append(await client.create(prepared, guest, nothing))
            twice.again.set()
            await received.wait()
    assert [(one.session_id, one.guest_token) for one in made] == [
        tuple(session_of(guest).values()) for guest in GUESTS
    ]
    assert len(twice.connections) == 2
