"""Every command, where something outside the program's control is wrong: never a traceback."""

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest
import typer
from sqlalchemy import make_url

from guestledger.adapters.cli.main import app
from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.simulator import Simulator
from tests import postgres
from tests.e2e import guests
from tests.e2e.command import ROOT, Result, ended, environment, run

pytestmark = pytest.mark.slow

# Each command with arguments that lead it as far as it goes. ID is a session, FILE guest requests, POLICY a change of policy.
COMMANDS = [
    "open FILE",
    "open - --no-wait",
    "worker --until-idle",
    "sessions",
    "sessions --json",
    "metrics",
    "metrics --by-day",
    "audit",
    "audit --json",
    "audit --csv",
    "audit --ip 203.0.113.1",
    "audit --json --reveal --reason none",
    "find --around 02:14",
    "find --session ID --json",
    "find --ip 203.0.113.1 --key none",
    "replay ID",
    "replay ID --json",
    "what-if ID --policy POLICY",
    "what-if --all --policy POLICY --json",
    "replay ID --step",
    "replay ID --diff 0 3",
    "replay ID --html /dev/null/session.html",
    "why ID",
    "consent ID",
    "consent ID --json",
    "consent --check",
    "withdraw ID --marketing",
    "withdraw ID",
    "withdraw --subject nobody",
    "resolve ID retry --reason none",
    "resolve ID adopt --reason none --session-id s --expires-at 2030-01-01 --token-file -",
    "limits",
    "limits --reset nobody",
    "events",
    "events --json",
    "verify",
    "consumers",
    "consumers --forget nobody",
    "retention",
    "hold --session ID --reason none",
    "hold --subject nobody --reason none --release",
    "hold --list",
    "export --session ID --reason none",
    "export --session ID --reason none -o /dev/null/person.json",
    "demo --sessions 2",
    "webhooks list",
    "webhooks redeliver ID",
    "webhooks redeliver --all",
    "projections list",
    "projections rebuild sessions",
    "projections verify",
    "partitions list",
    "partitions detach 2020-01",
    "partitions attach 2020-01",
    "partitions settle",
    "keys",
    "keys --json",
    "keys rotate",
    "erase --session ID --reason none",
    "erase --unfinished",
    "erase --replay FILE",
    "db upgrade",
    "db restored",
    "db stop",
]
OWN_LINE = re.compile(r"([-:.T0-9]+Z (WARNING|ERROR) )?guestledger: ")
NO_NAME = 54_321
AS_NOBODY = (
    *("setpriv", f"--reuid={NO_NAME}", f"--regid={NO_NAME}", "--clear-groups"),
    # It may read our checkout, wherever that is.
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)


class Condition(NamedTuple):
    """What is wrong: the environment of the commands, and how they are started."""

    env: dict[str, str]
    redirection: str = ""
    prefix: tuple[str, ...] = ()


class Given(NamedTuple):
    """A ledger with a session, in a server that works."""

    database_url: str
    env: dict[str, str]
    simulator: Simulator
    place: Path


@asynccontextmanager
async def no_database(given: Given) -> AsyncIterator[Condition]:
    away = "postgresql://ledger:secret@127.0.0.1:1/ledger"
    yield Condition(given.env | environment(away, migration_url=away))


@asynccontextmanager
async def read_only_database(given: Given) -> AsyncIterator[Condition]:
    url = make_url(postgres.as_administrator(given.database_url))
    connection = await asyncpg.connect(url.render_as_string(hide_password=False).replace("+asyncpg", ""))
    try:
        await connection.execute(f"ALTER DATABASE {url.database} SET default_transaction_read_only = on")
    finally:
        await connection.close()
    yield Condition(given.env)


@asynccontextmanager
async def full_disk(given: Given) -> AsyncIterator[Condition]:
    with small_disk(given.place) as disk:
        env = {name: text for name, text in given.env.items() if not name.endswith(("DATABASE_URL", "MIGRATION_URL"))}
        env["GUESTLEDGER_DATA_DIR"] = str(disk / "data")
        await start_embedded(disk / "data")
        opened = await run("open", "-", env=env, stdin=guests.as_lines([guests.guest(1)]))
        assert opened.code == 0, opened.err
        fill(disk)
        try:
            yield Condition(env)
        finally:
            (disk / "filler").unlink()
            await run("db", "stop", env=env)
            await run("db", "stop", env=env | {"GUESTLEDGER_DATA_DIR": str(disk / "data" / "demo")})


@asynccontextmanager
async def closed_stdout(given: Given) -> AsyncIterator[Condition]:
    yield Condition(given.env, ">&-")


@asynccontextmanager
async def full_stdout(given: Given) -> AsyncIterator[Condition]:
    yield Condition(given.env, "> /dev/full")


@asynccontextmanager
async def closed_stdin_and_stderr(given: Given) -> AsyncIterator[Condition]:
    yield Condition(given.env, "<&- 2>&-")


@asynccontextmanager
async def ascii_terminal(given: Given) -> AsyncIterator[Condition]:
    yield Condition(given.env | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})


@asynccontextmanager
async def unknown_user(given: Given) -> AsyncIterator[Condition]:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become a user without a name")
    env = {name: text for name, text in given.env.items() if not name.endswith("DATA_DIR")}
    yield Condition(env, prefix=AS_NOBODY)


CONDITIONS: list[Callable[[Given], AbstractAsyncContextManager[Condition]]] = [
    no_database,
    read_only_database,
    full_disk,
    closed_stdout,
    full_stdout,
    closed_stdin_and_stderr,
    ascii_terminal,
    unknown_user,
]


@pytest.fixture
async def given(database_url: str, data_dir: Path) -> AsyncIterator[Given]:
    async with Simulator() as simulator:
        env = environment(
            database_url, simulator, migration_url=postgres.as_administrator(database_url), data_dir=str(data_dir)
        )
        yield Given(database_url, env, simulator, data_dir)
        await run("db", "stop", env=env | {"GUESTLEDGER_DATA_DIR": str(data_dir / "demo")})


def test_every_command_is_tried_here():
    names = set(commands_of(typer.main.get_command(app)))
    assert {name for name in names if any(command.startswith(name) for command in COMMANDS)} == names


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.__name__)
async def test_no_command_ends_in_a_traceback(condition, given: Given):
    request = guests.as_lines([guests.guest(1, channelId="ch_é")])
    file = given.place / "requests.jsonl"
    file.write_bytes(request)
    file.chmod(0o644)
    opened = await run("open", str(file), env=given.env)
    assert opened.code == 0, opened.err
    policy = given.place / "policy.json"
    policy.write_text('{"webhook_enabled": false}')
    policy.chmod(0o644)
    places = {"ID": opened.out[0]["id"], "FILE": str(file), "POLICY": str(policy)}

    async with condition(given) as wrong:
        results: dict[str, Result] = {}
        a_few = asyncio.Semaphore(4)

        async def end(command: str) -> None:
            async with a_few:
                words = [places.get(word, word) for word in command.split()]
                results[command] = await run_under(wrong, words, request)

        *first, last = COMMANDS
        await asyncio.gather(*map(end, first))
        await end(last)  # it stops the database of the others

    for command, result in results.items():
        assert result.code in (0, 1, 2), (command, result)
        assert all(map(OWN_LINE.match, result.err.splitlines())), (command, result.err)


async def run_under(condition: Condition, words: list[str], stdin: bytes) -> Result:
    program = (sys.executable, "-m", "guestledger.adapters.cli.main", *words)
    shell = ("sh", "-c", f'exec "$@" {condition.redirection}', "sh")
    process = await asyncio.create_subprocess_exec(
        *shell, *condition.prefix, *program, env=condition.env, cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    return await ended(process, stdin)


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of 256 MB."""
    disk = place / "disk"
    disk.mkdir(mode=0o755)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256m,mode=755", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system can be mounted only by root, and not in every container")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(1 << 16)):
            pass


def commands_of(command: object, name: str = "") -> Iterator[str]:
    nested = getattr(command, "commands", None)
    if not nested:
        yield name
        return
    for word, inner in nested.items():
        yield from commands_of(inner, re.sub(r"^ ", "", f"{name} {word}"))
