"""What a monitoring system gets from a worker, and that nothing personal is in it."""

import asyncio
import json
import logging
import re
import shutil
import signal
import socket
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.telemetry.endpoints import metrics, readyz
from guestledger.adapters.telemetry.log_context import JsonLines, LogContext
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.limits.retry import RetryPolicy
from tests.docs.test_monitoring import RULES, expressions, queried
from tests.e2e import canaries, guests
from tests.e2e.backlog import accept
from tests.e2e.command import LIMIT_S, ended, environment, run, started
from tests.keys import KEY
from tests.limits import BRISK
from tests.ports import free_port
from tests.tracing import traced

ROUGH = SimulatorConfig(throttle_share=0.3, retry_after_s=0, server_error_share=0.3, drop_share=0.3, token_errors=1)
AT_ONCE = Policy(creation=RetryPolicy(base_ms=0), webhook=DeliveryPolicy(waits_ms=(0, 0)), limiter=BRISK)
SECRETS = ("T0PS3CRET", "client-secret-of-nobody")


@asynccontextmanager
async def observed_worker(env: dict[str, str]) -> AsyncIterator[tuple[Process, str]]:
    """A worker, and where it serves its metrics."""
    async with asyncio.timeout(LIMIT_S), started("worker", "--metrics-port", "0", env=env) as process:
        assert process.stderr
        found = None
        while not found:
            line = (await process.stderr.readline()).decode()
            assert line, "the worker has ended"
            found = re.search(r"metrics on (http://127\.0\.0\.1:\d+)/metrics", line)
        yield process, found[1]
        process.send_signal(signal.SIGTERM)
        assert (await ended(process)).code == 0


async def got(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return response.status, await response.text()


async def until(url: str, wanted: str) -> str:
    while wanted not in (text := (await got(url))[1]):
        await asyncio.sleep(0.1)
    return text


async def test_worker_serves_metrics_health_and_readiness(database_url: str):
    async with Simulator() as simulator:
        await accept(database_url, [guests.guest(1)])
        async with observed_worker(environment(database_url, simulator)) as (_, url):
            text = await until(f"{url}/metrics", 'guestledger_attempts_total{outcome="created"} 1.0')
            assert "guestledger_up 1.0" in text
            assert (await got(f"{url}/healthz")) == (200, "ok\n")
            status, body = await got(f"{url}/readyz")
            assert (status, json.loads(body)["ready"]) == (200, True)


async def test_address_that_is_taken_is_named(database_url: str):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        async with Simulator() as simulator:
            result = await run("worker", "--metrics-port", port, env=environment(database_url, simulator))

    assert result.code == 2
    assert f"the metrics cannot be served on 127.0.0.1, port {port}: " in result.err


async def test_metrics_host_without_a_port_is_refused():
    result = await run("worker", "--metrics-host", "0.0.0.0", env=environment())
    assert (result.code, "goes only with --metrics-port" in result.err) == (2, True)


@pytest.mark.parametrize("by_variable", [False, True])
async def test_every_line_on_stderr_is_json_where_that_is_wanted(database_url: str, by_variable: bool):
    more = {"log_format": "json"} if by_variable else {}
    option = () if by_variable else ("--log-format", "json")
    async with Simulator(SimulatorConfig(throttle_share=1.0, retry_after_s=1)) as simulator:
        await accept(database_url, [guests.guest(1)])
        result = await run(*option, "worker", "--until-idle", env=environment(database_url, simulator, **more))

    lines = [json.loads(line) for line in result.err.splitlines()]
    assert [line["level"] for line in lines] == ["WARNING", "INFO"]
    assert lines[0]["message"].startswith("limiter ")
    assert lines[0]["logger"] == "guestledger.waiting"
    assert lines[1]["message"].startswith("idle; ")


async def test_an_unknown_log_format_is_refused():
    result = await run("--log-format", "xml", "sessions", env=environment())
    assert (result.code, "'xml' is not one of text, json" in result.err) == (2, True)


async def test_nothing_personal_is_in_metrics_traces_and_log_lines(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    host = traced(monkeypatch)
    requests = [canaries.guest(number, consents=number > 2) for number in range(40)]
    async with Simulator(ROUGH, client_secret=SECRETS[1]) as simulator:
        settings = Settings(
            database_url=database_url,
            encryption_key=KEY,
            cxone_url=simulator.url,
            cxone_client_id=simulator.client_id,
            cxone_client_secret=simulator.client_secret,
            webhook_url=f"{simulator.url}/hooks/{SECRETS[0]}?key={SECRETS[0]}",  # no such path: every call fails
            webhook_allow_private=True,
        )
        async with connect(settings, scheduler=False, policy=AT_ONCE) as ledger:
            sessions = [await ledger.open_session(one) for one in requests]
            await ledger.scheduler.run_until_idle()
            texts = [(await metrics(ledger)).body.decode(), (await readyz(ledger)).body.decode()]
            tokens = [(await ledger.session(one.id, token=True)).guest_token or "" for one in sessions]
    texts += [span.to_json() for span in host.spans()]
    texts += [_as_json(record) for record in caplog.records]

    wanted = [*canaries.values(requests, filter(None, tokens)), KEY.encode(), *map(str.encode, SECRETS)]
    assert len([token for token in tokens if token]) > 10
    assert {span.name for span in host.spans()} >= {"open_session", "create_session", "deliver_webhook", "POST"}
    found = "\n".join(texts).encode()
    assert [value for value in wanted if value in found] == []


def _as_json(record: logging.LogRecord) -> str:
    LogContext().filter(record)
    return JsonLines().format(record)


async def test_a_line_logged_during_a_step_names_session_step_and_trace(
    database_url: str, monkeypatch: pytest.MonkeyPatch
):
    host, lines = traced(monkeypatch), []
    handler = logging.Handler()
    handler.addFilter(LogContext())
    handler.emit = lambda record: lines.append(json.loads(JsonLines().format(record)))  # type: ignore[method-assign]
    logger = logging.getLogger("guestledger")
    async with Simulator() as simulator:
        settings = Settings.from_env(environment(database_url, simulator) | {"PATH": ""})
        async with connect(settings, scheduler=False) as ledger:
            create = ledger._adapters.provider.create

            async def noted(*given: Any) -> Any:
                logger.warning("noted")
                return await create(*given)

            monkeypatch.setattr(ledger._adapters.provider, "create", noted)
            logger.addHandler(handler)
            session = await ledger.open_session(canaries.guest(1))
            logger.removeHandler(handler)

    [line] = lines
    assert (line["session_id"], line["step"]) == (str(session.id), "create_session")
    context = host.span("create_session").context
    assert context is not None
    assert (line["trace_id"], line["span_id"]) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
async def test_prometheus_reads_a_worker_and_evaluates_rules_and_dashboard(database_url: str, tmp_path: Path):
    async with Simulator() as simulator:
        await accept(database_url, [guests.guest(number) for number in range(5)])
        async with observed_worker(environment(database_url, simulator)) as (_, url):
            text = await until(f"{url}/metrics", 'guestledger_attempts_total{outcome="created"} 5.0')
            assert await _promtool_accepts(text)
            async with _prometheus(url.removeprefix("http://"), tmp_path) as api:
                await until(f"{api}/query?query=guestledger_up", '"value":[')
                rules = json.loads(await until(f"{api}/rules", '"lastEvaluation":"2'))["data"]["groups"][0]["rules"]
                assert [rule["lastError"] for rule in rules if rule.get("lastError")] == []
                for expression in expressions():
                    filled = expression.replace("$__rate_interval", "1m")
                    async with aiohttp.ClientSession() as http:
                        answer = await (await http.get(f"{api}/query", params={"query": filled})).json()
                    assert answer["status"] == "success", (filled, answer)
                series = json.loads((await got(f"{api}/label/__name__/values"))[1])["data"]
    wanted = set().union(*map(queried, expressions()))
    # These have a sample only while a limiter restricts something, or a consumer exists; a worker opens no session itself.
    absent = {name for name in wanted if re.match(r"guestledger_(limiter|consumer|open_seconds)_", name)}
    absent |= {name for name in wanted if name.startswith("guestledger_open_seconds")}
    assert wanted - absent <= set(series)


async def _promtool_accepts(text: str) -> bool:
    process = await asyncio.create_subprocess_exec("promtool", "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    out, err = await process.communicate(text.encode())
    assert process.returncode == 0, (out + err).decode()
    return True


@asynccontextmanager
async def _prometheus(target: str, directory: Path) -> AsyncIterator[str]:
    """The API of a Prometheus that reads this worker."""
    config = directory / "prometheus.yml"
    config.write_text(
        json.dumps(  # which is YAML too
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(RULES)],
                "scrape_configs": [{"job_name": "guestledger", "static_configs": [{"targets": [target]}]}],
            }
        )
    )
    address = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"),
        f"--web.listen-address={address}",
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        while True:
            try:
                if (await got(f"http://{address}/-/ready"))[0] == 200:
                    break
            except aiohttp.ClientConnectorError:
                pass
            await asyncio.sleep(0.1)
        yield f"http://{address}/api/v1"
    finally:
        process.terminate()
        await process.wait()
