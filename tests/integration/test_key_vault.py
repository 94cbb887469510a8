"""The key vault: wrong keys, a database of its own, its outages, and no key without use."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace
from sqlalchemy import make_url

from guestledger.adapters.crypto.wrapping import keys_of_file, made_key_file
from guestledger.adapters.database import upgrade_database
from guestledger.adapters.postgres.errors import LedgerNotReady
from guestledger.adapters.postgres.personal.key_ring import WrongKey
from guestledger.adapters.postgres.personal.vault import PostgresKeyVault, VaultEmpty
from guestledger.adapters.settings import InvalidSettings, Settings
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.errors import ServiceUnreachable, SubjectErased
from guestledger.engine.domain.personal import Purpose, Sealed
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import RetryPolicy
from tests import postgres
from tests.integration.appends import an_append
from tests.integration.conftest import NewLedger, Sql
from tests.integration.plain_sql import connect_plainly
from tests.keys import KEY, NEW_KEY
from tests.unit.samples import IP, request, was_attempted, was_created, was_throttled


@pytest.fixture
async def vault_url(runtime_server: str) -> AsyncIterator[str]:
    """An empty database for a vault."""
    async with postgres.new_database(runtime_server) as url:
        yield url


@pytest.fixture
def apart(database_url: str, vault_url: str) -> Settings:
    """A ledger whose vault is a database of its own, and not created yet."""
    return Settings(database_url=database_url, vault_url=vault_url, encryption_key=KEY)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Ledger]:
    """The ledger of these settings, made ready as by `guestledger db upgrade`."""
    await upgraded(settings)
    async with connect(settings) as ledger:
        yield ledger


def at_simulator(settings: Settings, simulator: Simulator) -> Settings:
    return replace(
        settings,
        cxone_url=simulator.url,
        cxone_client_id=simulator.client_id,
        cxone_client_secret=simulator.client_secret,
    )


async def upgraded(settings: Settings) -> None:
    assert settings.database_url is not None
    owner = replace(settings, migration_url=postgres.as_administrator(settings.database_url))
    if settings.vault_url is not None:
        owner = replace(owner, vault_url=postgres.as_administrator(settings.vault_url))
    await upgrade_database(owner)


KEYS = "SELECT subject FROM guestledger.data_keys WHERE purpose <> 'index'"


async def rows(url: str, statement: str) -> list[Any]:
    connection = await connect_plainly(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def revealed(ledger: Ledger, session: Any) -> Any:
    return (await ledger._adapters.store.read_stream(session.id, reveal=True))[0].event


async def test_a_process_with_another_key_is_refused_when_it_opens_the_ledger(database_url: str) -> None:
    settings = Settings(database_url=database_url, encryption_key=KEY)
    async with connect(settings):
        pass

    for scheduler in (True, False):
        with pytest.raises(
            WrongKey,
            match=r"^the key vault cannot be used: its keys are wrapped by .*: check GUESTLEDGER_ENCRYPTION_KEY$",
        ):
            async with connect(replace(settings, encryption_key=NEW_KEY), scheduler=scheduler):
                pass


async def test_a_worker_without_a_key_is_refused_and_a_reader_is_not(database_url: str) -> None:
    with pytest.raises(InvalidSettings, match=r"GUESTLEDGER_ENCRYPTION_KEY, .* are not set"):
        async with connect(Settings(database_url=database_url)):
            pass
    async with connect(Settings(database_url=database_url), scheduler=False) as ledger:
        assert [row async for row in ledger.sessions()] == []


async def test_a_vault_apart_holds_the_keys_and_the_ledger_none(apart: Settings) -> None:
    async with opened(apart) as ledger:
        session = await ledger.accept(request())
        assert (await revealed(ledger, session)).guest.ip_address == IP

    assert await rows(apart.vault_url, "SELECT purpose FROM guestledger.data_keys ORDER BY 1") == [
        ("contact",),
        ("index",),
    ]
    assert await rows(apart.database_url, "SELECT FROM guestledger.data_keys") == []
    tables = (
        "SELECT relname FROM pg_class WHERE relnamespace = 'guestledger'::regnamespace AND relkind = 'r' ORDER BY 1"
    )
    assert await rows(apart.vault_url, tables) == [("data_keys",), ("wrapping_keys",)]


async def test_a_vault_that_was_not_created_is_named_in_one_line(apart: Settings) -> None:
    with pytest.raises(LedgerNotReady, match=r"^the key vault's database has no key vault in schema 'guestledger'$"):
        async with connect(apart):
            pass


async def test_one_database_without_the_other_is_unreadable(apart: Settings, runtime_server: str) -> None:
    async with opened(apart) as ledger:
        session = await ledger.accept(request())

    async with postgres.new_database(runtime_server) as elsewhere:
        for vault in (None, elsewhere):
            with pytest.raises(VaultEmpty, match="holds no keys of this ledger, which has personal data"):
                async with opened(replace(apart, vault_url=vault)):
                    pass
    async with connect(Settings(database_url=apart.database_url), scheduler=False) as ledger:
        history = await ledger.history(session.id)
        assert isinstance(history[0].event.guest.ip_address, Sealed)
    ledgers = await rows(apart.vault_url, "SELECT count(*) FROM pg_class WHERE relname IN ('events', 'personal')")
    assert ledgers == [(0,)]


async def test_the_vault_of_another_ledger_is_refused(
    apart: Settings, runtime_server: str, migrated_template: str
) -> None:
    async with opened(apart):
        pass
    async with postgres.new_database(runtime_server) as other:
        second = replace(apart, database_url=other)
        with pytest.raises(WrongKey, match="it holds keys of another ledger"):
            async with opened(second):
                pass


async def test_an_append_rides_out_a_short_outage_of_the_vault(apart: Settings) -> None:
    async with opened(apart) as ledger:
        async with outage_of(apart.vault_url):
            accepting = asyncio.create_task(ledger.accept(request()))
            await asyncio.sleep(1)
            assert not accepting.done()
        session = await accepting
        assert (await revealed(ledger, session)).guest.ip_address == IP


async def test_an_outage_of_the_vault_holds_up_no_append_that_needs_no_key(apart: Settings) -> None:
    async with opened(apart) as ledger:
        await ledger.accept(request())
        async with outage_of(apart.vault_url):
            accepting = asyncio.create_task(ledger.accept(request()))
            await asyncio.sleep(0.1)
            await ledger._adapters.store.append(an_append(events=(was_throttled(),)))
            assert not accepting.done()
        await accepting


async def test_a_worker_records_what_needs_no_key_in_an_outage_of_the_vault(apart: Settings) -> None:
    await upgraded(apart)
    overdue = Policy(creation=RetryPolicy(deadline_ms=1))
    async with (
        connect(apart, policy=overdue, scheduler=False) as ledger,
        connect(apart, policy=overdue, scheduler=False) as worker,
    ):
        session = await ledger.accept(request())
        async with outage_of(apart.vault_url), asyncio.timeout(60):
            while (await worker.session(session.id)).status is not Status.ABANDONED:
                await worker.scheduler.run_once()


async def test_an_outage_of_the_vault_is_one_warning_with_its_cause(
    apart: Settings, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    settings = at_simulator(apart, simulator)
    await upgraded(settings)
    async with connect(settings, scheduler=False) as ledger, connect(settings, scheduler=False) as worker:
        for _ in range(3):
            await ledger.accept(request())
        async with outage_of(apart.vault_url):
            for _ in range(3):
                await worker.scheduler.run_once()
    waits = [message for message in caplog.messages if message.startswith("the scheduler has to wait")]
    assert len(waits) == 1
    assert "the key vault cannot be used" in waits[0]
    assert "is missing" not in waits[0]


async def test_who_asks_for_a_key_that_another_process_is_making_gets_it(
    apart: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(apart) as ledger:
        await ledger.accept(request(subject_id="person-1"))
        vault = ledger._adapters.vault
        assert isinstance(vault, PostgresKeyVault)
        fetch, asked, go = vault._database.fetch, asyncio.Event(), asyncio.Event()

        async def fetch_nothing_first(statement: str, *values: Any) -> Any:
            if statement != vault._statements.get_or_make or asked.is_set():
                return await fetch(statement, *values)
            asked.set()
            await go.wait()
            return []  # as if another process made the key at the same moment

        monkeypatch.setattr(vault._database, "fetch", fetch_nothing_first)
        first = asyncio.create_task(vault.key_of(b"person-2", Purpose.CONTACT))
        await asked.wait()
        second = asyncio.create_task(vault.key_of(b"person-2", Purpose.CONTACT))
        await asyncio.sleep(0)
        go.set()
        async with asyncio.timeout(60):
            assert await first is await second


async def test_a_key_that_does_not_unwrap_stops_its_session_alone(
    new_ledger: NewLedger, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    async with new_ledger() as ledger:
        spoilt, *others = [await ledger.accept(request()) for _ in range(3)]
    await sql("UPDATE data_keys SET wrapped = '\\x00' WHERE subject = uuid_send($1)", spoilt.id)
    async with new_ledger() as worker, asyncio.timeout(60):
        await worker.scheduler.run_once()
        found = [(await worker.session(session.id)).status for session in (spoilt, *others)]
    assert (found[0] is Status.ACTIVE, *found[1:]) == (False, Status.ACTIVE, Status.ACTIVE)
    assert caplog.text.count("they were changed") == 1


async def test_a_long_outage_is_one_of_the_vault_and_shows_in_the_health(
    apart: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(apart) as ledger:
        assert (await ledger.health()).key_vault is None
        monkeypatch.setattr(ledger._adapters.store, "_patience", 0.2)
        async with outage_of(apart.vault_url):
            with pytest.raises(ServiceUnreachable, match=r"^the key vault cannot be used: ") as raised:
                await ledger.accept(request())
            assert raised.value.service == "key vault"
            assert raised.value.accepted is None
            health = await ledger.health()
            assert health.key_vault is not None
            assert health.key_vault.startswith("the key vault cannot be used: ")
            assert health.database is None
        monkeypatch.undo()
        await ledger.accept(request())
        assert (await ledger.health()).key_vault is None


@asynccontextmanager
async def outage_of(url: str) -> AsyncIterator[None]:
    """Nobody may connect to this database within the block."""
    database = make_url(url).database
    elsewhere = make_url(postgres.as_administrator(url)).set(drivername="postgresql", database="postgres")
    connection = await asyncpg.connect(elsewhere.render_as_string(hide_password=False))
    try:
        await connection.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false')
        await connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")
        yield
        await connection.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
    finally:
        await connection.close()


@pytest.mark.parametrize("until_idle", [False, True])
async def test_a_vault_apart_gives_up_the_keys_of_what_was_erased(
    apart: Settings, simulator: Simulator, until_idle: bool
) -> None:
    settings = replace(at_simulator(apart, simulator), retention_days=0)
    simulator.config = SimulatorConfig(session_lifetime_s=0)
    await upgraded(settings)
    async with connect(settings, scheduler=False) as ledger:
        await ledger.open_session(request())
        await ledger.open_session(request(subject_id="person-1"))
        assert len(await rows(apart.vault_url, KEYS)) == 4
        await (ledger.scheduler.run_until_idle() if until_idle else ledger.scheduler.run_once())
    assert await rows(apart.database_url, "SELECT FROM guestledger.personal") == []
    assert len(await rows(apart.vault_url, KEYS)) == 2, "those of the person, for the next session"
    assert await rows(apart.database_url, "SELECT FROM guestledger.destroyed_keys WHERE NOT gone") == []


@pytest.mark.parametrize("is_apart", [False, True])
async def test_a_repeated_request_leaves_no_key_behind(apart: Settings, is_apart: bool) -> None:
    settings = apart if is_apart else replace(apart, vault_url=None)
    keyed = replace(request(), idempotency_key="order-4711", subject_id=None)
    async with opened(settings) as ledger:
        sessions = [await ledger.accept(keyed) for _ in range(5)]

    assert len({session.id for session in sessions}) == 1
    subjects = await rows(
        settings.vault_url or settings.database_url, "SELECT DISTINCT subject FROM guestledger.data_keys"
    )
    assert {subject for (subject,) in subjects} == {b"", sessions[0].id.bytes}


async def test_a_key_that_was_destroyed_elsewhere_is_made_anew_for_the_next_session(apart: Settings, sql: Sql) -> None:
    settings = replace(apart, vault_url=None)
    guest = replace(request(), subject_id="customer-1", idempotency_key=None)
    async with opened(settings) as ledger:
        await ledger.accept(guest)
        await sql(
            """
            WITH gone AS (DELETE FROM data_keys WHERE purpose = 'contact' RETURNING key_id)
            INSERT INTO destroyed_keys SELECT key_id, now() FROM gone"""
        )
        session = await ledger.accept(guest)
        assert (await revealed(ledger, session)).guest.ip_address == IP


async def test_a_process_that_has_read_a_session_seals_for_it_without_a_query(apart: Settings) -> None:
    settings = replace(apart, vault_url=None)
    async with opened(settings) as ledger:
        session = await ledger.accept(request())
    created = an_append(session.id, 1, [was_attempted(), was_created()])
    async with connect(settings) as other:
        personal: Any = other._adapters.personal
        assert personal.seal_now(created) is None
        await revealed(other, session)
        assert [row.purpose for row in personal.seal_now(created).rows] == ["access"]


async def test_nothing_is_sealed_for_a_session_that_is_read_again_once_it_was_erased(apart: Settings) -> None:
    settings = replace(apart, vault_url=None)
    async with opened(settings) as ledger, connect(settings) as other:
        session = await ledger.accept(request())
        await revealed(other, session)
        await ledger.erase(session=session.id, reason="asked for", requested_by="ops")
        await revealed(other, session)
        version = len(await ledger.history(session.id))
        with pytest.raises(SubjectErased):
            await other._adapters.store.append(an_append(session.id, version, [was_attempted()]))


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = made_key_file(tmp_path / "a.key")
    assert path.stat().st_mode & 0o777 == 0o600
    [key] = keys_of_file(path, "SETTING")
    assert made_key_file(path).read_bytes() == path.read_bytes()
    path.write_text(f"{NEW_KEY}\n{path.read_text()}")
    assert [one.id for one in keys_of_file(path, "SETTING")][1] == key.id
    path.chmod(0o644)
    with pytest.raises(InvalidSettings, match=r"^SETTING: other users can read .*a\.key: run chmod 600 on it$"):
        keys_of_file(path, "SETTING")
