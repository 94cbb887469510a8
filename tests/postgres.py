"""The PostgreSQL server that tests run against, and databases on it.

In this order: the server of `GUESTLEDGER_TEST_DATABASE_URL`, where databases can be made and dropped; a container of the
image `GUESTLEDGER_TEST_IMAGE` (default `postgres:18`), where a Docker daemon answers and can get the image; the embedded
server, in a directory that is removed afterwards.
"""

import asyncio
import contextlib
import functools
import gc
import os
import shutil
import signal
import tempfile
import uuid
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker
import msgspec
from docker.errors import DockerException, ImageNotFound
from requests import RequestException
from sqlalchemy import URL, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.config import testcontainers_config

from guestledger.adapters.postgres.admin.embedded import start_embedded, stop_embedded

_ROOM = 4 * 2**30


class Source(msgspec.Struct, frozen=True):
    """Where the server comes from: exactly one of `url` and `image`, or neither for the embedded one; and why."""

    reason: str
    url: str | None = None
    image: str | None = None


@functools.cache
def source() -> Source:
    """Choose the server, once a session. May pull an image."""
    if url := os.environ.get("GUESTLEDGER_TEST_DATABASE_URL"):
        return Source(
            "the server of GUESTLEDGER_TEST_DATABASE_URL",
            url=make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False),
        )
    image = os.environ.get("GUESTLEDGER_TEST_IMAGE", "postgres:18")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the client leaves its socket open where nobody answers
        obstacle = _obstacle(image)
        gc.collect()
    return Source(f"embedded, as {obstacle}") if obstacle else Source(f"a container of {image}", image=image)


def _obstacle(image: str) -> str | None:
    """Why no container of `image` can be had."""
    try:
        daemon = docker.from_env()
        daemon.ping()
    except (DockerException, RequestException):
        return "no Docker daemon answers"
    with contextlib.closing(daemon):
        # the second image removes containers when a test run was killed
        for needed in (image,) if testcontainers_config.ryuk_disabled else (image, testcontainers_config.ryuk_image):
            try:
                daemon.images.get(needed)
            except ImageNotFound:
                try:
                    daemon.images.pull(needed)
                except (DockerException, RequestException) as error:
                    reason = str(getattr(error, "explanation", None) or error)
                    return f"Docker cannot get the image {needed}: {reason.splitlines()[0]}"
    return None


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """The chosen server, for as long as the context lasts: a SQLAlchemy URL, of a user who may do everything there."""
    with _chosen_server() as url:
        _everything_on.append(make_url(url))
        try:
            yield url
        finally:
            _everything_on.remove(make_url(url))


_everything_on: list[URL] = []


def as_administrator(url: str) -> str:
    """The URL of the same database for the user who may do everything there, whoever it is that `url` logs in."""
    given = make_url(url)
    for server in _everything_on:
        if _place(server) == _place(given):
            given = given.set(username=server.username, password=server.password)
    return given.render_as_string(hide_password=False)


def _place(url: URL) -> tuple[object, ...]:
    return url.host, url.port, url.query.get("host"), url.query.get("port")


@contextlib.asynccontextmanager
async def new_login(url: str, options: str) -> AsyncIterator[str]:
    """A user made by CREATE ROLE with these options, on the way of an administrator's `url`: that URL for this one.

    Dropped at the end, with all that it was granted in that database; what it owns there becomes the administrator's.
    """
    name = f"test_{uuid.uuid4().hex}"
    await _execute(url, f"CREATE ROLE {name} LOGIN PASSWORD '{name}' {options}")
    try:
        yield make_url(url).set(username=name, password=name).render_as_string(hide_password=False)
    finally:
        gone = (f"REASSIGN OWNED BY {name} TO CURRENT_USER", f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")
        await _execute(url, *gone)


@contextlib.contextmanager
def _chosen_server() -> Iterator[str]:
    chosen = source()
    if chosen.url:
        yield chosen.url
    elif chosen.image:
        with PostgresContainer(chosen.image, driver="asyncpg") as container:
            yield container.get_connection_url()
    else:
        with data_directory(_memory()) as directory:
            yield asyncio.run(start_embedded(directory))


def _memory() -> Path | None:
    """A file system in memory, if there is one with room. Processes are killed here, never the machine, so that nothing is
    lost there which a disk would keep; and each test's own database is made in a tenth of the time."""
    memory = Path("/dev/shm")
    with contextlib.suppress(OSError):
        if shutil.disk_usage(memory).free >= _ROOM:
            tempfile.TemporaryFile(dir=memory).close()
            return memory
    return None


@contextlib.contextmanager
def data_directory(place: Path | None = None) -> Iterator[Path]:
    """A data directory for an embedded server, which is stopped and removed at the end.

    Not below pytest's own temporary directory, which is closed to the user that root's server runs as.
    """
    directory = Path(tempfile.mkdtemp(prefix="guestledger-test-", dir=place))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        asyncio.run(stop_embedded(directory))
        shutil.rmtree(directory)


def crash(data_dir: Path) -> None:
    """End the embedded server as `pg_ctl stop -m immediate` and a power cut do: no checkpoint, every connection broken."""
    os.kill(int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)


@contextlib.asynccontextmanager
async def new_database(server_url: str, template: str = "template0") -> AsyncIterator[str]:
    """A database of its own on the server, copied from `template` and dropped at the end: its URL, for the given URL's user."""
    name, administrator = f"test_{uuid.uuid4().hex}", as_administrator(server_url)
    await _execute(administrator, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        await _execute(administrator, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(url: str, *statements: str) -> None:
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            for statement in statements:
                await connection.execute(text(statement))
    finally:
        await engine.dispose()
