import itertools
from collections import Counter
from uuid import UUID

import pytest

from adapters import wiring
from adapters.settings import Settings
from adapters.simulator import Knobs, Simulator
from adapters.wiring import connect
from engine.domain.delivery import DeliveryPolicy
from engine.domain.lifecycle import Policy
from engine.domain.request import GuestRequest, parse_request
from engine.domain.retry import RetryPolicy
from engine.domain.session import Status
from tests.e2e import guests, raw_log
from tests.e2e.backlog import accept
from tests.e2e.command import environment
from tests.faults.sudden_end import SuddenEnd
from tests.gates import BRISK

SOON = Policy(creation=RetryPolicy(base_ms=1, most_failures=100), webhook=DeliveryPolicy(waits_ms=(1,) * 7), gate=BRISK)
THROTTLING = Knobs(throttle_share=0.5, retry_after_s=0)


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "LEASE_MS", 300)


def request(number: int) -> GuestRequest:
    return parse_request(guests.as_lines([guests.guest(number)]))


async def test_whenever_everything_ends_during_open_session_what_was_accepted_is_finished_later_and_opened_once(
    database_url: str,
):
    async with Simulator(THROTTLING) as simulator:
        settings = Settings.from_env(environment(database_url, simulator))
        for moments in itertools.count(1):

            async def open_one(number: int = moments) -> None:
                async with connect(settings, policy=SOON, scheduler=False) as ledger:
                    await ledger.open_session(request(number))

            ending = SuddenEnd(moments)
            await ending.of(open_one)
            if not ending.came:
                break
        cut_off = await raw_log.open_ended(database_url)
        assert len(cut_off) > 10, "there are more moments than that between acceptance and session"

        await finish(settings)

        await assert_nothing_lost(database_url, simulator)
        assert raw_log.remote_sessions(simulator) == await raw_log.known_sessions(database_url)


async def test_whenever_everything_ends_during_a_schedulers_work_another_one_finishes_it_and_every_session_is_opened_once(
    database_url: str,
):
    async with Simulator(THROTTLING) as simulator:
        settings = Settings.from_env(environment(database_url, simulator))

        backlog = await accept(database_url, map(guests.guest, range(200)))

        async def work() -> None:
            async with connect(settings, policy=SOON, scheduler=False) as ledger:
                await ledger.scheduler.run_once()

        for moments, stream_id in enumerate(backlog, 1):
            await set_apart(database_url, stream_id)
            ending = SuddenEnd(moments)
            await ending.of(work)
            if not ending.came:
                break
        assert not ending.came

        await raw_log.lapse_leases(database_url)
        await finish(settings)

        assert moments > 50, "there are more moments than that in a scheduler's work"
        await assert_nothing_lost(database_url, simulator)
        assert raw_log.remote_sessions(simulator) == await raw_log.known_sessions(database_url)


async def test_where_cxone_makes_a_session_for_every_request_each_one_too_many_goes_back_to_an_attempt_in_doubt(
    database_url: str,
):
    async with Simulator(Knobs(honour_idempotency_key=False, slow_ms=40)) as simulator:
        settings = Settings.from_env(environment(database_url, simulator))
        backlog = await accept(database_url, map(guests.guest, range(40)))

        async def work() -> None:
            async with connect(settings, policy=SOON, scheduler=False) as ledger:
                await ledger.scheduler.run_once()

        for moments, stream_id in zip(range(40, 200, 4), backlog, strict=True):
            await set_apart(database_url, stream_id)
            await SuddenEnd(moments).of(work)
        await raw_log.lapse_leases(database_url)
        await finish(settings)

        await assert_nothing_lost(database_url, simulator)
        in_doubt = await raw_log.query(
            database_url,
            "SELECT stream_id FROM events WHERE event_type = 'CreationFailed' AND data->>'kind' = 'in_doubt'",
        )
        too_many = Counter({key: len(made) - 1 for key, made in simulator.sessions_by_key.items()})
        assert not too_many - Counter(str(row[0]) for row in in_doubt)
        assert too_many.total(), "no request was cut off between the making of a session and its recording"


async def test_a_caller_who_stops_waiting_for_open_session_at_any_moment_harms_nobody(database_url: str):
    async with Simulator(THROTTLING) as simulator:
        settings = Settings.from_env(environment(database_url, simulator))
        async with connect(settings, policy=SOON, scheduler=False) as ledger:
            for moments in itertools.count(1):
                ending = SuddenEnd(moments, alone=True)
                await ending.of(lambda number=moments: ledger.open_session(request(number)))
                if not ending.came:
                    break

            await ledger.scheduler.run_until_idle()

            assert moments > 3, "there are more moments than that"
            session = await ledger.open_session(request(0))
            assert session.status in (Status.ACTIVE, Status.THROTTLED)
            await ledger.scheduler.run_until_idle()
        await assert_nothing_lost(database_url, simulator)
        assert raw_log.remote_sessions(simulator) == await raw_log.known_sessions(database_url)


async def set_apart(database_url: str, stream_id: UUID) -> None:
    """Let this session alone be free to be worked on."""
    await raw_log.query(
        database_url,
        """UPDATE due_work SET lease_until = CASE WHEN stream_id = $1 THEN now() ELSE now() + interval '1 hour' END""",
        stream_id,
    )


async def finish(settings: Settings) -> None:
    async with connect(settings, policy=SOON, scheduler=False) as ledger:
        await ledger.scheduler.run_until_idle()


async def assert_nothing_lost(database_url: str, simulator: Simulator) -> None:
    assert not await raw_log.open_ended(database_url)
    assert {str(stream_id) for stream_id in await raw_log.accepted(database_url)} == set(simulator.sessions_by_key)
    assert not await raw_log.sent_unrecorded(database_url, simulator)
