"""The access token (contract, "OAuth token")."""

import asyncio
import traceback
from contextlib import suppress
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from guestledger.adapters.http import token_source as auth
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.errors import CredentialsRefused, ServiceUnreachable
from guestledger.engine.domain.outcomes import Created


async def nothing() -> None: ...


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock that tokens are aged by, in seconds."""
    hands = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(auth, "time", SimpleNamespace(monotonic=lambda: hands.now))
    return hands


async def test_the_token_request_is_the_contracts_form(raw, client_of):
    async with raw.server(raw.token) as server, client_of(server, client_id="a b", client_secret="c&d") as client:
        await client.ready()
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /oauth/token HTTP/1.1\r\n")
    assert b"Content-Type: application/x-www-form-urlencoded" in head
    assert body == b"grant_type=client_credentials&client_id=a+b&client_secret=c%26d"


async def test_a_scope_is_asked_for_only_where_the_profile_says_so(raw, client_of, patient):
    profile = replace(patient, token_scope="chat:write channels:read")
    async with raw.server(raw.token) as server, client_of(server, profile) as client:
        await client.ready()
    assert server.requests[0].endswith(b"&scope=chat%3Awrite+channels%3Aread")


async def test_a_client_is_ready_once_it_has_a_token(simulator, client_of):
    async with client_of(simulator) as client:
        assert not client.is_ready
        await client.ready()
        assert client.is_ready


async def test_sixty_four_waiters_share_one_token_request(simulator, client_of):
    async with client_of(simulator) as client:
        await asyncio.gather(*(client.ready() for _ in range(64)))
        await client.ready()
    assert simulator.counts == {"token 200": 1}


async def test_a_waiter_that_gives_up_takes_nothing_from_the_others(simulator, client_of):
    async with client_of(simulator) as client:
        impatient, patient = asyncio.create_task(client.ready()), asyncio.create_task(client.ready())
        await asyncio.sleep(0)
        impatient.cancel()
        await patient
        assert impatient.cancelled()
    assert simulator.counts == {"token 200": 1}


async def test_when_all_waiters_give_up_the_next_one_is_served(simulator, client_of):
    async with client_of(simulator) as client:
        waiters = [asyncio.create_task(client.ready()) for _ in range(3)]
        await asyncio.sleep(0)
        for waiter in waiters:
            waiter.cancel()
        await client.ready()
    assert simulator.counts["token 200"] == 1


async def test_closing_the_client_stops_a_token_request_under_way(raw, client_of):
    never = asyncio.Event()

    async def hang(_reader, writer):
        await never.wait()
        writer.close()

    listening = await asyncio.start_server(hang, "127.0.0.1", 0)
    gone = SimpleNamespace(url=f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    async with client_of(gone) as client:
        waiter = asyncio.create_task(client.ready())
        await asyncio.sleep(0.01)
    await asyncio.wait([waiter])
    assert waiter.cancelled()
    never.set()
    listening.close()


async def test_a_failed_request_is_not_remembered(client_of):
    async with Simulator(SimulatorConfig(token_errors=3)) as simulator, client_of(simulator) as client:
        with pytest.raises(ServiceUnreachable):
            await client.ready()
        await client.ready()
    assert simulator.counts == {"token 503": 3, "token 200": 1}


async def test_a_token_is_replaced_60_s_before_its_end(simulator, client_of, clock):
    async with client_of(simulator) as client:
        await client.ready()
        clock.now += 3_539
        await client.ready()
        assert simulator.counts["token 200"] == 1
        clock.now += 2
        await client.ready()
        assert simulator.counts["token 200"] == 2


async def test_a_token_that_lives_for_less_than_a_minute_is_used_for_half_its_life(client_of, clock):
    async with Simulator(SimulatorConfig(token_lifetime_s=20)) as simulator, client_of(simulator) as client:
        await client.ready()
        clock.now += 9.9
        await client.ready()
        assert simulator.counts["token 200"] == 1
        clock.now += 0.2
        await client.ready()
        assert simulator.counts["token 200"] == 2


async def test_sixty_four_refusals_of_one_token_make_one_refresh(simulator, client_of, make_session):
    async with client_of(simulator) as client:
        await client.ready()
        simulator.revoke_tokens()
        prepared = client.prepare(make_session())
        outcomes = await asyncio.gather(*(client.create(prepared, f"key-{n}", nothing) for n in range(64)))
    assert all(isinstance(outcome, Created) for outcome in outcomes)
    assert simulator.counts["token 200"] == 2
    assert simulator.counts["session 401"] >= 1


async def test_a_late_refusal_of_an_old_token_leaves_the_new_one_alone(simulator, client_of):
    async with client_of(simulator) as client:
        old = await client._tokens.token()
        client._tokens.invalidate(old)
        new = await client._tokens.token()
        client._tokens.invalidate(old)
        assert await client._tokens.token() == new != old


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_refused_credentials_name_the_two_settings_and_are_not_tried_again(raw, client_of, status):
    async with raw.server(raw.http(status, b'{"error":"invalid_client"}')) as server, client_of(server) as client:
        with pytest.raises(CredentialsRefused) as caught:
            await client.ready()
    assert "GUESTLEDGER_CXONE_CLIENT_ID and GUESTLEDGER_CXONE_CLIENT_SECRET" in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
    assert len(server.requests) == 1


async def test_wrong_credentials_are_refused_by_the_simulator(simulator, client_of):
    async with client_of(simulator, client_secret="wrong") as client:
        with pytest.raises(CredentialsRefused):
            await client.ready()
    assert simulator.counts == {"token 401": 1}


async def test_a_failing_token_endpoint_is_tried_three_times(client_of):
    async with Simulator(SimulatorConfig(token_errors=2)) as simulator, client_of(simulator) as client:
        await client.ready()
    assert simulator.counts == {"token 503": 2, "token 200": 1}


async def test_a_dropped_token_request_is_tried_again(raw, client_of):
    async with raw.server(b"", raw.token) as server, client_of(server) as client:
        await client.ready()
    assert len(server.requests) == 2


async def test_a_throttled_token_request_waits_as_long_as_it_is_told(raw, client_of):
    throttled = raw.http(429, b"", "Retry-After: 0")
    async with raw.server(throttled, raw.token) as server, client_of(server) as client:
        await client.ready()
    assert len(server.requests) == 2


async def test_a_token_endpoint_that_asks_for_a_long_wait_is_not_asked_again_at_once(raw, client_of):
    async with raw.server(raw.http(429, b"", "Retry-After: 30")) as server, client_of(server) as client:
        for _ in range(2):
            with pytest.raises(ServiceUnreachable, match="Retry-After of 30000 ms"):
                await client.ready()
    assert len(server.requests) == 1


async def test_a_token_is_not_asked_for_before_the_last_retry_after_has_passed_whoever_comes_anew(
    raw, client_of, monkeypatch
):
    monkeypatch.setattr(auth, "MAX_WAIT_S", 0.4)
    throttled = raw.http(429, b"", "Retry-After: 1")
    async with raw.server(throttled, raw.token) as server, client_of(server) as client:
        while not client.is_ready:
            with suppress(ServiceUnreachable):
                await client.ready()
            await asyncio.sleep(0.02)
    first, second = server.times
    assert second - first >= 1


async def test_a_refused_connection_names_the_url_and_the_setting(nobody, client_of):
    async with client_of(nobody) as client:
        with pytest.raises(ServiceUnreachable) as caught:
            await client.ready()
    text = str(caught.value)
    assert f"{nobody.url}/oauth/token" in text
    assert "refused" in text
    assert "GUESTLEDGER_CXONE_URL" in text
    assert "\n" not in text


async def test_a_host_without_address_is_said_to_be_one_or_to_give_no_connection(client_of, quick):
    gone = SimpleNamespace(url="http://no-such-host.invalid")
    async with client_of(gone, quick) as client:
        with pytest.raises(ServiceUnreachable, match=r"has no address|no connection"):
            await client.ready()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"access_token":"a","token_type":"Bearer"}',
        b'{"access_token":"a","expires_in":0}',
        b'{"access_token":"a","expires_in":-5}',
        b'{"access_token":"a","expires_in":"soon"}',
        b'{"access_token":"","expires_in":3600}',
        b'{"access_token":"a\\r\\nX-Evil: 1","expires_in":3600}',
        b'{"access_token":"a","token_type":"mac","expires_in":3600}',
        b"[" * 60_000,
    ],
)
async def test_a_token_answer_that_cannot_be_read_is_an_unreachable_service(raw, client_of, body):
    async with raw.server(raw.http(200, body)) as server, client_of(server) as client:
        with pytest.raises(ServiceUnreachable, match="cannot be read"):
            await client.ready()
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [302, 404, 410])
async def test_a_token_path_that_is_not_there_points_to_the_url(raw, client_of, status):
    async with raw.server(raw.http(status, b"", "Location: /elsewhere")) as server, client_of(server) as client:
        with pytest.raises(ServiceUnreachable, match=rf"HTTP {status}; check GUESTLEDGER_CXONE_URL"):
            await client.ready()
    assert len(server.requests) == 1


async def test_a_token_answer_may_carry_more_than_is_known(raw, client_of):
    body = b'{"scope":"x","access_token":"a","token_type":"bearer","expires_in":3600,"nested":{"deep":[1]}}'
    async with raw.server(raw.http(200, body)) as server, client_of(server) as client:
        await client.ready()


async def test_a_tenants_own_field_names_are_read(raw, client_of, patient):
    profile = replace(patient, token_fields=replace(patient.token_fields, access_token="jwt", expires_in="ttl"))
    async with raw.server(raw.http(200, b'{"jwt":"a-b-c","ttl":60}')) as server, client_of(server, profile) as client:
        assert await client._tokens.token() == "a-b-c"


@pytest.mark.parametrize(
    "answer",
    [b"", b"garbage\r\n\r\n", b"HTTP/1.1 500 x\r\nContent-Length: 11\r\n\r\nthe-secret!"],
    ids=["dropped", "not HTTP", "500"],
)
async def test_no_failure_shows_the_secret_or_the_form(raw, client_of, answer):
    async with raw.server(answer) as server, client_of(server, client_secret="the-secret") as client:
        with pytest.raises(ServiceUnreachable) as caught:
            await client.ready()
        error = caught.value
        shown = [*traceback.format_exception(error), repr(error), repr(client), repr(client._tokens), repr(vars(error))]
        assert error.__context__ is None
        assert "the-secret" not in "".join(shown)
        assert "client_secret=" not in "".join(shown)


@pytest.mark.parametrize(
    "url",
    ["", "api.example.com", "ftp://h", "http://", "http://user:pass@h", "http://h?a=b", "http://h#f", "http://h:99999"],
)
def test_an_api_root_that_cannot_be_used_is_refused_without_being_shown(client_of, url):
    with pytest.raises(ValueError, match="GUESTLEDGER_CXONE_URL") as caught:
        client_of(SimpleNamespace(url=url))
    assert "pass" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"connect_ms": 10_000}, "connect_ms"),
        ({"connect_ms": 0}, "connect_ms"),
        ({"token_path": "oauth"}, "token_path"),
        ({"channel_path": "/channels"}, "channel_path"),
    ],
)
def test_a_profile_that_cannot_work_is_refused_by_field(patient, changes, named):
    with pytest.raises(ValueError, match=named):
        type(patient)(**changes)
