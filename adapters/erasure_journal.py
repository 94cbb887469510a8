"""The journal of erasures: a file outside the database, one JSON object a line."""

import asyncio
import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from guestledger.engine.domain.errors import ErasuresMissing, JournalUnusable
from guestledger.engine.ports.erasures import ErasureStore, JournalEntry

logger = logging.getLogger("guestledger")

_decoder = msgspec.json.Decoder(JournalEntry)


class FileJournal:
    """See `ErasureJournal`. Processes take turns; a line that a crash cut off is cut away."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def check(self) -> None:
        """See `ErasureJournal.check`."""
        await asyncio.to_thread(self._check)

    async def add(self, entry: JournalEntry) -> None:
        """See `ErasureJournal.add`."""
        await asyncio.to_thread(self._add, msgspec.json.encode(entry) + b"\n")

    async def entries(self) -> Sequence[JournalEntry]:
        """See `ErasureJournal.entries`. A file that does not exist has none. That is logged: its disk may be missing."""
        return await asyncio.to_thread(self._entries)

    def _check(self) -> None:
        with self._opened():
            pass

    def _add(self, line: bytes) -> None:
        with self._opened() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)  # a line that a crash cut off was not recorded as complete
            file.seek(0, os.SEEK_END)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        try:
            is_new = not self.path.exists()
            with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                if is_new:
                    _sync_directory(self.path.parent)
                yield file
        except OSError as error:
            raise JournalUnusable(str(self.path), f"cannot be written: {error.strerror}") from None

    def _entries(self) -> list[JournalEntry]:
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            if self.path.parent.exists():  # else it cannot be begun either, which is an error
                logger.warning(
                    "the journal of erasures %s does not exist: an older backup would not be noticed", self.path
                )
            return []
        except OSError as error:
            raise JournalUnusable(str(self.path), f"cannot be read: {error.strerror}") from None
        found: list[JournalEntry] = []
        for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), 1):
            try:
                found.append(_decoder.decode(line))
            except msgspec.MsgspecError:
                raise JournalUnusable(str(self.path), f"line {number} is not an erasure: restore the file") from None
        return found


async def check_erasures(journal: FileJournal, erasures: ErasureStore) -> None:
    """Raise `ErasuresMissing` if the database holds what an erasure of its ledger in the journal has deleted.

    Raises `JournalUnusable`.
    """
    ledger_id = await erasures.ledger_id()
    listed = {entry.erasure for entry in await journal.entries() if entry.ledger == ledger_id}
    if missing := len(listed - await erasures.done(listed)) if listed else 0:
        raise ErasuresMissing(str(journal.path), missing)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
