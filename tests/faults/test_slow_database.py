import asyncio
from datetime import UTC, datetime

import pytest

from guestledger.adapters.clock import SystemClock
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.request import parse_request
from guestledger.engine.domain.session import Status
from guestledger.engine.limits.retry import RetryPolicy
from guestledger.engine.log.appends import Append, Appended
from tests.e2e import guests, raw_log
from tests.e2e.command import environment


async def test_a_released_session_is_not_continued_even_if_its_append_returns_late(
    database_url: str, monkeypatch: pytest.MonkeyPatch
):
    append_at_once = PostgresEventStore.append

    async def append(store: PostgresEventStore, proposed: Append) -> Appended:
        appended = await append_at_once(store, proposed)
        if StepName.CREATE_SESSION in proposed.steps.mine and proposed.steps.lease is None:
            # Any worker may have claimed the step by now. The one that released it learns so when the step is due.
            [due_at] = [due.due_at for due in proposed.steps.due if due.step is StepName.CREATE_SESSION]
            while datetime.now(UTC) <= due_at:
                await asyncio.sleep(0.01)
        return appended

    monkeypatch.setattr(PostgresEventStore, "append", append)
    monkeypatch.setattr(SystemClock, "jitter", lambda _clock: 0.5)
    async with Simulator(SimulatorConfig(server_error_share=1)) as simulator:
        settings = Settings.from_env(environment(database_url, simulator))
        policy = Policy(creation=RetryPolicy(base_ms=100))
        async with connect(settings, policy=policy, scheduler=False) as ledger:
            session = await ledger.open_session(parse_request(guests.as_lines([guests.guest(1)])))

        assert (session.status, session.attempts) == (Status.IN_DOUBT, 1)
        assert (await raw_log.counts(database_url))["CreationAttempted"] == 1
