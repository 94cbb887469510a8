import asyncio
from io import BytesIO

import pytest

from guestledger.adapters.cli import batch
from guestledger.adapters.cli.batch import Answer, OpeningBatch
from guestledger.adapters.cli.lines import numbered_lines
from guestledger.adapters.clock import SystemClock
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.policy import Policy
from guestledger.engine.limits.retry import RetryPolicy
from tests.e2e import guests, raw_log
from tests.e2e.command import environment
from tests.limits import BRISK


async def test_open_finishes_attempts_in_flight_after_its_time_is_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(batch, "_FINISH_SECONDS", 0.3)
    monkeypatch.setattr(SystemClock, "jitter", lambda _clock: 0.5)
    policy = Policy(creation=RetryPolicy(base_ms=200), limiter=BRISK)
    lines = BytesIO(guests.as_lines(map(guests.guest, range(10))))
    answers: list[Answer] = []

    async def keep(answer: Answer) -> None:
        answers.append(answer)

    # The first attempt fails, and the second one is in flight when time is up. If it were cut off, there would be a third
    # one, and this server would make a second session.
    config = SimulatorConfig(server_error_share=1, hang_share=1, hang_s=1.5, honour_idempotency_key=False)
    async with Simulator(config) as simulator:
        settings = Settings.from_env(environment(database_url, simulator))
        async with connect(settings, policy=policy, scheduler=False) as ledger:
            run = OpeningBatch(ledger, concurrency=10, wait=False)
            await run.run(numbered_lines(lines.read), keep)
            assert {answer["status"] for answer in answers} == {"in_doubt"}
            await asyncio.sleep(0.2)

            await run.finish()

        events = await raw_log.counts(database_url)
        assert (events["CreationAttempted"], events["SessionCreated"]) == (20, 10)
        assert not await raw_log.query(database_url, "SELECT FROM due_steps WHERE lease_until > now()")
        assert raw_log.remote_sessions(simulator) == await raw_log.known_sessions(database_url)
