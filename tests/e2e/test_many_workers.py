import asyncio
import signal
from collections import Counter
from contextlib import AsyncExitStack

import msgspec

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests.e2e import guests, raw_log
from tests.e2e.backlog import accept
from tests.e2e.command import LIMIT_S, environment, started

REQUESTS = [guests.guest(number) for number in range(400)]
WORKERS = 3


async def test_concurrent_workers_take_each_step_once(database_url: str):
    # This server makes a session for each request, and nothing fails: whatever is done twice, shows.
    config = SimulatorConfig(honour_idempotency_key=False, slow_ms=50, session_lifetime_s=2.5)
    async with asyncio.timeout(LIMIT_S), Simulator(config) as simulator, AsyncExitStack() as stack:
        env = environment(database_url, simulator)
        processes = [await stack.enter_async_context(started("worker", env=env)) for _ in range(WORKERS)]
        while simulator.counts["token 200"] < WORKERS:  # each fetches one as it begins
            await asyncio.sleep(0.01)

        ids = await accept(database_url, REQUESTS)
        while await raw_log.query(database_url, "SELECT FROM due_steps"):
            await asyncio.sleep(0.1)

        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            _, err = await process.communicate()
            assert (process.returncode, err) == (0, b"")
        assert {key: len(made) for key, made in simulator.sessions_by_key.items()} == dict.fromkeys(map(str, ids), 1)
        steps = ("ConsentRecorded", "ChannelValidated", "CreationAttempted", "SessionCreated", "WebhookSynced")
        assert await raw_log.counts(database_url) == dict.fromkeys((*steps, "TokenExpired", "TokenPurged"), len(ids))
        notices = Counter(msgspec.json.decode(webhook.body)["sessionId"] for webhook in simulator.webhooks)
        assert notices == dict.fromkeys((session_id for _, session_id in raw_log.remote_sessions(simulator)), 1)
        assert await workers_that_created(database_url) > 1, "the work was to be shared"


async def workers_that_created(database_url: str) -> int:
    [(number,)] = await raw_log.query(
        database_url, "SELECT count(DISTINCT actor) FROM events WHERE event_type = 'SessionCreated'"
    )
    return number
