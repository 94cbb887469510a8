import asyncio
import base64
import re
import signal
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests.e2e import guests, raw_log
from tests.e2e.backlog import accept
from tests.e2e.command import LIMIT_S, ended, environment, run, started

REQUESTS = [guests.guest(number, idempotencyKey=f"guest-{number}") for number in range(60)]
CLIENT_SECRET = "client-secret-of-nobody"
WEBHOOK_KEY = base64.b64encode(b"webhook-secret-of-nobody").decode()
WEBHOOK_PASS = "pass-in-the-webhooks-url"
# Whatever begins so in an output is a token, CXone's own or a guest's.
TOKENS = re.compile(r"eyJ[\w-]{8,}|gt_[0-9a-f]{8,}")
ROUGH = SimulatorConfig(
    quota=20,
    retry_after_s=0,
    server_error_share=0.2,
    drop_share=0.2,
    drop_before_share=0.2,
    channels_without_web_chat=frozenset({"ch_sms"}),
)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return guests.write_file(tmp_path, REQUESTS)


async def test_no_failure_prints_secrets_or_personal_data(database_url: str, tmp_path: Path):
    requests = [*REQUESTS, guests.guest(60, consent=guests.NO_CONSENT), guests.guest(61, channelId="ch_sms")]
    requests.append(guests.guest(62, idempotencyKey="guest-0"))
    file = guests.write_file(tmp_path, requests)
    async with Simulator(ROUGH, client_secret=CLIENT_SECRET) as simulator:
        # The simulator knows no such path, so that every webhook fails.
        webhook = {"webhook_url": f"{simulator.url}/hooks/{WEBHOOK_PASS}", "webhook_secret": WEBHOOK_KEY}
        env = environment(database_url, simulator, **webhook)

        results = [await run("open", file, env=env)]
        assert results[0].code == 1
        simulator.config = replace(ROUGH, refuse_tokens=True)
        results.append(await run("open", "-", env=env, stdin=guests.as_lines([guests.guest(70, channelId="ch_other")])))
        simulator.config = ROUGH
        [left] = await accept(database_url, [guests.guest(71)])
        failed = "SELECT FROM events WHERE event_type = 'WebhookFailed' AND stream_id = $1"
        async with asyncio.timeout(LIMIT_S), started("worker", env=env) as process:
            while not await raw_log.query(database_url, failed, left):
                await asyncio.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            results.append(await ended(process))
    looks = [("sessions", "--json"), ("audit",), ("replay", str(left), "--json")]
    results += await asyncio.gather(*(run(*look, env=env) for look in looks))

    personal = guests.personal([*requests, guests.guest(70), guests.guest(71)])
    for result in results:
        for text in (result.text, result.err):
            assert "Traceback" not in text
            assert not personal.search(text)
            assert not TOKENS.search(text)
            for secret in (CLIENT_SECRET, WEBHOOK_KEY, WEBHOOK_PASS):
                assert secret not in text
    counts = await raw_log.counts(database_url)
    assert all(counts[name] for name in ("CreationThrottled", "CreationFailed", "ChannelRejected", "WebhookFailed"))


async def test_guest_tokens_are_printed_only_on_request(database_url: str, file: str):
    async with Simulator() as simulator:
        env = environment(database_url, simulator)

        told, untold = await run("open", file, "--tokens", env=env), await run("open", file, env=env)

        tokens = {key: msgspec.json.decode(made.answer)["token"] for key, [made] in simulator.sessions_by_key.items()}
        assert {answer["id"]: answer["token"] for answer in told.out} == tokens
        assert all("token" not in answer for answer in untold.out)
        assert not TOKENS.search(untold.text)
