"""Looking a channel up (contract, "Channel")."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from guestledger.adapters.cxone import client as client_module
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.errors import CredentialsRefused, ServiceUnreachable
from guestledger.engine.domain.events import FailureKind
from guestledger.engine.domain.outcomes import Channel, Failed, Throttled

NOW = datetime(2024, 5, 20, 14, 22, tzinfo=UTC)


def look_ups(simulator: Simulator) -> int:
    return sum(count for name, count in simulator.counts.items() if name.startswith("channel "))


async def test_a_channel_is_told_as_cxone_describes_it(simulator, client_of):
    async with client_of(simulator, now=lambda: NOW) as client:
        found = await client.look_up_channel("ch_8f3a9b2c")
    expected = Channel(id="ch_8f3a9b2c", status="active", protocols=("web_chat", "sms"), looked_up_at=NOW, cached=False)
    assert found == expected


async def test_the_request_is_the_contracts(raw, client_of):
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
async def test_the_id_goes_into_the_path_percent_encoded(simulator, client_of, channel_id, path):
    async with client_of(simulator) as client:
        found = await client.look_up_channel(channel_id)
    assert isinstance(found, Channel)
    assert simulator.requests[-1].path == f"/api/v2/channels/{path}"


@pytest.mark.parametrize("channel_id", [".", ".."])
async def test_an_id_that_would_climb_to_another_path_is_never_sent(simulator, client_of, channel_id):
    async with client_of(simulator) as client:
        found = await client.look_up_channel(channel_id)
    assert isinstance(found, Failed)
    assert found.kind is FailureKind.REJECTED
    assert not simulator.requests


async def test_a_usable_channel_is_remembered_and_says_so(simulator, client_of):
    async with client_of(simulator, now=lambda: NOW) as client:
        assert client.known_channel("ch_1") is None
        found = await client.look_up_channel("ch_1")
        assert client.known_channel("ch_1") == replace(found, cached=True)
        assert client.known_channel("ch_2") is None


async def test_a_channel_is_forgotten_after_its_time(simulator, client_of, monkeypatch):
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
    ("config", "status", "protocols"),
    [
        (SimulatorConfig(inactive_channels=frozenset({"ch_1"})), "inactive", ("web_chat", "sms")),
        (SimulatorConfig(channels_without_web_chat=frozenset({"ch_1"})), "active", ("sms",)),
    ],
)
async def test_a_channel_that_is_not_usable_is_told_but_not_remembered(client_of, config, status, protocols):
    async with Simulator(config) as simulator, client_of(simulator) as client:
        found = await client.look_up_channel("ch_1")
        assert isinstance(found, Channel)
        assert (found.status, found.protocols) == (status, protocols)
        assert client.known_channel("ch_1") is None


async def test_sixty_four_look_ups_of_one_channel_at_once_are_one_request(simulator, client_of):
    async with client_of(simulator) as client:
        found = await asyncio.gather(*(client.look_up_channel("ch_1") for _ in range(64)))
        other = await client.look_up_channel("ch_2")
    assert {channel.id for channel in found} == {"ch_1"}
    assert other.id == "ch_2"
    assert simulator.counts["channel 200"] == 2


async def test_a_look_up_that_is_given_up_goes_on_for_the_others(simulator, client_of):
    async with client_of(simulator) as client:
        impatient = asyncio.create_task(client.look_up_channel("ch_1"))
        patient = asyncio.create_task(client.look_up_channel("ch_1"))
        await asyncio.sleep(0)
        impatient.cancel()
        assert isinstance(await patient, Channel)
    assert simulator.counts["channel 200"] == 1


async def test_an_unknown_channel_is_a_404(simulator, client_of):
    async with client_of(simulator) as client:
        found = await client.look_up_channel("ch_unknown_1")
    assert isinstance(found, Failed)
    assert (found.kind, found.status) == (FailureKind.REJECTED, 404)
    assert client.known_channel("ch_unknown_1") is None


async def test_a_revoked_token_is_replaced_and_the_look_up_replayed(simulator, client_of):
    async with client_of(simulator) as client:
        await client.ready()
        simulator.revoke_tokens()
        assert isinstance(await client.look_up_channel("ch_1"), Channel)
    assert simulator.counts == {"token 200": 2, "channel 401": 1, "channel 200": 1}


async def test_a_second_401_is_final(client_of):
    async with Simulator(SimulatorConfig(refuse_tokens=True)) as simulator, client_of(simulator) as client:
        found = await client.look_up_channel("ch_1")
    assert (found.kind, found.status) == (FailureKind.UNAUTHORIZED, 401)
    assert simulator.counts == {"token 200": 2, "channel 401": 2}


async def test_a_403_names_the_scope_to_check(client_of):
    async with (
        Simulator(SimulatorConfig(missing_scopes=frozenset({"channels:read"}))) as simulator,
        client_of(simulator) as client,
    ):
        found = await client.look_up_channel("ch_1")
    assert (found.kind, found.status) == (FailureKind.FORBIDDEN, 403)
    assert "channels:read" in found.message
    assert "chat:write" not in found.message


async def test_a_429_tells_how_long_to_wait(client_of):
    async with (
        Simulator(SimulatorConfig(channel_throttle_times=1, retry_after_s=7)) as simulator,
        client_of(simulator) as client,
    ):
        throttled = await client.look_up_channel("ch_1")
        found = await client.look_up_channel("ch_1")
    assert isinstance(throttled, Throttled)
    assert (throttled.status, throttled.retry_after.ms) == (429, 7_000)
    assert isinstance(found, Channel)


async def test_a_look_up_that_fails_tells_how_long_to_wait_too(raw, client_of):
    async with raw.server(raw.token, raw.http(503, b"", "Retry-After: 60")) as server, client_of(server) as client:
        failed = await client.look_up_channel("ch_1")
    assert (failed.kind, failed.retry_after.ms) == (FailureKind.UNAVAILABLE, 60_000)


async def test_a_server_fault_may_be_tried_again(client_of):
    async with Simulator(SimulatorConfig(channel_errors=1)) as simulator, client_of(simulator) as client:
        failed = await client.look_up_channel("ch_1")
        found = await client.look_up_channel("ch_1")
    assert (failed.kind, failed.status) == (FailureKind.UNAVAILABLE, 500)
    assert "the channel service is down" in failed.message
    assert isinstance(found, Channel)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, FailureKind.REJECTED),
        (408, FailureKind.UNAVAILABLE),
        (418, FailureKind.REJECTED),
        (425, FailureKind.UNAVAILABLE),
        (502, FailureKind.UNAVAILABLE),
        (301, FailureKind.REJECTED),
    ],
)
async def test_every_other_status_says_whether_to_try_again(raw, client_of, status, kind):
    async with raw.server(raw.token, raw.http(status, b"", "Location: /x")) as server, client_of(server) as client:
        found = await client.look_up_channel("ch_1")
    assert (found.kind, found.status) == (kind, status)
    assert f"HTTP {status}" in found.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"status":"active"}',
        b'{"status":1,"supportedProtocols":[]}',
        b'{"status":"","supportedProtocols":[]}',
    ],
)
async def test_a_channel_that_cannot_be_read_may_be_asked_for_again(raw, client_of, body):
    async with raw.server(raw.token, raw.http(200, body)) as server, client_of(server) as client:
        found = await client.look_up_channel("ch_1")
    assert (found.kind, found.status) == (FailureKind.UNAVAILABLE, 200)
    assert "cannot be read" in found.message


async def test_a_refused_connection_is_unsent(nobody, client_of, with_token):
    async with client_of(nobody) as client:
        with_token(client)
        found = await client.look_up_channel("ch_1")
    assert (found.kind, found.status) == (FailureKind.UNSENT, None)
    assert "GUESTLEDGER_CXONE_URL" in found.message


async def test_a_look_up_without_answer_may_be_tried_again(client_of, quick):
    async with Simulator(SimulatorConfig(slow_ms=60_000)) as simulator, client_of(simulator, quick) as client:
        found = await client.look_up_channel("ch_1")
    assert (found.kind, found.status) == (FailureKind.UNAVAILABLE, None)
    assert "250 ms" in found.message


async def test_without_a_token_the_look_up_raises(nobody, simulator, client_of):
    async with client_of(nobody) as client:
        with pytest.raises(ServiceUnreachable):
            await client.look_up_channel("ch_1")
    async with client_of(simulator, client_secret="wrong") as client:
        with pytest.raises(CredentialsRefused):
            await client.look_up_channel("ch_1")
    assert look_ups(simulator) == 0
