"""Tracebacks with local variables show no secrets and no personal data."""

import io
import re
import traceback

import aiohttp
import pytest
from rich.console import Console
from rich.traceback import Traceback

from guestledger.adapters.http import transport
from guestledger.adapters.webhook import HttpWebhook
from guestledger.engine.domain.session import Status
from tests.contract.conftest import FINGERPRINT
from tests.unit.samples import HMAC_KEY

KEY = "018f9661-6b8e-7c3a-9d4e-8f1a2b3c4d5e"
CLIENT_SECRET = "correct-horse-battery-staple"


def shown(fault: BaseException) -> str:
    """The traceback with locals, by the standard library and by Rich."""
    plain = "".join(traceback.TracebackException.from_exception(fault, capture_locals=True).format())
    assert "headers = " in plain, "no locals are shown"
    out = io.StringIO()
    rich = Traceback.from_exception(type(fault), fault, fault.__traceback__, show_locals=True, locals_max_string=None)
    Console(file=out, width=10_000).print(rich)
    return plain + out.getvalue()


async def no_connection(*_args: object, **_kwargs: object) -> None:
    raise RuntimeError("a fault")


def no_reading(*_args: object) -> None:
    raise RuntimeError("a fault")


@pytest.mark.parametrize(
    ("where", "name", "fault"),
    [
        (aiohttp.TCPConnector, "connect", no_connection),
        (transport, "read_exhausted_quota", no_reading),
        (transport, "BODY_LIMIT", None),
    ],
    ids=["before it is sent", "its answer's headers", "its answer's body"],
)
async def test_fault_of_a_creation_shows_no_secret_or_personal_data(
    simulator, client_of, session, monkeypatch, where, name, fault
):
    async with client_of(simulator) as client:
        await client.ready()
        prepared, token = client.prepare(session), client._tokens._token
        monkeypatch.setattr(where, name, fault)
        with pytest.raises((RuntimeError, TypeError)) as caught:
            await client.create(prepared, KEY, lambda: None)
    text = shown(caught.value)
    assert [secret for secret in (token, FINGERPRINT, HMAC_KEY) if secret in text] == []
    assert not re.search(r"gt_[0-9a-f]{8,}", text)


async def test_fault_of_a_token_request_shows_no_secret(simulator, client_of, monkeypatch):
    monkeypatch.setattr(aiohttp.TCPConnector, "connect", no_connection)
    async with client_of(simulator, client_secret=CLIENT_SECRET) as client:
        with pytest.raises(RuntimeError) as caught:
            await client.ready()
    assert CLIENT_SECRET not in shown(caught.value)


async def test_fault_of_a_webhook_call_shows_no_personal_data(simulator, make_session, monkeypatch):
    monkeypatch.setattr(aiohttp.TCPConnector, "connect", no_connection)
    session = make_session(status=Status.ACTIVE, session_id="sess_1", created_at=make_session().accepted_at)
    async with HttpWebhook(url=f"{simulator.webhook_url}/T0PS3CRET", allow_private=True) as webhook:
        with pytest.raises(RuntimeError) as caught:
            await webhook.send(session)
    assert FINGERPRINT not in shown(caught.value)
