"""500 guests whose data is known: never in clear outside memory, and after their erasure nowhere at all."""

import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace
from sqlalchemy import make_url

from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.admin.embedded_cluster import DATABASE, SUPERUSER
from guestledger.adapters.postgres.admin.embedded_programs import Programs
from guestledger.adapters.postgres.admin.embedded_socket import PORT
from guestledger.adapters.postgres.admin.vault_tables import create_vault
from guestledger.adapters.postgres.log.reader import leaf_hash_of
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.ledger import Ledger
from tests.e2e import canaries
from tests.e2e.command import environment, run
from tests.keys import KEY

OPENED, REFUSED, IN_DOUBT, PENDING = 400, 40, 30, 30
APART = "keys_of_guests"
"""A database of the vault's own."""
EXPORTS = ("events", "sessions", "audit", "metrics")

pytestmark = pytest.mark.slow


class Machine:
    """All that a process leaves on a machine: its database's directory, a dump, log lines, what commands print."""

    def __init__(self, data_dir: Path, files: Path, env: dict[str, str], vault: str) -> None:
        self.vault = vault
        """The database of the keys."""
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
        for database in {DATABASE, self.vault}:
            dumped = programs.run("pg_dump", "-h", host, "-p", PORT, "-U", SUPERUSER, database)
            assert dumped.returncode == 0, dumped.stderr
            assert ("ConsentRecorded" if database == DATABASE else "data_keys") in dumped.stdout
            (self._files / f"{database}.sql").write_text(dumped.stdout)
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

    async def exported(self, request: GuestRequest) -> str:
        """What the guest gets on request. It is written to no file."""
        who = ("--subject", str(request.subject_id))
        return (await run("export", *who, "--reason", "a request", "--by", "dpo", env=self._env)).text

    async def query(self, statement: str, database: str = DATABASE) -> list[asyncpg.Record]:
        connection = await self.connect(database)
        try:
            found: list[asyncpg.Record] = await connection.fetch(statement)
            return found
        finally:
            await connection.close()

    async def connect(self, database: str) -> asyncpg.Connection:
        url = await _url(self._data_dir, database)
        return await asyncpg.connect(url.replace("+asyncpg", ""), server_settings={"search_path": "guestledger"})


async def _url(data_dir: Path, database: str) -> str:
    url = make_url(await start_embedded(data_dir))
    return url.set(database=database).render_as_string(hide_password=False)


async def _with_vault_apart(data_dir: Path) -> dict[str, str]:
    """Create a database for the vault, and return the settings that name it."""
    connection = await asyncpg.connect((await _url(data_dir, DATABASE)).replace("+asyncpg", ""))
    await connection.execute(f"CREATE DATABASE {APART}")
    await connection.close()
    await create_vault(vault_url := await _url(data_dir, APART), "guestledger")
    return {"vault_url": vault_url, "encryption_key": KEY}


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        yield running


@pytest.mark.parametrize("vault", [DATABASE, APART])
async def test_nothing_of_500_erased_guests_is_left_on_the_machine(
    data_dir: Path, tmp_path: Path, simulator: Simulator, caplog: pytest.LogCaptureFixture, vault: str
) -> None:
    caplog.set_level(logging.DEBUG)
    more = await _with_vault_apart(data_dir) if vault == APART else {}
    env = environment(None, simulator, data_dir=str(data_dir), **more)
    settings = Settings.from_env(env)
    machine = Machine(data_dir, tmp_path / "files", env, vault)
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
        asker = next(one for one in requests[REFUSED:] if one.subject_id is not None)
        assert asker.ip_address in await machine.exported(asker), "it can be read on request"

        await _erase_all(ledger, requests, sessions)

        await machine.query("VACUUM FULL personal, personal_index, data_keys")
        await machine.query("VACUUM FULL data_keys", vault)
        await machine.query("CHECKPOINT")
        assert await machine.exported(asker) == ""
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
    rows = [
        row
        for statement in statements
        for row in await machine.query(statement, machine.vault if "data_keys" in statement else DATABASE)
    ]
    found = [bytes.fromhex(row[0]) for row in rows]
    return canaries.recognisable(found)


async def _erase_all(ledger: Ledger, requests: Sequence[GuestRequest], sessions: Sequence[Any]) -> None:
    for request, session in zip(requests, sessions, strict=True):
        who = {"session": session} if request.subject_id is None else {"subject_id": request.subject_id}
        await ledger.erase(**who, reason="the test ends", requested_by="tests")
