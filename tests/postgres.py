"""The PostgreSQL server that tests use, and databases on it.

The first of these that is available: the server of `GUESTLEDGER_TEST_DATABASE_URL`; a container of the image
`GUESTLEDGER_TEST_IMAGE` (default `postgres:18`), if a Docker daemon has or gets the image; the embedded server.
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

_MIN_FREE_BYTES = 4 * 2**30


class Source(msgspec.Struct, frozen=True):
    """Where the server comes from, and why: `url`, `image`, or neither for the embedded one."""

    reason: str
    url: str | None = None
    image: str | None = None


@functools.cache
def source() -> Source:
    """Choose the server, once per test run. May pull an image."""
    if url := os.environ.get("GUESTLEDGER_TEST_DATABASE_URL"):
        return Source(
            "the server of GUESTLEDGER_TEST_DATABASE_URL",
            url=make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False),
        )
    image = os.environ.get("GUESTLEDGER_TEST_IMAGE", "postgres:18")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the client leaves its socket open if no daemon answers
        obstacle = _obstacle(image)
        gc.collect()
    return Source(f"embedded, as {obstacle}") if obstacle else Source(f"a container of {image}", image=image)


def _obstacle(image: str) -> str | None:
    """Why no container of `image` can be started, if so."""
    try:
        daemon = docker.from_env()
        daemon.ping()
    except (DockerException, RequestException):
        return "no Docker daemon answers"
    with contextlib.closing(daemon):
        # the second image removes the containers of a killed test run
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
    """Run the chosen server. Yields a SQLAlchemy URL for a superuser."""
    with _chosen_server() as url:
        _superusers.append(make_url(url))
        try:
            yield url
        finally:
            _superusers.remove(make_url(url))


_superusers: list[URL] = []


def as_administrator(url: str) -> str:
    """The URL of the same database for its server's superuser."""
    given = make_url(url)
    for server in _superusers:
        if _place(server) == _place(given):
            given = given.set(username=server.username, password=server.password)
    return given.render_as_string(hide_password=False)


def _place(url: URL) -> tuple[object, ...]:
    return url.host, url.port, url.query.get("host"), url.query.get("port")


@contextlib.asynccontextmanager
async def new_login(url: str, options: str) -> AsyncIterator[str]:
    """Create a user with these options of CREATE ROLE, and yield `url` for it. Drops the user and its grants afterwards.

    What it owns in the database of `url` then belongs to that URL's user.
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
    """A file system in memory, if it has enough room: creating a database there takes a tenth of the time.

    Tests kill processes, never the machine, so it keeps all that a disk would keep.
    """
    memory = Path("/dev/shm")
    with contextlib.suppress(OSError):
        if shutil.disk_usage(memory).free >= _MIN_FREE_BYTES:
            tempfile.TemporaryFile(dir=memory).close()
            return memory
    return None


@contextlib.contextmanager
def data_directory(place: Path | None = None) -> Iterator[Path]:
    """A data directory for an embedded server. The server is stopped and the directory removed afterwards.

    Not in pytest's temporary directory: as root, the server runs as another user, who has no access there.
    """
    directory = Path(tempfile.mkdtemp(prefix="guestledger-test-", dir=place))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        asyncio.run(stop_embedded(directory))
        shutil.rmtree(directory)
        directory.with_name(f"{directory.name}.key").unlink(missing_ok=True)


def crash(data_dir: Path) -> None:
    """Stop the embedded server without a checkpoint, as `pg_ctl stop -m immediate` and a power cut do."""
    os.kill(int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)


@contextlib.asynccontextmanager
async def new_database(server_url: str, template: str = "template0") -> AsyncIterator[str]:
    """Create a database from `template` and yield its URL, for the user of `server_url`. Drops it afterwards."""
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
