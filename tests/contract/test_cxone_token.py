"""The access token (contract, "OAuth token")."""

import asyncio
import traceback
from contextlib import suppress
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from guestledger.adapters.http import token_source
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import (
    CredentialsRefused,
    LedgerClosed,
    RequestDenied,
    ServiceError,
    ServiceUnreachable,
)
from guestledger.engine.domain.outcomes import Created
from guestledger.engine.limits.feedback import Observation
from guestledger.engine.limits.retry import WaitBasis


async def nothing() -> None: ...


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock of tokens, in seconds."""
    hands = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(token_source, "time", SimpleNamespace(monotonic=lambda: hands.now))
    return hands


async def test_token_request_is_the_contracts_form(raw, client_of):
    async with raw.server(raw.token) as server, client_of(server, client_id="a b", client_secret="c&d") as client:
        await client.ready()
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /oauth/token HTTP/1.1\r\n")
    assert b"Content-Type: application/x-www-form-urlencoded" in head
    assert body == b"grant_type=client_credentials&client_id=a+b&client_secret=c%26d"


async def test_scope_is_sent_only_if_the_profile_has_one(raw, client_of, patient):
    profile = replace(patient, token_scope="chat:write channels:read")
    async with raw.server(raw.token) as server, client_of(server, profile) as client:
        await client.ready()
    assert server.requests[0].endswith(b"&scope=chat%3Awrite+channels%3Aread")


async def test_client_with_a_token_is_ready(simulator, client_of):
    async with client_of(simulator) as client:
        assert not client.is_ready
        await client.ready()
        assert client.is_ready


async def test_concurrent_callers_share_one_token_request(simulator, client_of):
    async with client_of(simulator) as client:
        await asyncio.gather(*(client.ready() for _ in range(64)))
        await client.ready()
    assert simulator.counts == {"token 200": 1}


async def test_cancelled_caller_does_not_cancel_the_others(simulator, client_of):
    async with client_of(simulator) as client:
        impatient, patient = asyncio.create_task(client.ready()), asyncio.create_task(client.ready())
        await asyncio.sleep(0)
        impatient.cancel()
        await patient
        assert impatient.cancelled()
    assert simulator.counts == {"token 200": 1}


async def test_caller_after_cancelled_ones_gets_a_token(simulator, client_of):
    async with client_of(simulator) as client:
        waiters = [asyncio.create_task(client.ready()) for _ in range(3)]
        await asyncio.sleep(0)
        for waiter in waiters:
            waiter.cancel()
        await client.ready()
    assert simulator.counts["token 200"] == 1


async def test_closing_the_client_cancels_a_token_request(raw, client_of):
    never = asyncio.Event()

    async def hang(_reader, writer):
        await never.wait()
        writer.close()

    listening = await asyncio.start_server(hang, "127.0.0.1", 0)
    gone = SimpleNamespace(url=f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    async with client_of(gone) as client:
        waiter = asyncio.create_task(client.ready())
        await asyncio.sleep(0.01)
    with pytest.raises(LedgerClosed):
        await waiter
    never.set()
    listening.close()


async def test_failed_request_is_repeated_after_a_second(client_of, clock):
    async with Simulator(SimulatorConfig(token_errors=3)) as simulator, client_of(simulator) as client:
        for _ in range(2):
            with pytest.raises(ServiceUnreachable):
                await client.ready()
        clock.now += 1
        await client.ready()
    assert simulator.counts == {"token 503": 3, "token 200": 1}


async def test_a_refused_secret_is_sent_ever_more_rarely_however_many_wait(raw, client_of, clock):
    async with raw.server(raw.http(401)) as server, client_of(server) as client:
        for _ in range(120):
            refused = await asyncio.gather(*(client.ready() for _ in range(20)), return_exceptions=True)
            assert {type(error) for error in refused} == {CredentialsRefused}
            clock.now += 0.5
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("away", "counted"),
    [
        (SimulatorConfig(token_errors=99), {"token 503": 3}),
        (SimulatorConfig(token_throttle_times=99, retry_after_s=600), {"token 429": 1}),
    ],
)
async def test_token_that_cannot_be_replaced_is_used_until_it_expires(simulator, client_of, clock, away, counted):
    async with client_of(simulator) as client:
        await client.ready()
        simulator.config = away
        clock.now += 3_541
        for _ in range(9):
            await client.ready()
            assert client.is_ready
        assert simulator.counts == {"token 200": 1, **counted}
        clock.now += 60
        assert not client.is_ready
        with pytest.raises(ServiceUnreachable):
            await client.ready()


async def test_token_that_was_refused_is_not_used_while_there_is_no_other(simulator, client_of, clock):
    async with client_of(simulator) as client:
        await client.ready()
        simulator.config = SimulatorConfig(token_errors=99)
        clock.now += 3_541
        client._tokens.invalidate(await client._tokens.token())
        with pytest.raises(ServiceUnreachable):
            await client.ready()


async def test_token_is_not_used_any_more_once_the_credentials_are_refused(raw, client_of, clock):
    async with raw.server(raw.token, raw.http(401)) as server, client_of(server) as client:
        await client.ready()
        clock.now += 3_541
        for _ in range(2):
            with pytest.raises(CredentialsRefused):
                await client.ready()
            assert not client.is_ready
    assert len(server.requests) == 2


async def test_token_is_replaced_60_s_before_its_expiry(simulator, client_of, clock):
    async with client_of(simulator) as client:
        await client.ready()
        clock.now += 3_539
        await client.ready()
        assert simulator.counts["token 200"] == 1
        clock.now += 2
        await client.ready()
        assert simulator.counts["token 200"] == 2


async def test_short_lived_token_is_used_for_half_its_lifetime(client_of, clock):
    async with Simulator(SimulatorConfig(token_lifetime_s=20)) as simulator, client_of(simulator) as client:
        await client.ready()
        clock.now += 9.9
        await client.ready()
        assert simulator.counts["token 200"] == 1
        clock.now += 0.2
        await client.ready()
        assert simulator.counts["token 200"] == 2


async def test_many_401s_for_one_token_cause_one_refresh(simulator, client_of, make_session):
    async with client_of(simulator) as client:
        await client.ready()
        simulator.revoke_tokens()
        prepared = client.prepare(make_session())
        outcomes = await asyncio.gather(*(client.create(prepared, f"key-{n}", nothing) for n in range(64)))
    assert all(isinstance(outcome, Created) for outcome in outcomes)
    assert simulator.counts["token 200"] == 2
    assert simulator.counts["session 401"] >= 1


async def test_late_401_for_an_old_token_keeps_the_new_one(simulator, client_of):
    async with client_of(simulator) as client:
        old = await client._tokens.token()
        client._tokens.invalidate(old)
        new = await client._tokens.token()
        client._tokens.invalidate(old)
        assert await client._tokens.token() == new != old


@pytest.mark.parametrize(
    ("status", "error", "cause"),
    [
        (400, b"", Cause.REJECTED),
        (401, b"", Cause.UNAUTHORIZED),
        (403, b"", Cause.FORBIDDEN),
        (400, b"invalid_request", Cause.REJECTED),
        (400, b"invalid_client", Cause.UNAUTHORIZED),
        (400, b"invalid_scope", Cause.SCOPE_REFUSED),
        (403, b"invalid_scope", Cause.SCOPE_REFUSED),
        (400, b"unauthorized_client", Cause.GRANT_REFUSED),
        (400, b"unsupported_grant_type", Cause.GRANT_REFUSED),
    ],
)
async def test_refused_credentials_are_not_retried(raw, client_of, status, error, cause):
    async with raw.server(raw.http(status, b'{"error":"' + error + b'"}')) as server, client_of(server) as client:
        with pytest.raises(CredentialsRefused) as caught:
            await client.ready()
    refusal = caught.value
    assert (refusal.service, refusal.cause) == ("token endpoint", cause)
    facts = (server.url.removeprefix("http://"), f"HTTP {status}", error.decode())
    assert refusal.detail == ", ".join(filter(None, facts))
    assert len(server.requests) == 1


async def test_simulator_refuses_wrong_credentials(simulator, client_of):
    async with client_of(simulator, client_secret="wrong") as client:
        with pytest.raises(CredentialsRefused):
            await client.ready()
    assert simulator.counts == {"token 401": 1}


async def test_failing_token_endpoint_is_tried_three_times(client_of):
    async with Simulator(SimulatorConfig(token_errors=2)) as simulator, client_of(simulator) as client:
        await client.ready()
    assert simulator.counts == {"token 503": 2, "token 200": 1}


async def test_dropped_token_request_is_retried(raw, client_of):
    async with raw.server(b"", raw.token) as server, client_of(server) as client:
        await client.ready()
    assert len(server.requests) == 2


async def test_throttled_token_request_is_retried_after_its_wait(raw, client_of):
    throttled = raw.http(429, b"", "Retry-After: 0")
    async with raw.server(throttled, raw.token) as server, client_of(server) as client:
        await client.ready()
    assert len(server.requests) == 2


async def test_long_retry_after_of_the_token_endpoint_ends_in_denial(raw, client_of):
    async with raw.server(raw.http(429, b"", "Retry-After: 30")) as server, client_of(server) as client:
        for _ in range(2):
            with pytest.raises(RequestDenied) as caught:
                await client.ready()
    error = caught.value
    assert (error.service, error.limiter) == ("token endpoint", f"{server.url.removeprefix('http://')} token")
    assert error.denied.closed_by is WaitBasis.RETRY_AFTER
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "observation", "closed_ms"),
    [
        ((429, b"", "Retry-After: 30"), Observation.THROTTLED, 30_000),
        ((503, b"", "Retry-After: 30"), Observation.SUCCESS, 30_000),
        ((408, b"", "Retry-After: 30"), Observation.SUCCESS, 30_000),
        ((425, b"", "Retry-After: 30"), Observation.SUCCESS, 30_000),
        ((401, b"", "Retry-After: 30"), Observation.SUCCESS, None),
        ((401, b"", 'RateLimit: "hour";r=0;t=60'), Observation.SUCCESS, 60_000),
    ],
)
async def test_token_endpoint_only_closes_its_limiter(raw, client_of, limiter, answer, observation, closed_ms):
    async with raw.server(raw.http(*answer)) as server, client_of(server, rate_limiter=limiter) as client:
        with pytest.raises(ServiceError):
            await client.ready()
    feedback = limiter.observed[0]
    assert (feedback.observation, feedback.closed_ms) == (observation, closed_ms)


async def test_feedback_that_could_not_be_given_precedes_the_next_request(raw, client_of, limiter, monkeypatch):
    observe = limiter.observe

    async def away(_feedback):
        raise ServiceUnreachable("database", Cause.CONNECTION_LOST)

    monkeypatch.setattr(limiter, "observe", away)
    throttled = raw.http(429, b"", "Retry-After: 30")
    async with raw.server(throttled) as server, client_of(server, rate_limiter=limiter) as client:
        with pytest.raises(ServiceUnreachable):
            await client.ready()
        monkeypatch.setattr(limiter, "observe", observe)
        with pytest.raises(RequestDenied):
            await client.ready()
    assert len(server.requests) == 1
    assert [feedback.closed_ms for feedback in limiter.observed] == [30_000]


async def test_no_token_request_before_the_retry_after_has_passed(raw, client_of, monkeypatch):
    monkeypatch.setattr(token_source, "MAX_WAIT_S", 0.4)
    throttled = raw.http(429, b"", "Retry-After: 1")
    async with raw.server(throttled, raw.token) as server, client_of(server) as client:
        while not client.is_ready:
            with suppress(ServiceUnreachable):
                await client.ready()
            await asyncio.sleep(0.02)
    first, second = server.times
    assert second - first >= 1


async def test_refused_connection_names_service_and_host(nobody, client_of):
    async with client_of(nobody) as client:
        with pytest.raises(ServiceUnreachable) as caught:
            await client.ready()
    error = caught.value
    assert (error.service, error.cause) == ("token endpoint", Cause.CONNECTION_REFUSED)
    assert error.detail == nobody.url.removeprefix("http://")


async def test_host_without_address_is_unreachable(client_of, quick):
    gone = SimpleNamespace(url="http://no-such-host.invalid")
    async with client_of(gone, quick) as client:
        with pytest.raises(ServiceUnreachable) as caught:
            await client.ready()
    assert caught.value.cause in (Cause.NO_ADDRESS, Cause.CONNECTION_TIMEOUT)


async def test_timeout_of_the_token_endpoint_names_the_limit(raw, client_of, quick):
    never = asyncio.Event()

    async def hang(_reader, writer):
        await never.wait()
        writer.close()

    listening = await asyncio.start_server(hang, "127.0.0.1", 0)
    gone = SimpleNamespace(url=f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    async with client_of(gone, quick) as client:
        with pytest.raises(ServiceUnreachable) as caught:
            await client.ready()
    assert caught.value.cause is Cause.ANSWER_TIMEOUT
    assert caught.value.detail.endswith(", 250 ms")
    never.set()
    listening.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"access_token":"","expires_in":3600}',
        b'{"access_token":"a\\r\\nX-Evil: 1","expires_in":3600}',
        b'{"access_token":"a","token_type":"mac","expires_in":3600}',
        b"[" * 60_000,
    ],
)
async def test_unreadable_token_answer_is_not_retried(raw, client_of, body):
    async with raw.server(raw.http(200, body)) as server, client_of(server) as client:
        with pytest.raises(ServiceUnreachable) as caught:
            await client.ready()
    assert caught.value.cause is Cause.UNREADABLE_ANSWER
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "cause"), [(302, Cause.REDIRECTED), (404, Cause.REJECTED), (410, Cause.REJECTED)])
async def test_wrong_token_path_is_not_retried(raw, client_of, status, cause):
    async with raw.server(raw.http(status, b"", "Location: /elsewhere")) as server, client_of(server) as client:
        with pytest.raises(ServiceUnreachable) as caught:
            await client.ready()
    assert caught.value.cause is cause
    assert caught.value.detail.endswith(f", HTTP {status}")
    assert len(server.requests) == 1


async def test_unknown_fields_of_a_token_answer_are_ignored(raw, client_of):
    body = b'{"scope":"x","access_token":"a","token_type":"bearer","expires_in":3600,"nested":{"deep":[1]}}'
    async with raw.server(raw.http(200, body)) as server, client_of(server) as client:
        await client.ready()


async def test_tenants_own_field_names_are_read(raw, client_of, patient):
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
        shown = [
            *traceback.format_exception(error),
            repr(error),
            repr(client),
            repr(client._tokens),
            repr(vars(error)),
        ]
        assert error.__context__ is None
        assert "the-secret" not in "".join(shown)
        assert "client_secret=" not in "".join(shown)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com",
        "http://api..example.com",
        f"http://{64 * 'a'}.example",
        "ftp://h",
        "http://",
        "http://user:pass@h",
        "http://h?a=b",
        "http://h#f",
        "http://h:99999",
    ],
)
def test_invalid_api_root_is_refused_and_not_shown(client_of, url):
    with pytest.raises(ValueError, match="the URL must be") as caught:
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
def test_invalid_profile_is_refused_by_field(patient, changes, named):
    with pytest.raises(ValueError, match=named):
        type(patient)(**changes)
