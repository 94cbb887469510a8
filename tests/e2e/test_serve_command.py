"""`guestledger serve` and `guestledger keys access`, as processes."""

import asyncio
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from guestledger.adapters.simulator import Simulator
from tests.api import GUEST
from tests.e2e import guests
from tests.e2e.command import assert_one_line, ended, environment, run, started


@pytest.fixture
async def env(database_url: str) -> AsyncIterator[dict[str, str]]:
    async with Simulator() as simulator:
        yield environment(database_url, simulator)


@asynccontextmanager
async def serving(*options: str, env: dict[str, str]) -> AsyncIterator[tuple[Process, str]]:
    """The process and its URL."""
    async with started("serve", "--port", "0", *options, env=env) as process:
        assert process.stderr
        async with asyncio.timeout(60):
            line = (await process.stderr.readline()).decode()
        assert line.startswith("guestledger: serving on http://127.0.0.1:"), line
        yield process, line.rpartition(" ")[2].strip()


async def _get(url: str, key: str) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None)


async def test_a_key_is_made_used_listed_and_revoked(env: dict[str, str]) -> None:
    [made] = (await run("keys", "access", "create", "auditor", "--name", "jane", "--json", env=env)).out
    shown = await run("keys", "access", "create", "operator", "--name", "shop", env=env)
    assert shown.text.startswith("glk_")
    assert "'shop', with the role operator: it is shown only now" in shown.err
    listed = await run("keys", "access", "list", "--json", env=env)
    assert [(key["name"], key["role"], key["revokedAt"]) for key in listed.out] == [
        ("jane", "auditor", None),
        ("shop", "operator", None),
    ]
    assert made["key"].split("_", 2)[2] not in listed.text
    assert "digest" not in listed.text

    async with serving("--no-worker", env=env) as (process, url):
        assert (await _get(f"{url}/v1/sessions", made["key"]))[0] == 200
        revoked = await run("keys", "access", "revoke", made["id"], env=env)
        assert revoked.code == 0
        async with asyncio.timeout(60):
            while (await _get(f"{url}/v1/sessions", made["key"]))[0] == 200:
                await asyncio.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert (await ended(process)).code == 0
    assert_one_line(await run("keys", "access", "revoke", made["id"], env=env), "no key in use", "keys access list")


async def test_serve_opens_sessions_and_its_worker_sends_their_notices(env: dict[str, str]) -> None:
    async with serving("--no-keys", env=env) as (process, url):
        async with aiohttp.ClientSession() as http:
            async with http.post(f"{url}/v1/sessions", json=GUEST) as answer:
                assert answer.status == 201
                session = (await answer.json())["id"]
            async with asyncio.timeout(60):
                while True:
                    async with http.get(f"{url}/v1/audit?webhook=delivered") as answer:
                        if [row["id"] for row in (await answer.json())["items"]] == [session]:
                            break
                    await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        result = await ended(process)
    assert result.code == 0
    assert "POST /v1/sessions 201" in result.err
    assert GUEST["ipAddress"] not in result.err
    assert "Traceback" not in result.err


async def test_a_request_in_flight_is_answered_before_serve_ends(database_url: str) -> None:
    from guestledger.adapters.simulator import SimulatorConfig  # noqa: PLC0415

    async with Simulator(SimulatorConfig(slow_ms=1_000)) as simulator:
        env = environment(database_url, simulator)
        async with serving("--no-keys", env=env) as (process, url), aiohttp.ClientSession() as http:
            opening = asyncio.create_task(http.post(f"{url}/v1/sessions", json=GUEST))
            async with asyncio.timeout(60):
                while not simulator.requests:
                    await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            answer = await opening
            assert answer.status in (201, 202)
            assert (await ended(process)).code == 0


async def test_downloads_equal_what_the_command_prints(env: dict[str, str]) -> None:
    lines = guests.as_lines([guests.guest(number, channelId=f"ch_\u202e{number}") for number in range(3)])
    lines += guests.as_lines([guests.guest(3, consent={**guests.NO_CONSENT, "notice": "=1+1"})])
    await run("open", "-", env=env, stdin=lines)
    async with serving("--no-keys", "--no-worker", env=env) as (_, url), aiohttp.ClientSession() as http:
        for option, media in (("--json", "application/x-ndjson"), ("--csv", "text/csv")):
            async with http.get(f"{url}/v1/audit", headers={"Accept": media}) as answer:
                assert (await answer.read()).decode() == (await run("audit", option, env=env)).text


async def test_a_malformed_request_leaves_nothing_in_the_log(env: dict[str, str]) -> None:
    async with serving("--no-keys", "--no-worker", env=env) as (process, url):
        host, _, port = url.removeprefix("http://").partition(":")
        for request in (
            b"GET /v1/sessions?ip=203.0.113.7\x00 HTTP/1.1\r\n\r\n",
            b"GET /203.0.113.7 HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nbad header 203.0.113.7\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nLong: " + b"203.0.113.7" * 10_000 + b"\r\n\r\n",
            b"203.0.113.7" * 100,
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request)
            writer.write_eof()
            async with asyncio.timeout(30):
                answer = await reader.read()
            writer.close()
            assert b" 500 " not in answer[:30]
            assert b"203.0.113.7" not in answer, answer
        process.send_signal(signal.SIGTERM)
        result = await ended(process)
    assert "203.0.113.7" not in result.err
    assert "Traceback" not in result.err


async def test_wrong_use_is_refused_at_the_door(env: dict[str, str]) -> None:
    assert_one_line(await run("serve", "--no-keys", "--host", "0.0.0.0", env=env), "--no-keys", "loopback")
    for host in ("192.0.2.1", "a..b"):
        assert_one_line(await run("serve", "--host", host, env=env), f"cannot listen on {host}")
    assert_one_line(await run("keys", "access", "create", "king", "--name", "x", env=env), "operator, auditor, privacy")
    assert_one_line(await run("keys", "access", "create", "auditor", "--name", "a\nb", env=env), "name")
    assert_one_line(await run("keys", "access", "revoke", "nonsense", env=env), "not the id of a key")
