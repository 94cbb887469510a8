"""A small prepared ledger for each page, and what runs the page's blocks on it."""

import ast
import asyncio
import inspect
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from shlex import quote
from typing import Any

import asyncpg
from msgspec.structs import replace
from sqlalchemy import make_url

from guestledger import (
    GuestConsent,
    GuestRequest,
    InDoubt,
    Ledger,
    Session,
    Settings,
    Simulator,
    SimulatorConfig,
    connect,
)
from guestledger.adapters.settings import variable
from tests import postgres
from tests.api import Api
from tests.docs.blocks import ROOT, Block
from tests.docs.shape import difference
from tests.keys import KEY

BIN = Path(sys.executable).parent
LIMIT_S = 60
"""Only so that a hang fails."""
LONG_WAIT_S = 600

# Commands that run until a signal.
_ENDLESS = re.compile(r"^(guestledger worker|guestledger events --follow|guestledger serve --port 0)$", re.MULTILINE)
_SERVE = re.compile(r"^guestledger serve$", re.MULTILINE)
# Neither installing nor the whole of `make demo` and `make test` is run here: only whether such targets exist.
_NOT_RUN = re.compile(r"^pip install .*$", re.MULTILINE)
# A free port: the one that a page names may be in use.
_PORT = re.compile(r"-P \d+")
_MAKE = re.compile(r"^make ", re.MULTILINE)
_PRIVACYS = re.compile(r" --(?:subject|ip|fingerprint|reveal) ")
_OWNERS = re.compile(r"guestledger (?:partitions|db) ")


def guest(number: int = 0, *, consents: bool = True) -> GuestRequest:
    """A guest on the channel that the pages name."""
    return GuestRequest(
        channel_id="ch_8f3a9b2c",
        ip_address=f"203.0.113.{number}",
        user_agent="Mozilla/5.0",
        timestamp="2024-05-20T14:21:59Z",
        consent=GuestConsent(data_processing=consents, gdpr_compliant=True, notice="privacy-2026-04"),
        subject_id=f"crm-{1_000 + number}",
    )


class Scenario:
    """A ledger with sessions in the states that a page speaks of, and the simulator."""

    def __init__(
        self, url: str, directory: Path, simulator: Simulator, programs: Path, login: str, privacy: str
    ) -> None:
        self.directory = directory
        self.simulator = simulator
        self.settings = Settings(
            encryption_key=KEY,
            database_url=url,
            cxone_url=simulator.url,
            cxone_client_id=simulator.client_id,
            cxone_client_secret=simulator.client_secret,
            webhook_url=simulator.webhook_url,
            webhook_allow_private=True,
        )
        self._login = login
        self._privacy = privacy
        self._programs = programs
        self.api: Api | None = None
        """Where the page's requests go."""
        self.session: Session | None = None
        """The one that the page's commands name, if it is always the same."""
        self.replaced: dict[str, str] = {}
        """What else stands for something of this scenario in the page's commands."""
        self._stack = AsyncExitStack()
        self._names: dict[str, Any] = {}
        self.active: Session | None = None
        self.parked: list[Session] = []
        self.dead_letter: Session | None = None
        self.throttled: Session | None = None

    async def prepare(self, *, parked: int = 0, throttled: bool = False) -> None:
        """Make sessions: one active, one refused, one with a dead letter, and those that are asked for."""
        usual = SimulatorConfig(webhook_hang_s=0.01)  # a timeline shows a call only if it takes a millisecond
        async with connect(self.settings, scheduler=False) as ledger:
            self.active = await ledger.open_session(guest(1))
            await ledger.open_session(guest(2, consents=False))
            await ledger.scheduler.run_once()
            self.simulator.config = replace(usual, webhook_status=410)
            self.dead_letter = await ledger.open_session(guest(3))
            await ledger.scheduler.run_once()
        self.simulator.config = replace(usual, drop_share=1.0)
        parking = replace(self.settings, cxone_in_doubt=InDoubt.PARK)
        async with connect(parking, scheduler=False) as ledger:
            self.parked = [await ledger.open_session(guest(10 + number)) for number in range(parked)]
        self.simulator.config = usual
        if throttled:
            await self._throttle()

    async def _throttle(self) -> None:
        """Open a session that the simulator throttles. Its limiter stays closed."""
        self.simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=LONG_WAIT_S)
        async with connect(self.settings, scheduler=False) as ledger:
            ledger._adapters.clock.jitter = lambda: 0.9  # type: ignore[method-assign]  # the wait outlasts the pause, as most do
            self.throttled = await ledger.open_session(guest(4))

    async def run(self, block: Block) -> None:
        """Run a block as its language says. Raises `AssertionError`, naming the page and line."""
        if block.file is not None:
            (self.directory / block.file).write_text(block.text)
        elif block.language == "sh":
            await self._shell(block, block.text)
        elif block.language == "console":
            for command, shown in commands_of(block.text):
                if command == "guestledger limits" and self.session is None:
                    await self._throttle()
                run = self._first_line if command.startswith("python -m ") else self._shell
                self._compare(block, shown, await run(block, command))
        elif block.language == "sql":
            await self._sql(block.text)
        elif block.language == "python" and "asyncio.run(" in block.text:
            await self._program(block)
        elif block.language == "python":
            await self._cell(block)

    def _compare(self, block: Block, shown: str, real: str) -> None:
        found = difference(shown, real)
        assert found is None, f"{block}: the output differs from the one that is shown\n{found}"

    async def _shell(self, block: Block, text: str) -> str:
        text = _SERVE.sub("guestledger serve --port 0", _NOT_RUN.sub("", self._filled_in(text)))
        text = _MAKE.sub(lambda _make: f"make --directory {quote(str(ROOT))} --dry-run ", text)
        # A signal has to reach the process itself, so this is the program that is installed.
        text = _ENDLESS.sub(
            lambda found: f"timeout --preserve-status --signal TERM 2 {quote(str(BIN))}/{found[1]}", text
        )
        code, out = await self._process(["bash", "-euo", "pipefail", "-c", text], self.environment(text))
        # Stopped before it has begun, `events --follow` says so by its exit code.
        assert code == 0 or (code == 143 and "timeout" in text), f"{block}: exit code {code}\n{text}\n{out}"
        return out

    async def _first_line(self, block: Block, command: str) -> str:
        """The first line of a command that then runs until it is stopped."""
        process = await asyncio.create_subprocess_shell(
            f"exec {quote(str(BIN))}/{_PORT.sub('-P 0', command)}",
            cwd=self.directory,
            env=self.environment(command),
            stdout=PIPE,
        )
        assert process.stdout
        async with asyncio.timeout(LIMIT_S):
            line = await process.stdout.readline()
            process.terminate()
            await process.communicate()
        assert process.returncode == 0, f"{block}: exit code {process.returncode}"
        return line.decode()

    async def _program(self, block: Block) -> None:
        file = self.directory / "program.py"
        file.write_text(block.text)
        code, out = await self._process([sys.executable, str(file)], self.environment(""))
        assert code == 0, f"{block}: exit code {code}\n{out}"
        assert out.strip(), f"{block}: it prints nothing"

    async def _process(self, arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *arguments, cwd=self.directory, env=environment, stdin=PIPE, stdout=PIPE, stderr=STDOUT
        )
        async with asyncio.timeout(LIMIT_S):
            out, _ = await process.communicate(b"")
        assert process.returncode is not None
        return process.returncode, out.decode()

    async def _sql(self, text: str) -> None:
        connection = await asyncpg.connect(_plain(postgres.as_administrator(self.url)))
        created = re.findall(r"CREATE ROLE (\w+)", text)
        try:
            await connection.execute(text)
        finally:
            for role in created:
                await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
            await connection.close()

    async def _cell(self, block: Block) -> None:
        """Run a block with `await` at the top level, in the names that the blocks before it left."""
        if not self._names:
            self._names = await self._open_names()
        text = self._filled_in(block.text)
        code = compile(text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        try:
            async with asyncio.timeout(LIMIT_S):
                running = eval(code, self._names)
                if inspect.isawaitable(running):
                    await running
        except Exception as error:
            raise AssertionError(f"{block}: {error!r}") from error

    async def _open_names(self) -> dict[str, Any]:
        ledger: Ledger = await self._stack.enter_async_context(connect(self.settings, scheduler=False))
        connection = await asyncpg.connect(_plain(str(self.settings.database_url)))
        self._stack.push_async_callback(connection.close)
        return {
            "ledger": ledger,
            "settings": self.settings,
            "request": guest(5),
            "session": self.active,
            "parked": self.parked.pop() if self.parked else None,
            "connection": connection,
            "asyncio": asyncio,
        }

    def call_at_the_end(self, closing: Callable[[], Awaitable[object]]) -> None:
        """Have `closing` called when the scenario ends."""
        self._stack.push_async_callback(closing)

    async def close(self) -> None:
        """End what the blocks started."""
        tasks = [value for value in self._names.values() if isinstance(value, asyncio.Task)]
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await self._stack.aclose()
        failed = [error for error in ended if isinstance(error, Exception)]
        assert not failed

    @property
    def url(self) -> str:
        """The database's URL, for the login of the page's commands."""
        return self._url_of(self._login)

    def _url_of(self, login: str) -> str:
        url = make_url(self.settings.database_url or "")
        user = make_url(login)
        return url.set(username=user.username, password=user.password).render_as_string(hide_password=False)

    def environment(self, command: str) -> dict[str, str]:
        """The environment of a command. What changes tables or computes rows logs in as who may."""
        needs_runtime = "projections verify" in command
        url = self._url_of(self._privacy if _PRIVACYS.search(command) else self._login)
        settings = self.settings if needs_runtime else replace(self.settings, database_url=url)
        named = {
            variable(name): "1" if value is True else str(value)
            for name in Settings.__struct_fields__
            if (value := getattr(settings, name)) not in (None, False)
        }
        if _OWNERS.search(command):
            named[variable("migration_url")] = postgres.as_administrator(self.url)
        return {
            "PATH": os.pathsep.join([str(self._programs), str(BIN), os.environ.get("PATH", os.defpath)]),
            "HOME": str(self.directory),
            "PYTHONUNBUFFERED": "1",  # the first line is awaited
            "GUEST_TOKEN": "gt_7x2k9m4p8q1w",
            **({f"{role.upper()}_KEY": key for role, key in self.api.keys.items()} if self.api else {}),
            **named,
        }

    def _filled_in(self, text: str) -> str:
        """`text` with this scenario's ids and addresses in place of those that the page shows."""
        text = re.sub(r"\bSESSION\b", "{}", text.replace("{", "{{").replace("}", "}}"))
        pieces = text.split("{}")
        filled = pieces[0]
        for piece in pieces[1:]:
            filled += str(self._session_for(filled.rpartition("\n")[2]).id) + piece
        filled = filled.replace("{{", "{").replace("}}", "}")
        administrator = postgres.as_administrator(self.url)
        addresses = {
            "postgresql+asyncpg://app@host/app": self.url,
            "postgresql://postgres@host/app": administrator,
            "api.example.com": make_url(self.simulator.url).render_as_string().partition("//")[2],
        }
        if self.api is not None:
            addresses["http://127.0.0.1:8080"] = self.api.url
        for shown, real in {**addresses, **self.replaced}.items():
            filled = filled.replace(shown, real)
        return filled

    def _session_for(self, command: str) -> Session:
        """The session that a command is shown with."""
        if self.session is not None:
            return self.session
        if "resolve" in command:
            return self.parked.pop()
        found = self.dead_letter if "redeliver" in command else None
        found = found or (self.throttled if "why" in command or "what-if" in command else None) or self.active
        assert found is not None
        return found


def commands_of(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output below it."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert not parts[0].strip(), "a console block begins with `$ `"
    pairs = (part.partition("\n") for part in parts[1:])
    return [(command, shown) for command, _, shown in pairs]


def _plain(url: str) -> str:
    return url.replace("+asyncpg", "")


@asynccontextmanager
async def scenario(
    url: str,
    directory: Path,
    programs: Path = BIN,
    login: str = "",
    privacy: str = "",
    prepare: Callable[[Scenario], Awaitable[None]] | None = None,
    **wanted: Any,
) -> AsyncIterator[Scenario]:
    """A ledger in the database of `url`, whose commands log in as `login` does, those for personal data as `privacy`.

    It is prepared by `prepare`, or with what is `wanted`.
    """
    async with Simulator(port=0) as simulator:
        made = Scenario(url, directory, simulator, programs, login or url, privacy or login or url)
        try:
            await (made.prepare(**wanted) if prepare is None else prepare(made))
            yield made
        finally:
            await made.close()
