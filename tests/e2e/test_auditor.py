"""The commands for who is to read and nothing else: a user with the auditor's role."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.consent import Guest
from guestledger.engine.domain.personal import personal_fields
from tests import logs, postgres
from tests.e2e import guests, raw_log
from tests.e2e.command import assert_one_line, environment, logged, run
from tests.keys import KEY
from tests.unit.samples import consent, request

EVENTS = 25
READING = (
    ("sessions",),
    ("metrics",),
    ("audit",),
    ("events",),
    ("consumers",),
    ("retention",),
    ("hold", "--list"),
    ("projections", "list"),
    ("verify",),
    ("replay", "sess_00000000"),
    ("consent", "sess_00000000"),
)


def settings_of(database_url: str, simulator: Simulator) -> Settings:
    return Settings(
        encryption_key=KEY,
        database_url=database_url,
        cxone_url=simulator.url,
        cxone_client_id=simulator.client_id,
        cxone_client_secret=simulator.client_secret,
    )


@pytest.fixture
async def auditor(database_url: str) -> AsyncIterator[str]:
    """The URL of a user with the auditor's role; the projections have come up to the log."""
    await logs.write(database_url, EVENTS)
    async with connect(Settings(encryption_key=KEY, database_url=database_url), scheduler=False) as ledger:
        await ledger.projections.catch_up()
    async with postgres.new_login(postgres.as_administrator(database_url), "IN ROLE guestledger_auditor") as url:
        yield url


async def test_an_auditor_opens_a_ledger_whose_journal_lists_erasures(database_url: str, tmp_path: Path):
    settings = Settings(encryption_key=KEY, database_url=database_url, erasure_journal=tmp_path / "journal")
    async with connect(settings, scheduler=False) as ledger:
        session = await ledger.open_session(request(consent=consent(data_processing=False)))
        await ledger.erase(session=session.id, reason="asked for it", requested_by="privacy")
    async with postgres.new_login(postgres.as_administrator(database_url), "IN ROLE guestledger_auditor") as url:
        reading = Settings(database_url=url, erasure_journal=settings.erasure_journal)
        async with connect(reading, scheduler=False) as ledger:
            assert [entry.id async for entry in ledger.audit()] == [session.id]


async def test_auditor_can_run_all_reading_commands(auditor: str, tmp_path: Path):
    policy = tmp_path / "policy.json"
    policy.write_text('{"retention_days": 1}')
    reading = (*READING, ("what-if", "sess_00000000", "--policy", str(policy)))
    results = await asyncio.gather(*(run(*command, "--json", env=environment(auditor)) for command in reading))
    for command, result in zip(reading, results, strict=True):
        assert (result.code, result.err) == (0, ""), command
        assert result.out or command in {("consumers",), ("hold", "--list")}, command


async def test_auditor_gets_a_warning_about_events_not_yet_projected(auditor: str, database_url: str):
    env = environment(auditor)
    before = await run("sessions", "--json", env=env)
    await logs.write(database_url, 10, after=EVENTS - 1)

    behind = await run("sessions", "--json", env=env)
    others = await run("sessions", "--json", env=environment(database_url))
    caught_up = await run("sessions", "--json", env=env)

    assert (behind.code, behind.text) == (0, before.text)
    assert logged(behind.err) == (
        "this database user may not update the projections: "
        "the output lacks the last 10 events until a worker has projected them\n"
    )
    assert (caught_up.code, caught_up.text, caught_up.err) == (0, others.text, "")
    assert len(caught_up.out) > len(before.out) > 0


async def test_auditor_is_refused_other_commands_in_one_line(auditor: str, database_url: str, tmp_path: Path):
    before = await everything(database_url)
    file = guests.write_file(tmp_path, map(guests.guest, range(3)))
    async with Simulator() as simulator:
        env = environment(auditor, simulator)
        commands = [
            ("open", file),
            ("worker",),
            ("worker", "--until-idle"),
            ("projections", "rebuild", "sessions"),
            ("why", "sess_00000000"),  # which tells of the work, not of the log
        ]
        for result in await asyncio.gather(*(run(*command, env=env) for command in commands)):
            assert_one_line(result, "database user", "guestledger_runtime")
            assert result.text == ""
        assert not raw_log.sent_creations(simulator)
    assert await everything(database_url) == before


async def test_auditor_reads_no_personal_data(auditor: str, database_url: str):
    asked = request(idempotency_key="order 4711", subject_id="person 17")
    async with (
        Simulator() as simulator,
        connect(settings_of(database_url, simulator), scheduler=False) as ledger,
    ):
        session = await ledger.open_session(asked)
    assert session.guest is not None
    values = [getattr(session.guest, name) for name in personal_fields(Guest)] + [session.guest_token]
    connection = await asyncpg.connect(auditor.replace("+asyncpg", ""))
    for table in ("personal", "personal_index", "data_keys", "destroyed_keys"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch(f"SELECT FROM guestledger.{table}")
    log = await connection.fetchval(
        "SELECT string_agg(data::text, ' ') FROM guestledger.events WHERE stream_id = $1", session.id
    )
    await connection.close()
    assert session.session_id in log
    assert [value for value in values if value in log] == []


NEEDS_PRIVACY = (
    ("audit", "--ip", "203.0.113.7"),
    ("sessions", "--subject", "crm-1"),
    ("events", "--fingerprint", "f" * 64, "--json"),
    ("audit", "--reveal", "--reason", "ticket 4711", "--json"),
    ("events", "--reveal", "--reason", "ticket 4711", "--json"),
    ("replay", "sess_00000000", "--reveal", "--reason", "ticket 4711", "--json"),
)


async def test_auditor_learns_which_role_reads_personal_data(auditor: str, database_url: str):
    before = await everything(database_url)
    for result in await asyncio.gather(*(run(*command, env=environment(auditor)) for command in NEEDS_PRIVACY)):
        assert_one_line(result, "may not read personal data", "it lacks SELECT on personal", "guestledger_privacy")
        assert result.text == ""
        assert "203.0.113.7" not in result.err
    assert await everything(database_url) == before


async def test_a_privacy_user_without_the_key_learns_which_setting_is_missing(auditor: str, database_url: str):
    administrator = postgres.as_administrator(database_url)
    async with postgres.new_login(administrator, "IN ROLE guestledger_privacy") as url:
        env = environment(url, encryption_key="")
        for result in await asyncio.gather(*(run(*command, env=env) for command in NEEDS_PRIVACY)):
            assert_one_line(result, "key vault cannot be used", "GUESTLEDGER_ENCRYPTION_KEY")


async def test_auditor_verifies_the_projections_and_finds_a_changed_row(auditor: str, database_url: str):
    env = environment(auditor)
    before = await everything(database_url)
    same = await run("projections", "verify", "--json", env=env)
    by_runtime = await run("projections", "verify", "--json", env=environment(database_url))
    assert (same.code, same.err) == (0, "")
    assert same.out == by_runtime.out
    assert await everything(database_url) == before

    await raw_log.query(
        database_url, "UPDATE audit_log SET channel_id = 'ch_other' WHERE id = (SELECT id FROM audit_log LIMIT 1)"
    )
    changed = await run("projections", "verify", env=env)
    assert changed.code == 1
    assert "differs" in changed.text


COLUMN = {
    "events": "actor",
    "request_keys": "stream_id",
    "head": "id",
    "checkpoints": "position",
    "consumers": "position",
    "sessions": "status",
}


async def test_auditor_writes_nothing(auditor: str):
    connection = await asyncpg.connect(auditor.replace("+asyncpg", ""), server_settings={"search_path": "guestledger"})
    changes = ("INSERT INTO {t} SELECT * FROM {t}", "UPDATE {t} SET {c} = {c}", "DELETE FROM {t}", "TRUNCATE {t}")
    for table, column in COLUMN.items():
        for change in (*changes, "SELECT FROM {t} FOR UPDATE"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(change.format(t=table, c=column))
    await connection.close()


async def everything(database_url: str) -> list[object]:
    tables = ("events", "request_keys", "due_steps", "checkpoints", "consumers", "sessions")
    return [await raw_log.query(database_url, f"SELECT * FROM {table}") for table in tables]
