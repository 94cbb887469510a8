"""500 guests whose data is known: never in clear outside memory, and after their erasure nowhere at all."""

import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.admin.embedded_cluster import DATABASE, SUPERUSER
from guestledger.adapters.postgres.admin.embedded_programs import Programs
from guestledger.adapters.postgres.admin.embedded_socket import PORT
from guestledger.adapters.postgres.log.reader import leaf_hash_of
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.ledger import Ledger
from tests.e2e import canaries
from tests.e2e.command import environment, run

OPENED, REFUSED, IN_DOUBT, PENDING = 400, 40, 30, 30
EXPORTS = ("events", "sessions", "audit", "metrics")

pytestmark = pytest.mark.slow


class Machine:
    """All that a process leaves on a machine: its database's directory, a dump, log lines, what commands print."""

    def __init__(self, data_dir: Path, files: Path, env: dict[str, str]) -> None:
        self._data_dir = data_dir
        self._files = files
        self._env = env
        self._patterns = files.with_name("patterns")

    async def write_files(self, sessions: Sequence[Any], log: str) -> None:
        """Write dump, log lines and exports as they are now."""
        self._files.mkdir(exist_ok=True)
        (self._files / "log").write_text(log)
        programs = Programs(self._data_dir, self._data_dir / "postgres")
        host = (await self.query("SHOW unix_socket_directories"))[0][0]
        dumped = programs.run("pg_dump", "-h", host, "-p", PORT, "-U", SUPERUSER, DATABASE)
        assert dumped.returncode == 0, dumped.stderr
        assert "GuestErased" in dumped.stdout or "ConsentRecorded" in dumped.stdout
        (self._files / "dump.sql").write_text(dumped.stdout)
        commands = [(name, "--json") for name in EXPORTS] + [("webhooks", "list", "--json")]
        commands += [("replay", str(session), "--json") for session in sessions]
        for number, command in enumerate(commands):
            result = await run(*command, env=self._env)
            assert result.code == 0, result
            (self._files / f"export {number}").write_text(result.text + result.err)

    async def places_of(self, wanted: Sequence[bytes], *, below: str = "") -> list[str]:
        """The files that have any of these bytes; below a part of the data directory, if it is named."""
        places = [self._data_dir / "postgres" / below] if below else [self._data_dir, self._files]
        return await canaries.files_with(wanted, places, self._patterns)

    async def query(self, statement: str) -> list[asyncpg.Record]:
        connection = await self.connect()
        try:
            found: list[asyncpg.Record] = await connection.fetch(statement)
            return found
        finally:
            await connection.close()

    async def connect(self) -> asyncpg.Connection:
        url = await _url(self._data_dir)
        return await asyncpg.connect(url, server_settings={"search_path": "guestledger"})


async def _url(data_dir: Path) -> str:
    return (await start_embedded(data_dir)).replace("+asyncpg", "")


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        yield running


async def test_nothing_of_500_erased_guests_is_left_on_the_machine(
    data_dir: Path, tmp_path: Path, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    more = {"data_dir": str(data_dir)}
    env = environment(None, simulator, **more)
    settings = Settings.from_env(env)
    machine = Machine(data_dir, tmp_path / "files", env)
    requests = [canaries.guest(number, consents=number >= REFUSED) for number in range(500)]
    async with connect(settings, scheduler=False) as ledger:
        sessions, tokens = await _open_all(ledger, requests, simulator)
        wanted = canaries.values(requests, tokens)
        assert len(tokens) >= OPENED
        await machine.write_files(sessions[:3], caplog.text)
        await machine.query("CHECKPOINT")
        assert await machine.places_of(wanted) == [], "before the erasure, nothing is in clear"
        sealed = await _sealed(machine)
        assert await machine.places_of(sealed, below="base")

        await _erase_all(ledger, requests, sessions)

        for statement in ("VACUUM FULL personal, personal_index, data_keys", "CHECKPOINT"):
            await machine.query(statement)
        await machine.write_files(sessions[:3], caplog.text)
        assert await machine.places_of(wanted) == []
        assert await machine.places_of(sealed, below="base") == [], "ciphertexts, keys and hashes are deleted too"
        assert not await machine.query("SELECT FROM personal UNION ALL SELECT FROM personal_index")
        for name in ("sessions", "session_metrics", "audit_log"):
            assert (await ledger.projections.verify(name)).is_same
    for row in await machine.query("SELECT * FROM events"):
        assert leaf_hash_of(row) == row["leaf_hash"]


async def _open_all(
    ledger: Ledger, requests: Sequence[GuestRequest], simulator: Simulator
) -> tuple[list[Any], list[str]]:
    """Their sessions, in every kind of state, and the guest tokens."""
    opened = [await ledger.open_session(one) for one in requests[: REFUSED + OPENED]]
    await ledger.scheduler.run_once()
    usual = simulator.config
    simulator.config = replace(usual, drop_share=1.0)
    rest = requests[REFUSED + OPENED :]
    opened += [await ledger.open_session(one) for one in rest[:IN_DOUBT]]
    simulator.config = SimulatorConfig()
    opened += [await ledger.accept(one) for one in rest[IN_DOUBT:]]
    assert len(rest) == IN_DOUBT + PENDING
    return [one.id for one in opened], [one.guest_token for one in opened if one.guest_token is not None]


async def _sealed(machine: Machine) -> list[bytes]:
    """The ciphertexts, wrapped keys and keyed hashes of the guests."""
    statements = (
        "SELECT right(encode(sealed, 'hex'), 64) FROM personal",
        "SELECT encode(wrapped, 'hex') FROM data_keys WHERE purpose <> 'index'",
        "SELECT encode(ip_address, 'hex') FROM personal_index",
        "SELECT encode(fingerprint, 'hex') FROM personal_index",
    )
    found = [bytes.fromhex(row[0]) for statement in statements for row in await machine.query(statement)]
    return canaries.recognisable(found)


async def _erase_all(ledger: Ledger, requests: Sequence[GuestRequest], sessions: Sequence[Any]) -> None:
    for request, session in zip(requests, sessions, strict=True):
        who = {"session": session} if request.subject_id is None else {"subject_id": request.subject_id}
        await ledger.erase(**who, reason="the test ends", requested_by="tests")
