"""Health of a ledger whose database answers, and of one whose database is away."""

import asyncio
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from sqlalchemy import make_url

from guestledger.adapters.postgres.admin.embedded import start_embedded, stop_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from guestledger.adapters.postgres.admin.roles import runtime_login
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.operations.health import Health
from tests.keys import KEY

LONG = 60  # seconds; only a hang takes longer
HEALTHY = Health(
    database=None,
    scheduler_runs=False,
    scheduler=None,
    limiters={},
    backlog=0,
    backlog_seconds=0.0,
    owed_webhooks=0,
    projection_lag_seconds=0.0,
    stopped_projections=(),
)


async def test_health_reports_success_and_whether_a_scheduler_runs(new_ledger: Any) -> None:
    async with new_ledger() as ledger:
        assert await ledger.health() == HEALTHY
    async with new_ledger(scheduler=True) as ledger:
        async with asyncio.timeout(LONG):
            while not (await ledger.health()).scheduler_runs:
                await asyncio.sleep(0.01)
        ledger.scheduler.stop()
        async with asyncio.timeout(LONG):
            while await ledger.health() != HEALTHY:
                await asyncio.sleep(0.01)


async def test_health_reports_a_database_outage_until_it_ends(data_dir: Path) -> None:
    url = await start_embedded(data_dir)
    await upgrade(url)
    login = await runtime_login(url, "guestledger")
    runtime = make_url(url).set(username=login).render_as_string(hide_password=False)
    async with connect(Settings(encryption_key=KEY, database_url=runtime)) as ledger, asyncio.timeout(LONG):
        await stop_embedded(data_dir)
        while (health := await ledger.health()).scheduler is None:
            await asyncio.sleep(0.01)
        assert health.scheduler_runs
        assert "database" in (health.database or "")
        assert "database" in health.scheduler

        await start_embedded(data_dir)
        while await ledger.health() != replace(HEALTHY, scheduler_runs=True):
            await asyncio.sleep(0.01)
