"""Looking a channel up (contract, "Channel")."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from guestledger.adapters.cxone import client as client_module
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import CredentialsRefused, ServiceUnreachable
from guestledger.engine.domain.outcomes import Channel, Failed, FailureKind, Throttled
from guestledger.engine.limits.feedback import Observation

NOW = datetime(2024, 5, 20, 14, 22, tzinfo=UTC)


def look_ups(simulator: Simulator) -> int:
    return sum(count for name, count in simulator.counts.items() if name.startswith("channel "))


async def test_channel_is_returned_as_described(simulator, client_of):
    async with client_of(simulator, now=lambda: NOW) as client:
        found = await client.look_up_channel("ch_8f3a9b2c")
    expected = Channel(id="ch_8f3a9b2c", status="active", protocols=("web_chat", "sms"), looked_up_at=NOW, cached=False)
    assert found == expected


async def test_request_matches_the_contract(raw, client_of):
    async with raw.server(raw.token, raw.http(404)) as server, client_of(server) as client:
        await client.look_up_channel("ch_1")
    head = server.requests[1]
    assert head.startswith(b"GET /api/v2/channels/ch_1 HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer raw-token\r\n" in head
    assert b"Cookie" not in head


@pytest.mark.parametrize(
    ("channel_id", "path"),
    [
        ("ch_a b", "ch_a%20b"),
        ("ch_a/../b", "ch_a%2F..%2Fb"),
        ("ch_a?b=c&d#e", "ch_a%3Fb%3Dc%26d%23e"),
        ("ch_100%25", "ch_100%2525"),
        ("ch_+;=@:", "ch_%2B%3B%3D%40%3A"),
        ("ch_ü🙂", "ch_%C3%BC%F0%9F%99%82"),
    ],
)
async def test_channel_id_is_percent_encoded_in_the_path(simulator, client_of, channel_id, path):
    async with client_of(simulator) as client:
        found = await client.look_up_channel(channel_id)
    assert isinstance(found, Channel)
    assert simulator.requests[-1].path == f"/api/v2/channels/{path}"


@pytest.mark.parametrize("channel_id", [".", ".."])
async def test_id_that_leads_to_another_path_is_not_sent(simulator, client_of, channel_id):
    async with client_of(simulator) as client:
        found = await client.look_up_channel(channel_id)
    assert isinstance(found, Failed)
    assert (found.kind, found.cause, found.status) == (FailureKind.FINAL, Cause.CHANNEL_UNKNOWN, None)
    assert found.observation is Observation.NOT_SENT
    assert not simulator.requests


async def test_usable_channel_is_cached(simulator, client_of):
    async with client_of(simulator, now=lambda: NOW) as client:
        assert client.known_channel("ch_1") is None
        found = await client.look_up_channel("ch_1")
        assert client.known_channel("ch_1") == replace(found, cached=True)
        assert client.known_channel("ch_2") is None


async def test_cached_channel_expires(simulator, client_of, monkeypatch):
    hands = SimpleNamespace(now=50.0)
    clock = SimpleNamespace(monotonic=lambda: hands.now, perf_counter=lambda: hands.now)
    monkeypatch.setattr(client_module, "time", clock)
    async with client_of(simulator) as client:
        await client.look_up_channel("ch_1")
        hands.now += 29.9
        assert client.known_channel("ch_1") is not None
        hands.now += 0.2
        assert client.known_channel("ch_1") is None


@pytest.mark.parametrize(
    ("config", "problem", "detail", "status", "protocols"),
    [
        (
            SimulatorConfig(inactive_channels=frozenset({"ch_1"})),
            Cause.CHANNEL_INACTIVE,
            "inactive",
            "inactive",
            ("web_chat", "sms"),
        ),
        (
            SimulatorConfig(channels_without_web_chat=frozenset({"ch_1"})),
            Cause.CHANNEL_UNSUPPORTED,
            "web_chat",
            "active",
            ("sms",),
        ),
        (
            SimulatorConfig(inactive_channels=frozenset({"ch_1"}), channels_without_web_chat=frozenset({"ch_1"})),
            Cause.CHANNEL_INACTIVE,
            "inactive",
            "inactive",
            ("sms",),
        ),
    ],
)
async def test_unusable_channel_has_a_problem_and_is_not_cached(client_of, config, problem, detail, status, protocols):
    async with Simulator(config) as simulator, client_of(simulator) as client:
        found = await client.look_up_channel("ch_1")
        assert isinstance(found, Channel)
        assert (found.problem, found.detail) == (problem, detail)
        assert (found.status, found.protocols) == (status, protocols)
        assert client.known_channel("ch_1") is None


async def test_concurrent_lookups_of_a_channel_share_one_request(simulator, client_of):
    async with client_of(simulator) as client:
        found = await asyncio.gather(*(client.look_up_channel("ch_1") for _ in range(64)))
        other = await client.look_up_channel("ch_2")
    assert {channel.id for channel in found} == {"ch_1"}
    assert other.id == "ch_2"
    assert simulator.counts["channel 200"] == 2


async def test_cancelled_lookup_continues_for_other_callers(simulator, client_of):
    async with client_of(simulator) as client:
        impatient = asyncio.create_task(client.look_up_channel("ch_1"))
        patient = asyncio.create_task(client.look_up_channel("ch_1"))
        await asyncio.sleep(0)
        impatient.cancel()
        assert isinstance(await patient, Channel)
    assert simulator.counts["channel 200"] == 1


async def test_404_is_an_unknown_channel(simulator, client_of):
    async with client_of(simulator, now=lambda: NOW) as client:
        found = await client.look_up_channel("ch_unknown_1")
    assert found == Channel(
        id="ch_unknown_1", problem=Cause.CHANNEL_UNKNOWN, detail="no such channel", looked_up_at=NOW
    )
    assert client.known_channel("ch_unknown_1") is None


async def test_lookup_is_replayed_after_a_revoked_token(simulator, client_of):
    async with client_of(simulator) as client:
        await client.ready()
        simulator.revoke_tokens()
        assert isinstance(await client.look_up_channel("ch_1"), Channel)
    assert simulator.counts == {"token 200": 2, "channel 401": 1, "channel 200": 1}


async def test_second_401_is_final(client_of):
    async with Simulator(SimulatorConfig(refuse_tokens=True)) as simulator, client_of(simulator) as client:
        found = await client.look_up_channel("ch_1")
    assert (found.kind, found.cause, found.status) == (FailureKind.FINAL, Cause.UNAUTHORIZED, 401)
    assert found.observation is Observation.SUCCESS
    assert simulator.counts == {"token 200": 2, "channel 401": 2}


async def test_403_names_the_scope_to_check(client_of):
    async with (
        Simulator(SimulatorConfig(missing_scopes=frozenset({"channels:read"}))) as simulator,
        client_of(simulator) as client,
    ):
        found = await client.look_up_channel("ch_1")
    assert (found.kind, found.cause, found.status) == (FailureKind.FINAL, Cause.FORBIDDEN, 403)
    assert found.detail == "channels:read: the client may not do this"
    assert found.observation is Observation.SUCCESS


async def test_429_says_how_long_to_wait(client_of):
    async with (
        Simulator(SimulatorConfig(channel_throttle_times=1, retry_after_s=7)) as simulator,
        client_of(simulator) as client,
    ):
        throttled = await client.look_up_channel("ch_1")
        found = await client.look_up_channel("ch_1")
    assert isinstance(throttled, Throttled)
    assert (throttled.status, throttled.retry_after.ms) == (429, 7_000)
    assert isinstance(found, Channel)


async def test_failed_lookup_says_how_long_to_wait(raw, client_of):
    async with raw.server(raw.token, raw.http(503, b"", "Retry-After: 60")) as server, client_of(server) as client:
        failed = await client.look_up_channel("ch_1")
    assert (failed.kind, failed.retry_after.ms) == (FailureKind.UNAVAILABLE, 60_000)


async def test_server_error_may_be_retried(client_of):
    async with Simulator(SimulatorConfig(channel_errors=1)) as simulator, client_of(simulator) as client:
        failed = await client.look_up_channel("ch_1")
        found = await client.look_up_channel("ch_1")
    assert (failed.kind, failed.cause, failed.status) == (FailureKind.UNAVAILABLE, Cause.SERVER_ERROR, 500)
    assert failed.detail == "the channel service is down"
    assert failed.observation is Observation.FAILED
    assert isinstance(found, Channel)


@pytest.mark.parametrize(
    ("status", "kind", "cause"),
    [
        (400, FailureKind.FINAL, Cause.REJECTED),
        (408, FailureKind.UNAVAILABLE, Cause.REQUEST_TIMEOUT),
        (418, FailureKind.FINAL, Cause.REJECTED),
        (425, FailureKind.UNAVAILABLE, Cause.TOO_EARLY),
        (502, FailureKind.UNAVAILABLE, Cause.SERVER_ERROR),
        (301, FailureKind.FINAL, Cause.REDIRECTED),
    ],
)
async def test_every_other_status_says_whether_to_retry(raw, client_of, status, kind, cause):
    async with raw.server(raw.token, raw.http(status, b"", "Location: /x")) as server, client_of(server) as client:
        found = await client.look_up_channel("ch_1")
    assert (found.kind, found.cause, found.status) == (kind, cause, status)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"status":"active"',
    ],
)
async def test_channel_answer_that_is_not_json_may_be_retried(raw, client_of, body):
    async with raw.server(raw.token, raw.http(200, body)) as server, client_of(server) as client:
        found = await client.look_up_channel("ch_1")
    assert (found.kind, found.cause, found.status) == (FailureKind.UNAVAILABLE, Cause.UNREADABLE_ANSWER, 200)
    assert found.detail


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{}", "status: absent"),
        (b'{"status":"active"}', "supportedProtocols: absent"),
        (b'{"status":1,"supportedProtocols":[]}', "status: 1"),
        (b'{"status":"","supportedProtocols":[]}', 'status: ""'),
        (b'{"status":"active","supportedProtocols":"web_chat"}', 'supportedProtocols: "web_chat"'),
    ],
)
async def test_channel_answer_of_another_shape_is_final(raw, client_of, body, detail):
    async with raw.server(raw.token, raw.http(200, body)) as server, client_of(server) as client:
        found = await client.look_up_channel("ch_1")
    assert (found.kind, found.cause, found.detail) == (FailureKind.FINAL, Cause.UNREADABLE_ANSWER, detail)


async def test_unreadable_protocols_are_skipped(raw, client_of):
    long = b'"%s\\u0000"' % (b"x" * 300)
    body = b'{"status":"active","supportedProtocols":[null,7,"",{"a":1},"a\\u0000",%s,"web_chat"]}' % long
    async with raw.server(raw.token, raw.http(200, body)) as server, client_of(server) as client:
        found = await client.look_up_channel("ch_1")
    assert (found.problem, found.protocols) == (None, ("web_chat",))


async def test_refused_connection_is_unsent(nobody, client_of, with_token):
    async with client_of(nobody) as client:
        with_token(client)
        found = await client.look_up_channel("ch_1")
    assert (found.kind, found.cause, found.status) == (FailureKind.UNSENT, Cause.CONNECTION_REFUSED, None)
    assert found.observation is Observation.FAILED


async def test_lookup_without_answer_may_be_retried(client_of, quick):
    async with Simulator(SimulatorConfig(slow_ms=60_000)) as simulator, client_of(simulator, quick) as client:
        found = await client.look_up_channel("ch_1")
    assert (found.kind, found.cause, found.detail) == (FailureKind.UNAVAILABLE, Cause.ANSWER_TIMEOUT, "250 ms")


async def test_lookup_without_a_token_raises(nobody, simulator, client_of):
    async with client_of(nobody) as client:
        with pytest.raises(ServiceUnreachable):
            await client.look_up_channel("ch_1")
    async with client_of(simulator, client_secret="wrong") as client:
        with pytest.raises(CredentialsRefused):
            await client.look_up_channel("ch_1")
    assert look_ups(simulator) == 0
