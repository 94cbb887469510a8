"""What all tests share: a PostgreSQL server, new databases on it, the check for leaks, and Hypothesis' settings."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis
import pytest
import pytest_asyncio
from sqlalchemy import make_url

from guestledger.adapters.postgres.admin import migrate
from tests import leaks, postgres

# Here, since tests of other folders import them too.
pytest.register_assert_rewrite("tests.replaying", "tests.unit.given", "tests.unit.limiters", "tests.unit.waiting")

leaks.install()

# No deadlines: on a shared machine the duration of an example means nothing.
hypothesis.settings.register_profile("ci", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("ci")


for name in [name for name in os.environ if name.startswith("PGSSL")]:
    del os.environ[name]  # the test servers have no certificates


_REPORTED = "fault suite"


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a connection, a task, a file descriptor or a process open."""
    with leaks.checked():
        yield


@pytest.fixture
def report_line(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """`report_line(line)` shows the line at the end of the test run."""

    def report(line: str) -> None:
        print(line)  # noqa: T201 - pytest shows it with a failure
        record_property(_REPORTED, line)

    return report


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(leaks.SharedFixtures())


# Not in the fault suite's conftest: with xdist, the process that reports reads only this one.
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the reported lines: how often work was interrupted, and the seed."""
    reports = [report for ended in ("passed", "failed") for report in terminalreporter.stats.get(ended, ())]
    lines = [line for report in reports for name, line in report.user_properties if name == _REPORTED]
    if lines:
        terminalreporter.section(_REPORTED)
    for line in lines:
        terminalreporter.line(line)


def pytest_report_header() -> str:
    return f"postgres: {postgres.source().reason}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The server's URL, for a superuser."""
    with postgres.running_server() as url:
        yield url


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def migrated_template(postgres_server: str) -> AsyncIterator[str]:
    """The name of a template database with a ledger in schema `guestledger`. Nothing connects to it."""
    async with postgres.new_database(postgres_server) as url:
        await migrate.upgrade(url)
        yield str(make_url(url).database)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def runtime_server(postgres_server: str, migrated_template: str) -> AsyncIterator[str]:
    """The server's URL for a user with the ledger's runtime role only, as a ledger runs in production."""
    async with postgres.new_login(postgres_server, "IN ROLE guestledger_runtime") as url:
        yield url


@pytest.fixture
async def database_url(runtime_server: str, migrated_template: str) -> AsyncIterator[str]:
    """A new database with an empty ledger in schema `guestledger`, for the runtime user."""
    async with postgres.new_database(runtime_server, migrated_template) as url:
        yield url


@pytest.fixture
async def empty_database_url(postgres_server: str) -> AsyncIterator[str]:
    """A new empty database, for a superuser."""
    async with postgres.new_database(postgres_server) as url:
        yield url


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory for an embedded server of the test's own."""
    with postgres.data_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """A directory for PATH with a `guestledger` that starts fast: see `tests/zygote.py`."""
    zygote = Path(__file__).with_name("zygote.py")
    with TemporaryDirectory(prefix="programs-") as name:
        directory = Path(name)
        path = directory / "socket"
        program = directory / "guestledger"
        start = shlex.join((sys.executable, "-I", "-S", str(zygote), str(path)))
        program.write_text(f'#!/bin/sh\nexec {start} "$@"\n')
        program.chmod(0o755)
        with subprocess.Popen(
            [sys.executable, zygote, "serve", path], cwd=zygote.parents[1], stdin=subprocess.PIPE
        ) as process:
            while not path.exists():
                assert process.poll() is None
                time.sleep(0.02)
            yield directory
            assert process.stdin
            process.stdin.close()
