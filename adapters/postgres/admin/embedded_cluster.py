"""The database cluster in a data directory, and its server."""

import contextlib
import os
import shlex
import subprocess
from functools import cached_property
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from guestledger.adapters.postgres.admin.embedded_programs import Programs, unusable
from guestledger.adapters.postgres.admin.embedded_socket import PORT, SocketDirectory

DATABASE = "guestledger"
SUPERUSER = "postgres"

_SOCKETS = "unix_socket_directories"
_MAX_SOCKET = 103  # bytes, the smallest limit of the supported systems
_MAX_SECONDS = 60  # for a start (with recovery after a crash) or a stop


class Cluster:
    """To be used under the data directory's lock."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._path = data_dir / "postgres"
        self._log = self._path / "log"
        self._sockets = SocketDirectory(data_dir, self._path)

    @cached_property
    def _programs(self) -> Programs:
        return Programs(self._data_dir, self._path)

    def start(self) -> Path:
        """Start the server unless it runs, and return the directory of its socket."""
        if not self._path.exists():
            self._create()
        until_ready = Retrying(
            stop=stop_after_delay(_MAX_SECONDS), wait=wait_fixed(0.05), retry=retry_if_result(lambda ready: not ready)
        )
        try:
            until_ready(self._ensure_started)
        except RetryError:
            raise unusable("start", self._data_dir, f"not ready after {_MAX_SECONDS} s, see {self._log}") from None
        return self.socket_dir()

    def crashed(self) -> bool:
        """Whether the server ended without being stopped: its note of itself is left."""
        return bool(self._recorded()) and self._server() is None

    def stop(self) -> bool:
        """Stop the server and its connections. False if none runs."""
        if self._server() is None:
            self._sockets.remove()  # it may have been killed
            return False
        # pg_ctl itself would wait in vain for a server that was killed a moment ago, and that nobody has reaped.
        self._programs.run("pg_ctl", "stop", "-D", self._path.name, "-m", "fast", "-W")
        until_ended = Retrying(
            stop=stop_after_delay(_MAX_SECONDS),
            wait=wait_fixed(0.05),
            retry=retry_if_result(lambda server: server is not None),
        )
        try:
            until_ended(self._server)
        except RetryError:
            raise unusable("stop", self._data_dir, f"still running after {_MAX_SECONDS} s, see {self._log}") from None
        was_stopped = not self._recorded()
        self._sockets.remove()
        return was_stopped

    def _create(self) -> None:
        """Create the cluster, under another name until it is complete."""
        if not self._programs.has_named_user():
            reason = f"initdb needs an entry for user {os.geteuid()} in /etc/passwd: add one, or set GUESTLEDGER_DATABASE_URL"
            raise unusable("start", self._data_dir, reason)
        unfinished = self._programs.new_directory(self._data_dir)
        locale = ("--locale=C", "--encoding=UTF8")  # the same on every system
        private_socket_only = ("--auth-local=trust", "--auth-host=reject")
        self._check(self._programs.run("initdb", "-D", unfinished.name, "-U", SUPERUSER, *locale, *private_socket_only))
        self._check(
            self._programs.run(
                "postgres", "--single", "-c", "exit_on_error=true", "-D", unfinished.name, "postgres",
                stdin=f"CREATE DATABASE {DATABASE}\n",
            )
        )  # fmt: skip
        unfinished.rename(self._path)
        # The new name must be on disk before the data: the next start removes unfinished directories.
        directory = os.open(self._data_dir, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def _check(self, done: subprocess.CompletedProcess[str]) -> None:
        if done.returncode:
            reason = " ".join(done.stderr.split()) or f"{done.args[0]} ended with {done.returncode}"
            raise unusable("start", self._data_dir, reason)

    def _ensure_started(self) -> bool:
        if self._is_ready():
            return True
        if self._server() is None:
            self._launch()
        return False

    def _launch(self) -> None:
        for left in ("postmaster.pid", f".s.PGSQL.{PORT}.lock"):
            (self._path / left).unlink(missing_ok=True)
        log_size = self._log.stat().st_size if self._log.exists() else 0
        options = {
            "listen_addresses": "",
            _SOCKETS: str(self._path if self._can_hold_socket() else self._sockets.make()),
            "port": PORT,
            "log_error_verbosity": "terse",  # an error's details would bring personal data into the log
        }
        settings = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in options.items())
        launched = self._programs.run(
            "pg_ctl", "start", "-D", self._path.name, "-l", self._log.relative_to(self._data_dir), "-o", settings, "-w", "-t", _MAX_SECONDS
        )  # fmt: skip
        if launched.returncode == 0 or self._server() is not None:
            return
        written = self._log.read_bytes()[log_size:].decode(errors="replace") if self._log.exists() else ""
        # Processes of a killed server take a moment to end: try again.
        if "pre-existing shared memory block" not in written:
            fatal = [line for line in written.splitlines() if "FATAL:" in line or "PANIC:" in line]
            reason = fatal[-1] if fatal else " ".join(launched.stderr.split())
            raise unusable("start", self._data_dir, f"{reason} (see {self._log})")

    def _can_hold_socket(self) -> bool:
        return len(os.fsencode(self._path / f".s.PGSQL.{PORT}")) <= _MAX_SOCKET and "," not in str(self._path)

    def _recorded(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return (self._path / "postmaster.pid").read_text().splitlines()
        return []

    def socket_dir(self) -> Path:
        """Return the directory of the running server's socket."""
        return Path(self._noted_socket_dir() or self._path)

    def _noted_socket_dir(self) -> str:
        return "".join(self._recorded()[4:5])

    def _server(self) -> int | None:
        """The process id of the running server, ready or not.

        The recorded number may be another process by now. A server's working directory is its cluster.
        """
        recorded = self._recorded()
        if not recorded or not recorded[0].isdigit():
            return None
        server = int(recorded[0])
        try:
            if Path("/proc/self/cwd").exists():
                return server if self._runs_here(Path(f"/proc/{server}")) else None
            os.kill(server, 0)
        except OSError:
            return None
        return server

    def _runs_here(self, process: Path) -> bool:
        try:
            return (process / "cwd").samefile(self._path)
        except PermissionError:  # to root in a container, which lacks CAP_SYS_PTRACE
            if process.stat().st_uid != self._path.stat().st_uid:
                return False
            program, *options = map(os.fsdecode, (process / "cmdline").read_bytes().split(b"\0"))
            if Path(program).name != "postgres":
                return False
            named = [option.removeprefix(f"{_SOCKETS}=") for option in options if option.startswith(f"{_SOCKETS}=")]
            noted = self._noted_socket_dir()
            # Either may be missing, just after a start or in one by hand. In doubt it is this server.
            return not named or not noted or named == [noted]

    def _is_ready(self) -> bool:
        if self._server() is None:
            return False
        where = ("-h", self.socket_dir(), "-p", PORT, "-U", SUPERUSER, "-d", DATABASE)
        return self._programs.run("pg_isready", "-q", *where).returncode == 0
