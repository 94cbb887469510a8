"""Commands stopped by SIGTERM or SIGINT at any moment."""

import asyncio
import os
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests.e2e import guests, raw_log
from tests.e2e.backlog import accept
from tests.e2e.command import LIMIT_S, ROOT, ended, environment, logged, started

HANGING = SimulatorConfig(hang_share=1.0, hang_s=120, honour_idempotency_key=True)
OWN_NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child")


@asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A database that takes connections and never says a word: its URL, and an event that is set once one has come."""
    come = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        come.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1")
    try:
        yield f"postgresql://ledger@127.0.0.1:{server.sockets[0].getsockname()[1]}/ledger", come
    finally:
        server.close()


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("worker", "guestledger.adapters.cli.main"),
        ("worker", "guestledger.adapters.cli.entry"),
        ("serve --port 0", "guestledger.adapters.cli.main"),
        ("events --follow", "guestledger.adapters.cli.main"),
    ],
)
async def test_service_stopped_during_its_start_exits_with_0(command: str, module: str):
    async with (
        asyncio.timeout(LIMIT_S),
        Simulator() as simulator,
        silent_server() as (database_url, come),
        started(
            *command.split(), env=environment(database_url, simulator), program=(sys.executable, "-m", module)
        ) as process,
    ):
        await come.wait()
        process.send_signal(signal.SIGTERM)
        result = await ended(process)
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [("sessions", signal.SIGINT, 130), ("withdraw --subject person-1", signal.SIGTERM, 143)],
)
async def test_stopped_command_prints_one_line_and_exits_as_shells_expect(
    command: str, number: signal.Signals, code: int
):
    async with (
        asyncio.timeout(LIMIT_S),
        Simulator() as simulator,
        silent_server() as (database_url, come),
        started(*command.split(), env=environment(database_url, simulator)) as process,
    ):
        await come.wait()
        process.send_signal(number)
        result = await ended(process)
    assert result.code == code
    assert result.err.splitlines() == ["guestledger: interrupted: run it again"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_stopped_open_finishes_work_in_flight_and_answers_every_line(
    number: signal.Signals, code: int, database_url: str, tmp_path: Path
):
    # Whatever was cut off would be in doubt, and this server would make a second session of it.
    async with (
        asyncio.timeout(LIMIT_S),
        Simulator(SimulatorConfig(slow_ms=1_000, honour_idempotency_key=False)) as simulator,
    ):
        file = guests.write_file(tmp_path, map(guests.guest, range(200)))
        async with started("open", file, "--concurrency", "20", env=environment(database_url, simulator)) as process:
            await attempted(database_url, 40, process)
            process.send_signal(number)
            result = await ended(process)

        assert result.code == code
        assert len(result.err.splitlines()) == 1, result.err
        [line] = result.err.splitlines()
        assert "guestledger worker" in line
        active = [answer for answer in result.out if answer.get("status") == "active"]
        left = [answer for answer in result.out if "not accepted" in answer.get("error", {}).get("reason", "")]
        assert len(active) + len(left) == len(result.out) == 200
        assert f"{len(left)} of the lines" in line
        counts = await raw_log.counts(database_url)
        assert counts["ConsentRecorded"] == counts["CreationAttempted"] == counts["SessionCreated"] == len(active)
        assert raw_log.remote_sessions(simulator) == await raw_log.known_sessions(database_url)


async def test_stopped_open_names_the_lines_that_it_cut_off(database_url: str, tmp_path: Path):
    async with asyncio.timeout(LIMIT_S), Simulator(HANGING) as simulator:
        file = guests.write_file(tmp_path, map(guests.guest, range(20)))
        env = environment(database_url, simulator, drain_seconds="0.2")
        async with started("open", file, "--concurrency", "5", env=env) as process:
            await attempted(database_url, 5, process)
            process.send_signal(signal.SIGTERM)
            result = await ended(process)

        assert result.code == 128 + signal.SIGTERM
        [line] = result.err.splitlines()
        assert "15 of the lines read are not accepted, 5 may be" in line
        assert [answer["error"]["reason"].split(":")[0] for answer in result.out] == [
            *["may have been accepted"] * 5,
            *["not accepted"] * 15,
        ]
        assert not await raw_log.query(database_url, "SELECT FROM due_steps WHERE lease_until > now()")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_stopped_open_does_not_wait_for_more_lines(number: signal.Signals, code: int, database_url: str):
    async with asyncio.timeout(LIMIT_S), Simulator() as simulator:
        env = environment(database_url, simulator)
        async with started("open", "-", env=env, stdin=PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(guests.as_lines([guests.guest(1)]))
            assert b'"active"' in await process.stdout.readline()
            process.send_signal(number)
            assert await process.wait() == code
            assert process.stderr is not None
            [line] = (await process.stderr.read()).splitlines()
        assert b"stopped after line 1: 0 of" in line


async def test_worker_stopped_before_it_is_idle_says_so(database_url: str):
    async with asyncio.timeout(LIMIT_S), Simulator(SimulatorConfig(throttle_share=1, retry_after_s=600)) as simulator:
        env = environment(database_url, simulator)
        await accept(database_url, map(guests.guest, range(5)))
        async with started("worker", "--until-idle", env=env) as process:
            while (await raw_log.counts(database_url))["CreationThrottled"] < 1:
                assert process.returncode is None
                await asyncio.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            result = await ended(process)
    assert result.code == 0
    closed, line = result.err.splitlines()
    assert "is closed for" in logged(closed)
    assert "stopped; " in line
    assert "CreationThrottled" in line


async def attempted(database_url: str, attempts: int, process: Process) -> None:
    """Return as soon as so many attempts are recorded."""
    while (await raw_log.counts(database_url))["CreationAttempted"] < attempts:
        assert process.returncode is None, "it ended too early to be stopped"
        await asyncio.sleep(0.02)


def can_have_a_namespace() -> bool:
    return sys.platform == "linux" and os.geteuid() == 0 and shutil.which("unshare") is not None


@pytest.mark.skipif(not can_have_a_namespace(), reason="it takes root on Linux to be the first process of a namespace")
async def test_second_signal_ends_a_worker_that_is_process_1(
    database_url: str,
):
    async with asyncio.timeout(LIMIT_S), Simulator(HANGING) as simulator:
        env = environment(database_url, simulator, drain_seconds="600")
        await accept(database_url, map(guests.guest, range(5)))
        async with first_process("worker", env=env) as (outside, worker):
            await attempted(database_url, 5, outside)
            while outside.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGTERM)
                await asyncio.sleep(0.05)
        assert outside.returncode == 128 + signal.SIGTERM


@asynccontextmanager
async def first_process(*arguments: str, env: dict[str, str]) -> AsyncIterator[tuple[Process, int]]:
    """A command that is process 1 where it runs: the process around it, and the number that it has out here."""
    command = (*OWN_NAMESPACE, sys.executable, "-m", "guestledger.adapters.cli.main", *arguments)
    around = await asyncio.create_subprocess_exec(*command, env=env, cwd=ROOT, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    children = Path(f"/proc/{around.pid}/task/{around.pid}/children")
    try:
        while not (found := children.read_text().split()):  # noqa: ASYNC240 - it is no disk
            if around.returncode is not None:
                pytest.skip("no namespace of its own can be had here")
            await asyncio.sleep(0.01)
        yield around, int(found[0])
    finally:
        if around.returncode is None:
            around.kill()
        await around.wait()
