"""docs/tutorial.md is run as it is, with its app.py: in one shell, from an empty directory."""

import asyncio
import json
import os
import re
import shutil
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import pytest

from tests.docs.blocks import ROOT, blocks_of
from tests.docs.scenario import BIN, LIMIT_S, commands_of
from tests.docs.shape import difference
from tests.ports import free_port

PAGE = ROOT / "docs" / "tutorial.md"
# The test has an environment of its own, in which all is installed.
NOT_RUN = re.compile(r"^(python3 -m venv|\. \.venv/|pip install) ?.*$", re.MULTILINE)
DONE = "the command has ended:"


class Shell:
    """A shell that keeps its variables and background jobs from one command to the next."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def open(cls, home: Path, data_dir: Path) -> AsyncIterator[Self]:
        environment = {
            "PATH": os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)]),
            "HOME": str(home),
            "GUESTLEDGER_DATA_DIR": str(data_dir),  # a page's reader has it in the usual place
        }
        process = await asyncio.create_subprocess_exec(
            "bash", "--norc", cwd=home, env=environment, stdin=PIPE, stdout=PIPE, stderr=STDOUT
        )
        shell = cls(process)
        try:
            yield shell
        finally:
            if process.returncode is None:
                await shell.run("kill -CONT $(jobs -p) 2>&-; kill $(jobs -p) 2>&-; wait; true")
                process.terminate()
                await process.wait()

    async def run(self, command: str) -> str:
        """What the command prints. Raises `AssertionError` if it fails."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{command}\necho\necho '{DONE}' $?\n".encode())
        lines: list[str] = []
        async with asyncio.timeout(LIMIT_S):
            while not (line := (await self._process.stdout.readline()).decode()).startswith(DONE):
                assert line, f"the shell has ended\n{command}\n{''.join(lines)}"
                lines.append(line)
        return "".join(lines).strip()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here: apt-get install curl")
async def test_tutorial_runs_from_an_empty_directory(tmp_path: Path, data_dir: Path) -> None:
    async with Shell.open(tmp_path, data_dir) as shell:
        await _run_page(shell, tmp_path, {"8400": str(free_port()), "8000": str(free_port())})
    assert not data_dir.joinpath("postgres", "postmaster.pid").exists()


async def _run_page(shell: Shell, home: Path, replaced: dict[str, str]) -> None:
    session = ""
    for block in blocks_of(PAGE):
        text = block.text
        for shown, real in {**replaced, "SESSION": session}.items():
            text = re.sub(rf"\b{shown}\b", real, text)
        if block.file:
            (home / "chat" / block.file).write_text(text)
            continue
        pairs = commands_of(text) if block.language == "console" else [(NOT_RUN.sub("", text), None)]
        for command, shown in pairs:
            if "$CHAT/" in command:
                await shell.run(f"kill -CONT $!; until {command} | grep active; do sleep 0.1; done")
            out = await _ended(shell, command)
            if shown is not None and (found := difference(shown, out)):
                raise AssertionError(f"{block}: the output differs from the one that is shown\n{found}")
            if out.startswith('{"id"') and not session:
                session = json.loads(out)["id"]
                # However slow this machine is, the session is still throttled when the page asks why.
                await shell.run("kill -STOP $!")


async def _ended(shell: Shell, command: str) -> str:
    """The output of a command that succeeds, and of nothing else."""
    out = await shell.run(f"{{ {command.rstrip()}\n}} && echo OK")
    assert out.endswith("OK"), f"{command}\n{out}"
    return out.removesuffix("OK")
