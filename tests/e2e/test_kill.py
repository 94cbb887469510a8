import asyncio
import os
import signal
from asyncio.subprocess import Process
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import msgspec
import pytest

from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.wiring import connect
from tests import postgres
from tests.e2e import guests, raw_log
from tests.e2e.backlog import accept
from tests.e2e.command import LIMIT_S, ended, environment, killed, logged, run, started

HONEST = SimulatorConfig(slow_ms=20, honour_idempotency_key=True)
ROUGH = SimulatorConfig(
    slow_ms=20,
    quota=100,
    retry_after_s=1,
    hang_share=0.1,
    hang_s=2.0,
    drop_share=0.03,
    drop_before_share=0.02,
    server_error_share=0.03,
    error_after_processing=True,
    honour_idempotency_key=True,
)


class Moment(NamedTuple):
    """When the command is killed: as soon as CXone has made so many sessions."""

    sessions: int
    config: SimulatorConfig


MOMENTS = [Moment(1, HONEST), Moment(500, HONEST), Moment(250, ROUGH)]
REQUESTS = [guests.guest(number, idempotencyKey=f"guest-{number}") for number in range(1_000)]


@pytest.mark.slow
async def test_worker_finishes_what_a_killed_open_accepted(runtime_server: str, migrated_template: str, tmp_path: Path):
    file = guests.write_file(tmp_path, REQUESTS)

    async def at(moment: Moment) -> None:
        async with (
            postgres.new_database(runtime_server, migrated_template) as database_url,
            Simulator(moment.config) as simulator,
        ):
            env = environment(database_url, simulator)
            async with started("open", file, env=env) as process:
                await made(simulator, moment.sessions, process)
                await killed(process)
            assert await raw_log.open_ended(database_url), "it was killed too late to matter"

            worked = await run("worker", "--until-idle", env=env)

            assert worked.code == 0, worked.err
            await assert_nothing_lost(database_url, simulator)

    async with asyncio.TaskGroup() as tasks:  # leases lapse in ten seconds: all wait together
        for moment in MOMENTS:
            tasks.create_task(at(moment))


async def test_same_file_after_a_kill_opens_each_session_once(database_url: str, tmp_path: Path):
    file = guests.write_file(tmp_path, REQUESTS[:400])
    async with Simulator(HONEST) as simulator:
        env = environment(database_url, simulator)
        async with started("open", file, env=env) as process:
            await made(simulator, 150, process)
            await killed(process)
        await raw_log.lapse_leases(database_url)

        again = await run("open", file, env=env)

        assert again.code == 0, again.err
        assert len({answer["sessionId"] for answer in again.out}) == 400
        assert await raw_log.accepted(database_url) == {UUID(answer["id"]) for answer in again.out}
        await assert_nothing_lost(database_url, simulator)


async def test_interrupted_open_names_the_worker_which_continues(database_url: str, tmp_path: Path):
    file = guests.write_file(tmp_path, REQUESTS[:200])
    async with Simulator(SimulatorConfig(slow_ms=100)) as simulator:
        env = environment(database_url, simulator)
        async with started("open", file, env=env) as process:
            await made(simulator, 20, process)
            process.send_signal(signal.SIGINT)
            interrupted = await ended(process)
        assert interrupted.code == 130
        [line] = interrupted.err.splitlines()
        assert "guestledger worker" in line
        await raw_log.lapse_leases(database_url)

        worked = await run("worker", "--until-idle", env=env)

        assert worked.code == 0, worked.err
        await assert_nothing_lost(database_url, simulator)


async def test_another_worker_finishes_what_a_killed_one_claimed(database_url: str):
    async with Simulator(HONEST) as simulator:
        env = environment(database_url, simulator)
        await accept(database_url, REQUESTS[:300])
        async with started("worker", env=env) as process:
            await made(simulator, 100, process)
            await killed(process)
        assert await raw_log.open_ended(database_url), "it was killed too late to matter"
        await raw_log.lapse_leases(database_url)

        worked = await run("worker", "--until-idle", env=env)

        assert worked.code == 0, worked.err
        await assert_nothing_lost(database_url, simulator)


async def test_stopped_worker_finishes_work_in_flight_and_frees_the_rest(
    database_url: str,
):
    # Whatever was cut off would be sent again, and would show as a second session.
    async with Simulator(SimulatorConfig(slow_ms=100, honour_idempotency_key=False)) as simulator:
        env = environment(database_url, simulator)
        await accept(database_url, REQUESTS[:300])
        async with started("worker", env=env) as process:
            await made(simulator, 100, process)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 60) == 0
        assert await raw_log.open_ended(database_url), "it was stopped too late to matter"
        assert not await raw_log.query(database_url, "SELECT * FROM due_steps WHERE lease_until > now()")
        assert {key: len(sessions) for key, sessions in simulator.sessions_by_key.items() if len(sessions) > 1} == {}
        assert raw_log.remote_sessions(simulator) == await raw_log.known_sessions(database_url)

        worked = await run("worker", "--until-idle", env=env)

        assert worked.code == 0, worked.err
        assert len(raw_log.remote_sessions(simulator)) == 300
        await assert_nothing_lost(database_url, simulator)


async def test_worker_suspended_past_its_leases_records_late_answers(
    database_url: str,
):
    # This server makes a second session for whoever takes over, and only the suspended worker can tell of the first.
    quick = SimulatorConfig(honour_idempotency_key=False)
    async with Simulator(msgspec.structs.replace(quick, slow_ms=2_000)) as simulator:
        env = environment(database_url, simulator)
        await accept(database_url, REQUESTS[:30])
        async with started("worker", env=env) as process:
            await made(simulator, 20, process)
            await suspended(process, database_url)
            await raw_log.lapse_leases(database_url)
            simulator.config = quick  # the suspended worker's requests must not reach their timeout meanwhile
            async with connect(Settings.from_env(env), scheduler=False) as ledger:
                await ledger.scheduler.run_until_idle()
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
            result = await ended(process)

        assert result.code == 0, result.err
        # It may have stood still in a transaction, and been thrown out for that: it says so then, in a line.
        assert all(map(logged, result.err.splitlines())), result.err
        assert "Traceback" not in result.err
        assert (await raw_log.counts(database_url))["DuplicateCreated"] > 0
        # On a busy machine it may have stood still for longer than it waits for an answer: that attempt is in doubt.
        assert await raw_log.silent_sessions(database_url, raw_log.sessions_by_key(simulator)) == {}
        assert not await raw_log.open_ended(database_url)
        assert not await raw_log.sent_unrecorded(database_url, simulator)


async def test_stopped_worker_gives_back_what_it_cannot_finish_in_time(
    database_url: str,
):
    async with Simulator(SimulatorConfig(hang_share=1.0, hang_s=120, honour_idempotency_key=True)) as simulator:
        env = environment(database_url, simulator)
        accepted = await accept(database_url, REQUESTS[:20])
        async with started("worker", env=env | environment(drain_seconds="0.2")) as process:
            await attempted(database_url, 20, process)
            process.send_signal(signal.SIGTERM)
            result = await ended(process)
        assert result.code == 0
        [line] = result.err.splitlines()
        assert "cut off and released" in line
        free = "SELECT stream_id FROM due_steps WHERE owner IS NULL AND lease_until IS NULL AND due_at <= now()"
        assert {row[0] for row in await raw_log.query(database_url, free)} == set(accepted)
        simulator.config = HONEST

        worked = await run("worker", "--until-idle", env=env)

        assert worked.code == 0, worked.err
        assert (await raw_log.counts(database_url))["SessionCreated"] == 20
        await assert_nothing_lost(database_url, simulator)


async def test_second_signal_ends_a_draining_worker_at_once(database_url: str):
    async with Simulator(SimulatorConfig(hang_share=1.0, hang_s=120, honour_idempotency_key=True)) as simulator:
        env = environment(database_url, simulator)
        await accept(database_url, REQUESTS[:5])
        async with started("worker", env=env | environment(drain_seconds="600")) as process:
            await attempted(database_url, 5, process)
            async with asyncio.timeout(LIMIT_S):
                while process.returncode is None:
                    # Popen.send_signal would reap the process before asyncio does. It may have ended a moment ago.
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGTERM)
                    await asyncio.sleep(0.05)
        assert process.returncode == 128 + signal.SIGTERM
        await raw_log.lapse_leases(database_url)
        simulator.config = HONEST

        worked = await run("worker", "--until-idle", env=env)

        assert worked.code == 0, worked.err
        await assert_nothing_lost(database_url, simulator)


async def attempted(database_url: str, attempts: int, process: Process) -> None:
    """Return as soon as so many attempts are recorded."""
    async with asyncio.timeout(60):
        while (await raw_log.counts(database_url))["CreationAttempted"] < attempts:
            assert process.returncode is None, "it ended too early to be stopped"
            await asyncio.sleep(0.02)


async def suspended(process: Process, database_url: str) -> None:
    """Suspend a worker while it is in no transaction: else the others wait for its locks until its answers are too late."""
    busy = """SELECT FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'
                 AND pid <> pg_backend_pid()"""
    process.send_signal(signal.SIGSTOP)
    while await raw_log.query(database_url, busy):
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.005)
        process.send_signal(signal.SIGSTOP)


async def made(simulator: Simulator, sessions: int, process: Process) -> None:
    """Return as soon as CXone has made so many sessions."""
    async with asyncio.timeout(60):
        while len(simulator.sessions_by_key) < sessions:
            assert process.returncode is None, "it ended too early to be interrupted"
            await asyncio.sleep(0.001)


async def assert_nothing_lost(database_url: str, simulator: Simulator) -> None:
    assert not await raw_log.open_ended(database_url)
    assert raw_log.remote_sessions(simulator) == await raw_log.known_sessions(database_url)
    assert not await raw_log.sent_unrecorded(database_url, simulator)
