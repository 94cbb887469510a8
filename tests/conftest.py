"""What all tests share: a PostgreSQL server, fresh databases on it, Hypothesis' settings, and what is told at the end."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import pytest_asyncio
from sqlalchemy import make_url

from guestledger.adapters.postgres.admin import migrate
from tests import leaks, postgres

leaks.install()

# on a shared machine the time of an example, or of its making, says nothing
hypothesis.settings.register_profile("ci", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("ci")


for name in [name for name in os.environ if name.startswith("PGSSL")]:
    del os.environ[name]  # the tests' servers have no certificates


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail the test that leaves a connection, a task, a file descriptor or a process behind."""
    with leaks.checked():
        yield


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(leaks.SharedFixtures())


_TOLD = "fault suite"


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """`tell(line)`: show this line at the end of the test run."""

    def tell(line: str) -> None:
        print(line)  # noqa: T201 - pytest shows it with a failure
        record_property(_TOLD, line)

    return tell


# Here and not beside the fault suite: where tests run in other processes, this one reads no further conftest.
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """At how many points what was ended, and by which seed."""
    reports = [report for ended in ("passed", "failed") for report in terminalreporter.stats.get(ended, ())]
    lines = [line for report in reports for name, line in report.user_properties if name == _TOLD]
    if lines:
        terminalreporter.section(_TOLD)
    for line in lines:
        terminalreporter.line(line)


def pytest_report_header() -> str:
    return f"postgres: {postgres.source().reason}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server, for a user who may do everything there."""
    with postgres.running_server() as url:
        yield url


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def migrated_template(postgres_server: str) -> AsyncIterator[str]:
    """The name of a database with a ledger in its schema `guestledger`, to make others from. Nobody connects to it."""
    async with postgres.new_database(postgres_server) as url:
        await migrate.upgrade(url)
        yield str(make_url(url).database)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def runtime_server(postgres_server: str, migrated_template: str) -> AsyncIterator[str]:
    """The server's URL for a user who has the ledger's runtime role and nothing else: whom a ledger runs as."""
    async with postgres.new_login(postgres_server, "IN ROLE guestledger_runtime") as url:
        yield url


@pytest.fixture
async def database_url(runtime_server: str, migrated_template: str) -> AsyncIterator[str]:
    """The URL of a fresh database with an empty ledger in its schema `guestledger`, for the runtime's user."""
    async with postgres.new_database(runtime_server, migrated_template) as url:
        yield url


@pytest.fixture
async def empty_database_url(postgres_server: str) -> AsyncIterator[str]:
    """The URL of a fresh database with nothing in it, for a user who may do everything there."""
    async with postgres.new_database(postgres_server) as url:
        yield url


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory for an embedded server of the test's own."""
    with postgres.data_directory() as directory:
        yield directory
