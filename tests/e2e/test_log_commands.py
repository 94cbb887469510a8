"""`guestledger events` and `guestledger consumers`, as a person or a program runs them."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guestledger.adapters.clock import SystemClock
from guestledger.adapters.postgres.log.consumers import PostgresConsumers
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.pool import open_engine
from guestledger.engine.log.appends import Lease
from tests import logs
from tests.e2e.command import accept_interrupts
from tests.event_stores import open_store
from tests.pacing import proposed
from tests.unit import samples

PATIENCE = 60.0  # seconds until a test that hangs fails


async def start(url: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "guestledger.adapters.cli.main", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={"GUESTLEDGER_DATABASE_URL": url, "PATH": os.environ["PATH"], "COLUMNS": "80"},
        preexec_fn=accept_interrupts,
    )


async def run(url: str, *arguments: str) -> tuple[int | None, str, str]:
    process = await start(url, *arguments)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def printed(url: str, *arguments: str) -> list[dict[str, Any]]:
    code, out, err = await run(url, *arguments, "--json")
    assert (code, err) == (0, "")
    return [msgspec.json.decode(line) for line in out.splitlines()]


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresEventStore]:
    engine = open_engine(database_url, "guestledger")
    store = open_store(engine)
    yield store
    await store.close()
    await engine.dispose()


async def test_events_prints_the_log_in_order_within_80_columns(database_url: str) -> None:
    await logs.write(database_url, 50)
    code, out, err = await run(database_url, "events")
    assert (code, err) == (0, "")
    day, *lines = out.splitlines()
    assert day == "2024-05-20 (UTC)"
    assert [int(line.split()[0]) for line in lines] == list(range(50))
    assert max(map(len, lines)) <= 80


async def test_events_as_json_masks_personal_data(database_url: str) -> None:
    await logs.write(database_url, 500)
    _, out, _ = await run(database_url, "events", "--json")
    lines = [msgspec.json.decode(line) for line in out.splitlines()]
    assert [line["position"] for line in lines] == list(range(500))
    assert set(lines[0]) == {
        *("position", "id", "version", "recordedAt", "event", "data"),
        *("actor", "correlationId", "causationId", "leafHash"),
    }
    for secret in (samples.TOKEN, samples.FINGERPRINT, samples.USER_AGENT, "203.0.113."):
        assert secret not in out


async def test_events_are_filtered_by_position_type_and_time(database_url: str) -> None:
    await logs.write(database_url, 300)
    every = await printed(database_url, "events")
    since, until = every[50]["recordedAt"], every[250]["recordedAt"]
    narrowed = ("--after", "99", "--type", "SessionCreated", "--since", since, "--until", until)
    wanted = [line for line in every[100:250] if line["event"] == "SessionCreated"]
    assert await printed(database_url, "events", *narrowed) == wanted


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--type", "SessionCreatd"], "is not an event type"),
        (["--follow", "--until", "2024-05-20"], "does not go with --follow"),
    ],
)
async def test_events_rejects_senseless_filters(database_url: str, arguments: list[str], told: str) -> None:
    code, out, err = await run(database_url, "events", *arguments)
    assert (code, out) == (2, "")
    assert told in err


async def test_events_names_the_position_of_an_unreadable_event(database_url: str, store: PostgresEventStore) -> None:
    await store.append(proposed(events=3))
    connection = await logs.connect(database_url)
    await connection.execute(
        "INSERT INTO guestledger.events SELECT stream_id, 4, 3, 'SessionTeleported', schema_version, recorded_at,"
        " correlation_id, causation_id, actor, data, leaf_hash FROM guestledger.events WHERE version = 1"
    )
    await connection.execute(logs.END)
    await connection.close()
    code, out, err = await run(database_url, "events", "--json")
    assert (code, len(out.splitlines())) == (2, 3)
    assert err.startswith("guestledger: position 3, stream ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_events_follows_the_log_until_a_signal(
    database_url: str, store: PostgresEventStore, number: signal.Signals
) -> None:
    await store.append(proposed(events=3))
    process = await start(database_url, "events", "--follow", "--json", "--after", "1")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        assert msgspec.json.decode(await process.stdout.readline())["position"] == 2
        for position in (3, 4, 5):
            await store.append(proposed())
            assert msgspec.json.decode(await process.stdout.readline())["position"] == position
        process.send_signal(number)
        out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")


async def test_consumers_are_listed_with_their_position_and_lag(database_url: str, store: PostgresEventStore) -> None:
    await logs.write(database_url, 50)
    clock = SystemClock()
    engine = open_engine(database_url, "guestledger")
    checkpoints = PostgresConsumers(engine, "guestledger")
    await checkpoints.claim("warehouse", lease := Lease(owner=clock.new_id(), ms=600_000), -1)
    await checkpoints.move("warehouse", lease.owner, -1, 39)
    await checkpoints.claim("queue", lease, -1)
    await checkpoints.release("queue", lease.owner)
    await engine.dispose()
    assert await printed(database_url, "consumers") == [
        {"name": "queue", "position": -1, "lag": 50, "running": False, "ahead_at": None},
        {"name": "warehouse", "position": 39, "lag": 10, "running": True, "ahead_at": None},
    ]
    _, out, _ = await run(database_url, "consumers")
    assert [line.split() for line in out.splitlines()] == [
        ["consumer", "position", "lag", "running", "ahead", "at"],
        ["queue", "-1", "50", "no"],
        ["warehouse", "39", "10", "yes"],
    ]
    assert [one["name"] for one in await printed(database_url, "consumers", "--forget", "queue")] == ["warehouse"]
    code, _, err = await run(database_url, "consumers", "--forget", "queue")
    assert (code, err) == (2, "guestledger: there is no consumer 'queue': `guestledger consumers` lists them\n")
