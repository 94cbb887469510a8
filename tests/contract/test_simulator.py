"""The simulator alone: its validation, its faults and its records."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from msgspec.structs import replace

from guestledger.adapters.simulator import Simulator, SimulatorConfig

SESSIONS = "/api/v1/chat/sessions"
BODY = {
    "channelId": "ch_1",
    "guest": {
        "metadata": {"source": "web", "campaign": "organic", "deviceType": "desktop"},
        "consent": {
            "marketing": False,
            "dataProcessing": True,
            "gdprCompliant": True,
            "consentTimestamp": "2024-05-20T14:22:00Z",
        },
    },
    "attributes": {"visitorFingerprint": "0a" * 32, "initializationLatency": 0, "retryCount": 0},
}


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        yield session


@pytest.fixture
def post(http):
    """Create a session with a fresh token. Return the status and the answer."""

    async def send(simulator, key="key", body=BODY, token=None):
        token = token or await token_of(http, simulator)
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
        async with http.post(simulator.url + SESSIONS, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    return send


async def token_of(http, simulator):
    form = {
        "grant_type": "client_credentials",
        "client_id": simulator.client_id,
        "client_secret": simulator.client_secret,
    }
    async with http.post(f"{simulator.url}/oauth/token", data=form) as answer:
        assert answer.status == 200
        return (await answer.json())["access_token"]


def changed(path, value):
    """The body with one field set to `value`; removed if that is `...`."""
    body = json.loads(json.dumps(BODY))
    *parents, last = path.split(".")
    target = body
    for parent in parents:
        target = target[parent]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return body


async def test_valid_creation_is_answered_as_in_the_contract(simulator, post):
    status, answer = await post(simulator)
    assert status == 201
    assert list(answer) == ["sessionId", "token", "expiresAt", "channelId", "status"]
    assert answer["status"] == "active"
    assert len(answer["expiresAt"]) == len("2024-05-20T15:22:00Z")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("guest.consent.dataProcessing", False),
        ("guest.consent.dataProcessing", "true"),
        ("guest.consent.dataProcessing", 1),
        ("guest.consent.gdprCompliant", ...),
        ("guest.consent.marketing", None),
        ("guest.consent.consentTimestamp", "2024-05-20T14:22:00.5Z"),
        ("guest.consent.consentTimestamp", "2024-05-20T16:22:00+02:00"),
        ("guest.metadata.deviceType", ...),
        ("guest.metadata.extra", "x"),
        ("attributes.visitorFingerprint", "0A" * 32),
        ("attributes.visitorFingerprint", "0a" * 31),
        ("attributes.initializationLatency", 12),
        ("attributes.retryCount", -1),
        ("attributes.retryCount", 1.5),
        ("channelId", ""),
        ("extra", True),
    ],
)
async def test_invalid_creation_is_a_400_with_a_message(simulator, post, path, value):
    status, answer = await post(simulator, body=changed(path, value))
    assert status == 400
    assert answer["message"]
    assert not simulator.sessions_by_key


async def test_expired_or_revoked_token_is_refused(post, http):
    async with Simulator(SimulatorConfig(token_lifetime_s=0)) as simulator:
        assert (await post(simulator))[0] == 401
        simulator.config = SimulatorConfig()
        token = await token_of(http, simulator)
        assert (await post(simulator, token=token))[0] == 201
        simulator.revoke_tokens()
        assert (await post(simulator, token=token))[0] == 401


async def test_seed_alone_selects_the_throttled_keys(post, http):
    async def throttled_keys(order):
        async with Simulator(SimulatorConfig(throttle_share=0.3, retry_after="date")) as simulator:
            token = await token_of(http, simulator)
            await asyncio.gather(*(post(simulator, key, token=token) for key in order))
            return {sent.key for sent in simulator.requests if sent.status == 429}

    keys = [f"key-{n}" for n in range(300)]
    met = await throttled_keys(keys)
    assert 60 <= len(met) <= 120
    assert await throttled_keys(reversed(keys)) == met


async def test_throttled_key_succeeds_after_its_times(post):
    async with Simulator(SimulatorConfig(throttle_share=1, throttle_times=2)) as simulator:
        statuses = [(await post(simulator))[0] for _ in range(3)]
    assert statuses == [429, 429, 201]
    assert len(simulator.sessions_by_key["key"]) == 1


async def test_fault_after_processing_leaves_a_session(post):
    async with Simulator(SimulatorConfig(server_error_share=1, error_after_processing=True)) as simulator:
        assert (await post(simulator))[0] == 500
        (made,) = simulator.sessions_by_key["key"]
        status, answer = await post(simulator)
    assert (status, answer["sessionId"]) == (200, made.session_id)


async def test_fault_before_processing_leaves_no_session(post):
    async with Simulator(SimulatorConfig(server_error_share=1)) as simulator:
        assert (await post(simulator))[0] == 500
        assert not simulator.sessions_by_key


async def test_a_clock_that_is_behind_dates_the_expiry(post):
    async with Simulator(SimulatorConfig(clock_offset_s=-3_300)) as simulator:
        _, answer = await post(simulator)
    left = datetime.fromisoformat(answer["expiresAt"]) - datetime.now(UTC)
    assert timedelta(minutes=4) < left < timedelta(minutes=5)


async def test_kept_requests_are_limited(post):
    async with Simulator(keep_requests=3) as simulator:
        for n in range(5):
            await post(simulator, f"key-{n}")
    assert len(simulator.requests) == 3
    assert simulator.counts == {"token 200": 5, "session 201": 5}
    assert len(simulator.sessions_by_key) == 5


@pytest.mark.parametrize("change", [{"throttle_share": 1.1}, {"drop_share": -0.1}, {"slow_ms": -1}, {"hang_s": -1}])
def test_config_field_out_of_range_is_refused_by_name(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        SimulatorConfig(**change)
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SimulatorConfig(), **change)


async def test_simulator_process_is_controlled_over_http(http, post):
    command = [sys.executable, "-m", "guestledger.adapters.simulator", "--config", '{"throttle_share": 1}']
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    try:
        ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        assert set(ready) == {"url", "webhookUrl", "clientId", "clientSecret"}
        remote = type(
            "Remote", (), {"url": ready["url"], "client_id": ready["clientId"], "client_secret": ready["clientSecret"]}
        )
        control = f"{ready['url']}/_simulator"
        assert (await post(remote))[0] == 429
        assert (await http.put(f"{control}/config", data=b'{"throttle_share": 7}')).status == 400
        assert (await http.put(f"{control}/config", data=b"{}")).status == 204
        token = await token_of(http, remote)
        status, answer = await post(remote, token=token)
        assert status == 201
        assert (await http.post(f"{control}/revoke")).status == 204
        assert (await post(remote, token=token))[0] == 401
        state = await (await http.get(f"{control}/state")).json()
        assert state["sessions"] == 1
        assert state["sessionsByKey"] == {"key": [answer["sessionId"]]}
        assert state["counts"]["session 429"] == 1
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
