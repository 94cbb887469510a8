"""The `guestledger` that the pages' commands run."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.docs.blocks import ROOT

ZYGOTE = Path(__file__).with_name("zygote.py")


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """A directory for PATH with a `guestledger` that starts fast."""
    with TemporaryDirectory(prefix="docs-") as name:
        directory = Path(name)
        path = directory / "socket"
        program = directory / "guestledger"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {ZYGOTE} {path} "$@"\n')
        program.chmod(0o755)
        with subprocess.Popen([sys.executable, ZYGOTE, "serve", path], cwd=ROOT, stdin=subprocess.PIPE) as process:
            while not path.exists():
                assert process.poll() is None
                time.sleep(0.02)
            yield directory
            assert process.stdin
            process.stdin.close()
