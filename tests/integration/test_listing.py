"""Lists of sessions and audit entries: any number of rows, in either order, left at any row."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from guestledger.adapters.postgres.projections.read_models import BATCH, PostgresReadModels
from guestledger.engine.projections.audit import AuditFilter
from guestledger.engine.projections.metrics import MetricsFilter
from guestledger.engine.projections.sessions import SessionFilter
from tests.e2e.command import environment

ROWS = 2 * BATCH + 300
LISTS = {"sessions": SessionFilter, "audit": AuditFilter}
AUDIT_ROWS = (
    "INSERT INTO audit_log (id, opened_at, timestamp, channel_id, consent_recorded, gdpr_compliant, compliance_status, "
    "refused_flags, webhook) SELECT gen_random_uuid(), now() - (n % 1_000) * interval '1 min', now(), 'ch_1', "
    f"true, true, 'pending', '{{}}', 'not_owed' FROM generate_series(1, {ROWS}) AS n"
)
SESSION_ROWS = (
    "INSERT INTO sessions (id, channel_id, status, version, opened_at, updated_at, attempts, in_doubt, webhook_owed) "
    "SELECT id, channel_id, 'pending', 1, opened_at, opened_at, 0, '{}', false FROM audit_log"
)

BREAKS_OFF = """
import asyncio
from guestledger import Settings, connect

async def main():
    async with connect(Settings.from_env(), scheduler=False) as ledger:
        async for row in ledger.sessions():
            print(row.status)
            break
        async for entry in ledger.audit():
            break

asyncio.run(main())
"""


@pytest.fixture
async def rows(outsider: asyncpg.Connection) -> int:
    """More rows in both lists than one batch has; several of each moment."""
    await outsider.execute(AUDIT_ROWS)
    await outsider.execute(SESSION_ROWS)
    return ROWS


async def listed(read_models: PostgresReadModels, name: str, **wanted: Any) -> list[Any]:
    return [row async for row in getattr(read_models, name)(LISTS[name](**wanted))]


@pytest.mark.parametrize("name", LISTS)
async def test_every_row_is_listed_once_in_either_order(name: str, rows: int, read_models: PostgresReadModels) -> None:
    oldest_first = await listed(read_models, name)
    newest_first = await listed(read_models, name, newest_first=True)

    at = [row.opened_at for row in oldest_first]
    assert len({row.id for row in oldest_first}) == len(oldest_first) == rows
    assert at == sorted(at)
    assert newest_first == oldest_first[::-1]


@pytest.mark.parametrize("name", LISTS)
async def test_a_limit_keeps_the_first_rows_of_the_order(name: str, rows: int, read_models: PostgresReadModels) -> None:
    oldest_first = await listed(read_models, name)

    assert await listed(read_models, name, limit=BATCH + 1) == oldest_first[: BATCH + 1]
    assert await listed(read_models, name, limit=3, newest_first=True) == oldest_first[:-4:-1]
    assert len(await listed(read_models, name, limit=rows + 1)) == rows


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("name", LISTS)
async def test_pages_continue_behind_the_last_row(
    name: str, newest_first: bool, rows: int, read_models: PostgresReadModels
) -> None:
    every = await listed(read_models, name, newest_first=newest_first)
    paged: list[Any] = []
    while page := await listed(
        read_models, name, newest_first=newest_first, limit=300, after=paged[-1].id if paged else None
    ):
        paged += page
    assert paged == every


async def test_sessions_are_selected_by_when_they_were_opened(rows: int, read_models: PostgresReadModels) -> None:
    every = await listed(read_models, "sessions")
    since, until = every[100].opened_at, every[-100].opened_at

    expected = [row for row in every if since <= row.opened_at < until]
    assert await listed(read_models, "sessions", since=since, until=until) == expected
    assert not await listed(read_models, "sessions", since=every[-1].opened_at + timedelta(microseconds=1))


@pytest.mark.parametrize("newest_first", [False, True])
async def test_an_entry_that_changes_while_the_list_is_read_is_listed_once(
    newest_first: bool, rows: int, read_models: PostgresReadModels, outsider: asyncpg.Connection
) -> None:
    found = []
    async for entry in read_models.audit(AuditFilter(newest_first=newest_first)):
        found.append(entry.id)
        if len(found) % BATCH == 1:  # an outcome changes its entry
            await outsider.execute("UPDATE audit_log SET timestamp = now() + random() * interval '1 h'")

    assert len(set(found)) == len(found) == rows


@pytest.mark.parametrize("name", LISTS)
async def test_no_connection_is_held_between_rows(
    name: str, rows: int, new_engine: Any, outsider: asyncpg.Connection
) -> None:
    read_models = PostgresReadModels(new_engine(pool_size=1), "guestledger")

    async with asyncio.timeout(20):
        left: list[AsyncIterator[Any]] = []
        for _ in range(3):
            left.append(getattr(read_models, name)(LISTS[name]()))
            await anext(left[-1])  # neither read to the end nor closed
        assert (await read_models.metrics(MetricsFilter())).pending == 0
    state = "SELECT state FROM pg_stat_activity WHERE application_name = 'guestledger' AND datname = current_database()"
    assert {row["state"] for row in await outsider.fetch(state)} == {"idle"}


async def test_a_process_that_leaves_a_list_early_prints_no_traceback(rows: int, ledger_url: str) -> None:
    left = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", BREAKS_OFF],
        env=environment(ledger_url),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (left.returncode, left.stdout, left.stderr) == (0, "pending\n", "")
