"""The directory of the server's socket, where the cluster's own path cannot be used for one."""

import contextlib
import os
import tempfile
from pathlib import Path

PORT = "5432"
"""Part of the socket's name; there is no network port."""

_PREFIX = "guestledger-"
_FILES = (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock")


class SocketDirectory:
    """A temporary directory, noted in the data directory: a server that is killed leaves it behind.

    To be used under the data directory's lock.
    """

    def __init__(self, data_dir: Path, cluster: Path) -> None:
        self._note = data_dir / "socket-directory"
        self._cluster = cluster

    def make(self) -> Path:
        """Make a new directory for the cluster's user, in place of the noted one."""
        self.remove()
        made = Path(tempfile.mkdtemp(prefix=_PREFIX))
        note = os.open(self._note, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(note, "wb") as file:
            file.write(os.fsencode(made))
        if os.geteuid() == 0:
            cluster = self._cluster.stat()
            os.chown(made, cluster.st_uid, cluster.st_gid)
        return made

    def remove(self) -> None:
        """Remove the noted directory, if there is one and it is still ours."""
        with contextlib.suppress(OSError):
            if self._note.lstat().st_uid == os.geteuid():
                self._remove(Path(os.fsdecode(self._note.read_bytes())))
        self._note.unlink(missing_ok=True)

    def _remove(self, directory: Path) -> None:
        # Another user may have put something else there meanwhile. So no link is followed, and no tree is removed.
        found = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            ours = (os.geteuid(), self._cluster.stat().st_uid)
            if not directory.name.startswith(_PREFIX) or os.fstat(found).st_uid not in ours:
                return
            for name in _FILES:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=found)
        finally:
            os.close(found)
        directory.rmdir()
