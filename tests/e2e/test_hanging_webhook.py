import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.request import parse_request
from guestledger.engine.domain.session import Status
from tests.e2e import guests, raw_log
from tests.e2e.command import environment, started

REQUESTS = [guests.guest(number) for number in range(100)]


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """Its webhook takes a call and says nothing, longer than anybody waits."""
    async with Simulator(SimulatorConfig(webhook_hang_s=60)) as running:
        yield running


async def test_open_session_does_not_wait_for_the_webhook(database_url: str, simulator: Simulator):
    settings = Settings.from_env(environment(database_url, simulator))
    requests = [parse_request(line) for line in guests.as_lines(REQUESTS).splitlines()]
    async with connect(settings) as ledger:
        sessions = await asyncio.gather(*map(ledger.open_session, requests))

        assert {session.status for session in sessions} == {Status.ACTIVE}
        # Each call that hangs is given up in the end, and recorded so: a session that had waited for its own would know.
        assert {session.webhook_attempts for session in sessions} == {0}
        await a_webhook_hangs(simulator)


async def test_open_answers_requests_while_webhooks_hang(database_url: str, simulator: Simulator, tmp_path: Path):
    file = guests.write_file(tmp_path, REQUESTS[:20])
    env = environment(database_url, simulator)

    async with started("open", file, "--concurrency", "1", env=env) as process:
        assert process.stdout is not None
        answers = [await process.stdout.readline() for _ in range(20)]
        await a_webhook_hangs(simulator)

    assert all(b'"active"' in answer for answer in answers)
    # Had each guest waited for the webhook of the one before, that would have been settled by then.
    settled_before_the_last = await raw_log.query(
        database_url,
        """SELECT position FROM events WHERE event_type LIKE 'Webhook%'
              AND position < (SELECT max(position) FROM events WHERE event_type = 'SessionCreated')""",
    )
    assert len(settled_before_the_last) < 19


async def a_webhook_hangs(simulator: Simulator) -> None:
    async with asyncio.timeout(30):
        while not simulator.webhooks:
            await asyncio.sleep(0.01)
