import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests.e2e import guests, raw_log
from tests.e2e.backlog import accept
from tests.e2e.command import LIMIT_S, Result, assert_one_line, ended, environment, logged, run, started

REQUESTS = [guests.guest(number) for number in range(100)]
PASSWORD = "correct-horse-battery-staple"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> str:
    return guests.write_file(tmp_path, REQUESTS)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that stays ours, so that nobody can begin to listen on it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"cxone_client_secret": PASSWORD}, ("credentials", "GUESTLEDGER_CXONE_CLIENT_SECRET")),
        pytest.param(
            {"cxone_url": "http://127.0.0.1:{closed_port}"},
            ("refused", "GUESTLEDGER_CXONE_URL"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["wrong credentials", "CXone unreachable"],
)
async def test_requests_are_accepted_while_the_provider_cannot_be_used(
    broken, words, database_url: str, simulator: Simulator, file: str, closed_port: int
):
    env = environment(database_url, simulator)
    broken_env = env | environment(**{name: text.format(closed_port=closed_port) for name, text in broken.items()})
    earlier = await accept(database_url, [guests.guest(number) for number in range(1_000, 1_050)])

    opened, worked = await asyncio.gather(
        run("open", file, env=broken_env), run("worker", "--until-idle", env=broken_env)
    )

    assert_one_line(opened, *words, "150 accepted requests stay pending", "guestledger worker")
    assert worked.code == 2
    for word in words:
        assert word in worked.err.splitlines()[-1]
    assert [(answer["line"], answer["status"]) for answer in opened.out] == [
        (line, "pending") for line in range(1, 101)
    ]
    assert PASSWORD not in opened.text + opened.err + worked.text + worked.err
    assert await raw_log.counts(database_url) == {"ConsentRecorded": 150}

    finished = await run("worker", "--until-idle", env=env)

    assert finished.code == 0, finished.err
    assert await raw_log.accepted(database_url) >= set(earlier)
    assert (await raw_log.counts(database_url))["SessionCreated"] == 150


async def test_worker_with_wrong_credentials_ends_at_once(database_url: str, simulator: Simulator):
    worked = await run("worker", env=environment(database_url, simulator, cxone_client_secret=PASSWORD))

    assert_one_line(worked, "credentials", "GUESTLEDGER_CXONE_CLIENT_SECRET")


async def test_worker_without_a_provider_warns_and_expires_tokens(
    database_url: str, simulator: Simulator, file: str, closed_port: int
):
    simulator.config = SimulatorConfig(session_lifetime_s=2)
    env = environment(database_url, simulator)
    opened = await run("open", file, env=env)
    assert opened.code == 0, opened.err

    async with started("worker", env=env | environment(cxone_url=f"http://127.0.0.1:{closed_port}")) as process:
        async with asyncio.timeout(LIMIT_S):
            while (await raw_log.counts(database_url))["TokenExpired"] < len(REQUESTS):
                assert process.returncode is None
                await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        worked = await ended(process)

    assert worked.code == 0
    assert "refused" in logged(worked.err.splitlines()[0])


async def test_database_outage_ends_open_in_one_line_and_loses_nothing(
    postgres_server: str, database_url: str, file: str
):
    async with Simulator(SimulatorConfig(slow_ms=20, server_error_share=0.2)) as simulator:
        env = environment(database_url, simulator)
        async with asyncio.timeout(LIMIT_S), started("worker", env=env) as worker:
            while not simulator.counts["token 200"]:  # it is past its beginning then
                await asyncio.sleep(0.01)
            hurried = env | {
                "GUESTLEDGER_DRAIN_SECONDS": "0.1"
            }  # whatever the wait cuts off: it is all told in that line
            async with started("open", file, env=hurried) as process:
                while len(simulator.sessions_by_key) < 20:
                    await asyncio.sleep(0.001)
                async with gone(postgres_server, database_url):
                    opened = await ended(process)
            assert_ends_in_one_line(opened)
            assert [answer["line"] for answer in opened.out] == list(range(1, 101))
            while await raw_log.open_ended(database_url):
                await asyncio.sleep(0.1)
            worker.send_signal(signal.SIGTERM)
            worked = await ended(worker)
        assert worked.code == 0
        assert "Traceback" not in worked.err
        assert raw_log.remote_sessions(simulator) == await raw_log.known_sessions(database_url)


def assert_ends_in_one_line(result: Result) -> None:
    """One line when the outage began, and one at the end. It may begin twice: one connection is cut after another."""
    *waiting, end = but_for_losses(result).err.splitlines(keepends=True)
    assert waiting[0].endswith("s for it\n")
    assert all(line.endswith(("s for it\n", "answers again\n")) for line in waiting)
    assert_one_line(result._replace(err=end), "database", "guestledger worker")


LOSSES = (" is lost: the database did not come back", "leases not renewed", "its lease has lapsed")


def but_for_losses(result: Result) -> Result:
    """A command's result without the lines that tell what an outage did: answers not recorded, leases not renewed."""
    lines = result.err.splitlines(keepends=True)
    return result._replace(err="".join(line for line in lines if not any(loss in line for loss in LOSSES)))


@pytest.mark.slow
async def test_unrecorded_answer_is_logged_with_its_remote_session(
    postgres_server: str, database_url: str, tmp_path: Path
):
    async with Simulator(SimulatorConfig(slow_ms=1_500)) as simulator, asyncio.timeout(LIMIT_S):
        env = environment(database_url, simulator)
        async with started("open", guests.write_file(tmp_path, REQUESTS[:1]), env=env) as process:
            while not raw_log.remote_sessions(simulator):
                await asyncio.sleep(0.01)
            async with gone(postgres_server, database_url):
                opened = await ended(process)
        [(stream_id, session_id)] = raw_log.remote_sessions(simulator)
    [lost] = [line for line in opened.err.splitlines() if " is lost: " in line]
    assert logged(lost).startswith(f"session {stream_id}: the answer to attempt 1 (created {session_id}) is lost")
    assert_ends_in_one_line(opened)


async def test_unreachable_database_is_one_line_without_its_password(simulator: Simulator, file: str, closed_port: int):
    env = environment(f"postgresql://ledger:{PASSWORD}@127.0.0.1:{closed_port}/ledger", simulator)
    commands = [("open", file), ("db", "upgrade")]

    for result in await asyncio.gather(*(run(*command, env=env) for command in commands)):
        assert_one_line(result, "database", "GUESTLEDGER_DATABASE_URL")
        assert PASSWORD not in result.err
        assert not result.text


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("sslmode=require", ("the connection was refused",)),
        ("application_name=app", ("the connection was refused",)),
        ("connect_timeout=10", ("the connection was refused",)),
        ("options=-csearch_path%3Dapp", ("the connection was refused",)),
        ("statement_cache_size=0", ("the connection was refused",)),
        ("sslmode=require&channel_binding=require", ("channel_binding=require", "leave it out")),
        ("prepared_statement_cache_size=off", ("prepared_statement_cache_size", "must be a whole number")),
    ],
)
async def test_libpq_parameters_of_the_url_are_used_or_named(parameters: str, words: tuple[str, ...], closed_port: int):
    url = f"postgresql://ledger:{PASSWORD}@127.0.0.1:{closed_port}/app?{parameters}"

    upgraded = await run("db", "upgrade", env=environment(url))

    assert_one_line(upgraded, "the database cannot be used", *words)
    assert PASSWORD not in upgraded.err


async def test_missing_ledger_names_the_command_that_creates_it(
    empty_database_url: str, runtime_server: str, simulator: Simulator, file: str
):
    runtime = make_url(runtime_server).set(database=make_url(empty_database_url).database)
    url = runtime.render_as_string(hide_password=False)
    env = environment(url, simulator, migration_url=empty_database_url)

    before = await run("open", file, env=env)

    assert_one_line(before, "there is no ledger", "guestledger db upgrade")
    made = await run("db", "upgrade", env=env)
    assert (made.code, made.text) == (0, ""), made.err
    opened = await run("open", file, env=env)
    assert opened.code == 0, opened.err


@asynccontextmanager
async def gone(postgres_server: str, database_url: str) -> AsyncIterator[None]:
    """The database is not to be found for as long as the block lasts, and whoever was connected is thrown out."""
    name = make_url(database_url).database
    await renamed(postgres_server, name, f"{name}_away")
    yield
    await renamed(postgres_server, f"{name}_away", name)


async def renamed(postgres_server: str, before: str, after: str) -> None:
    connection = await asyncpg.connect(postgres_server.replace("+asyncpg", ""))
    try:
        async with asyncio.timeout(LIMIT_S):
            while True:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", before
                )
                with suppress(asyncpg.ObjectInUseError):  # somebody was quicker to connect again
                    await connection.execute(f"ALTER DATABASE {before} RENAME TO {after}")
                    return
    finally:
        await connection.close()
