"""Token answers as servers in the wild give them."""

import json
import time
from types import SimpleNamespace

import pytest

from guestledger.adapters.http import token_source
from guestledger.adapters.http.token_lifetime import MAX_LIFETIME_S
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import CredentialsRefused, ServiceUnreachable

DAY = MAX_LIFETIME_S
TOKEN = {"access_token": "the-token", "token_type": "Bearer", "expires_in": 3600}


def body(**changes):
    return json.dumps({name: value for name, value in {**TOKEN, **changes}.items() if value is not ...}).encode()


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock of tokens, in seconds."""
    hands = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(token_source, "time", SimpleNamespace(monotonic=lambda: hands.now))
    return hands


@pytest.mark.parametrize(
    "sent",
    [
        body(expires_in=...),
        body(expires_in="3600"),
        body(token_type="BearerToken"),
        body(token_type="bearer "),
        body(token_type=...),
        body(token_type=None),
        b"\xef\xbb\xbf" + body(),
        body().decode().encode("utf-16"),
        body(scope={"deep": [1e300]}, error=""),
    ],
)
async def test_usable_token_is_used(raw, client_of, sent):
    async with raw.server(raw.http(200, sent)) as server, client_of(server) as client:
        assert await client._tokens.token() == "the-token"


@pytest.mark.parametrize(
    ("expires_in", "lives_s"),
    [
        (3600, 3_600),
        (3600.5, 3_600.5),
        ("3600", 3_600),
        (" 90.5 ", 90.5),
        (..., DAY),
        (None, DAY),
        (0, DAY),
        (-1, DAY),
        ("soon", DAY),
        ("", DAY),
        ("1e3", DAY),
        (86_400_000, DAY),
        (1e300, DAY),
        ("9" * 400, DAY),
        (1_700_000_000, DAY),
    ],
)
async def test_lifetime_has_bounds_and_a_default(raw, client_of, clock, expires_in, lives_s):
    async with raw.server(raw.http(200, body(expires_in=expires_in))) as server, client_of(server) as client:
        await client.ready()
        clock.now += lives_s - min(60, lives_s / 2) - 1
        assert client.is_ready
        clock.now += 2
        assert not client.is_ready


@pytest.mark.parametrize("unit", [1, 1_000])
async def test_expires_in_that_is_a_unix_time_is_read_as_one(raw, client_of, clock, unit):
    expires_in = int((time.time() + 3_600) * unit)
    async with raw.server(raw.http(200, body(expires_in=expires_in))) as server, client_of(server) as client:
        await client.ready()
        clock.now += 3_400
        assert client.is_ready
        clock.now += 200
        assert not client.is_ready


async def test_token_without_a_lifetime_is_replaced_when_it_is_refused(raw, client_of, make_session):
    refused, made = raw.http(401), raw.http(201, b'{"sessionId":"s","token":"t","expiresAt":"2099-01-01T00:00:00Z"}')
    tokens = [raw.http(200, body(access_token=text, expires_in=...)) for text in ("old", "new")]
    async with raw.server(tokens[0], refused, tokens[1], made) as server, client_of(server) as client:
        prepared = client.prepare(make_session())

        async def nothing(): ...

        created = await client.create(prepared, "key", nothing)
    assert created.session_id == "s"
    assert b"Bearer new" in server.requests[3]


@pytest.mark.parametrize(
    ("error", "cause"),
    [("invalid_client", Cause.UNAUTHORIZED), ("invalid_scope", Cause.SCOPE_REFUSED), ("slow_down", Cause.REJECTED)],
)
async def test_error_in_a_200_is_a_refusal_in_the_servers_words(raw, client_of, error, cause):
    sent = json.dumps({"error": error, "error_description": "the secret secret-of-a-raw-server has expired"}).encode()
    async with raw.server(raw.http(200, sent)) as server, client_of(server) as client:
        with pytest.raises(CredentialsRefused) as caught:
            await client.ready()
    assert caught.value.cause is cause
    assert caught.value.detail.endswith(f", {error}: the secret [removed] has expired")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (body(token_type="mac"), "the token is not a bearer token but 'mac'"),
        (body(access_token=...), "no access_token"),
        (body(access_token="a b"), "access_token cannot be read"),
        (body(access_token={"a": 1}), "access_token cannot be read"),
    ],
)
async def test_unusable_token_answer_says_why(raw, client_of, sent, said):
    async with raw.server(raw.http(200, sent)) as server, client_of(server) as client:
        with pytest.raises(ServiceUnreachable) as caught:
            await client.ready()
    assert caught.value.cause is Cause.UNREADABLE_ANSWER
    assert caught.value.detail.endswith(f", {said}")
    assert len(server.requests) == 1
