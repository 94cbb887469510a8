"""The `guestledger` command as a person or a program uses it: in a process of its own, with nothing but its settings."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from guestledger.adapters.simulator import Simulator
from tests.keys import KEY

ROOT = Path(__file__).parents[2]
forked: tuple[str, ...] | None = None
"""The command that forks from a process which has imported everything; `None`: there is no such process."""
PROGRAM = (sys.executable, "-m", "guestledger.adapters.cli.main")
# Only so that a hang ends the test: far above what any command takes, even where the machine is slow.
LIMIT_S = 150
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (WARNING|ERROR) guestledger: ")


class Result(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    text: str
    err: str

    @property
    def out(self) -> list[Any]:
        """Standard output, as one JSON value a line."""
        return [msgspec.json.decode(line) for line in self.text.splitlines()]


def environment(database_url: str | None = None, simulator: Simulator | None = None, **more: str) -> dict[str, str]:
    """The whole environment of a command; `more` are settings without their prefix, in lower case; empty: not set."""
    settings = {} if database_url is None else {"database_url": database_url, "encryption_key": KEY}
    if simulator is not None:
        settings |= {
            "cxone_url": simulator.url,
            "cxone_client_id": simulator.client_id,
            "cxone_client_secret": simulator.client_secret,
            "webhook_url": simulator.webhook_url,
            "webhook_allow_private": "1",
        }
    named = {f"GUESTLEDGER_{name.upper()}": value for name, value in (settings | more).items() if value}
    return {"PATH": os.defpath, **named}


def accept_interrupts() -> None:
    """Undo a shell's setting: what it runs in the background ignores SIGINT, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@asynccontextmanager
async def started(
    *arguments: str,
    env: Mapping[str, str],
    stdin: int = DEVNULL,
    stdout: int = PIPE,
    program: Sequence[str] = PROGRAM,
) -> AsyncIterator[Process]:
    """A command that runs; it does not outlive the block. `program` runs it in another way."""
    process = await asyncio.create_subprocess_exec(
        *(*program, *arguments),
        env=env,
        cwd=ROOT,
        stdin=stdin,
        stdout=stdout,
        stderr=PIPE,
        preexec_fn=accept_interrupts,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def ended(process: Process, stdin: bytes | None = None) -> Result:
    """What becomes of a command that runs."""
    async with asyncio.timeout(LIMIT_S):
        out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return Result(process.returncode, (out or b"").decode(), err.decode())


async def run(
    *arguments: str, env: Mapping[str, str], stdin: bytes | None = None, program: Sequence[str] | None = None
) -> Result:
    """Run a command to its end: by `program`, else forked where that is the same."""
    # What else an environment may hold, such as a locale, an interpreter reads when it starts.
    plain = all(name.startswith("GUESTLEDGER_") for name in env.keys() - {"PATH"})
    program = program or (forked if forked is not None and plain else PROGRAM)
    async with started(*arguments, env=env, stdin=DEVNULL if stdin is None else PIPE, program=program) as process:
        return await ended(process, stdin)


async def killed(process: Process) -> Result:
    """Kill a command that runs, as the system does when memory runs out: it cannot do anything about it."""
    process.send_signal(signal.SIGKILL)
    result = await ended(process)
    assert result.code == -signal.SIGKILL, "it had ended before it was killed"
    return result


def logged(line: str) -> str:
    """The message of a line of the log, without its time and level."""
    found = _LOG_LINE.match(line)
    assert found, line
    return line[found.end() :]


def assert_one_line(result: Result, *words: str) -> None:
    """A service that is out of reach, or wrong use: exit code 2, and one line on stderr with all these words."""
    assert result.code == 2, result
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    [line] = lines
    assert line.startswith("guestledger: ")
    for word in words:
        assert word in line
