"""Writing files for people."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from guestledger.adapters.cli.running import fail


def check_new(path: Path) -> None:
    """End the command with exit code 2 if there is such a file."""
    with suppress(OSError):  # writing it fails, too, and says why
        if path.exists():
            fail(f"{path} exists already: give another name, or delete it")


def write_new(path: Path, data: bytes) -> None:
    """Write a file for its owner only, whole or not at all. Ends the command with exit code 2 if that is not possible."""
    check_new(path)
    begun = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        begun.rename(path)
    except OSError as error:
        with suppress(OSError):
            begun.unlink()
        fail(f"{path} cannot be written: {error.strerror}")
