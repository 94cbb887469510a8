"""Commands that run to their end are forked from one process that has imported everything."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import command


@pytest.fixture(scope="session", autouse=True)
def fast_commands(programs: Path) -> Iterator[None]:
    """Start `command.run`'s commands fast: importing takes most of the time of a short one."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(command, "forked", (str(programs / "guestledger"),))
        yield
