"""Every crash in a session's life: the work is cut off at each of its awaits, and another process finishes it."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from guestledger.adapters import wiring
from guestledger.adapters.cxone.profile import Profile
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.domain.events import SessionCreated
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.domain.request import GuestRequest, parse_request
from guestledger.engine.domain.session import Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import RetryPolicy
from guestledger.engine.log.appends import Append, Appended
from guestledger.engine.worker.lanes import LaneRunner
from guestledger.engine.worker.session_work import SessionWork
from tests.e2e import guests, raw_log
from tests.faults.fault_injection import CutOff
from tests.faults.servers import SERVERS, Server, assert_none_silent, environment_at
from tests.limits import BRISK

AT_ONCE = Policy(
    creation=RetryPolicy(base_ms=0, max_failures=1_000), webhook=DeliveryPolicy(waits_ms=(0,)), limiter=BRISK
)
IMPATIENT = Profile(connect_ms=40, total_ms=80)
THROTTLING = {"throttle_share": 0.5, "retry_after_s": 0}

ReportLine = Callable[[str], None]


class Life(NamedTuple):
    """A part of a session's life that one scheduler run completes: where it starts, which faults it meets, how it ends."""

    name: str
    opened: bool
    config: dict[str, Any]
    ends_with: str
    and_shows: tuple[str, ...] = ()
    webhook_url: str | None = ""


OPENED = "SessionCreated"
REFUSED = {"channel_throttle_times": 1, "channel_errors": 1, "throttle_share": 1, "retry_after_s": 0}
"""The look-up is throttled and fails, and the first attempt is throttled."""
BROKEN = {"server_error_share": 1, "error_after_processing": True, "drop_before_share": 1, "drop_share": 1}
"""One attempt is dropped unread; CXone makes a session and answers 500, makes one and drops the connection."""
HANGING = {"hang_share": 1, "hang_s": 0.3}
KEYS, NO_KEYS = SERVERS
ROUGH = Life("a look-up and its creation", False, REFUSED | BROKEN, OPENED, ("ChannelLookupFailed", "CreationFailed"))
HANGS = Life("a creation that hangs", False, HANGING, OPENED, ("CreationFailed",))
LIVES = [
    *(pytest.param(life, server, marks=pytest.mark.slow) for life in (ROUGH, HANGS) for server in SERVERS),
    pytest.param(
        Life("a webhook", True, {"webhook_status": 503}, "WebhookAbandoned", ("WebhookFailed",), webhook_url=None),
        KEYS,
        marks=pytest.mark.slow,
    ),
    (Life("an expiry", True, {"session_lifetime_s": 0.01}, "TokenPurged"), KEYS),
]


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "LEASE_MS", 300)


def request(number: int) -> GuestRequest:
    return parse_request(guests.as_lines([guests.guest(number, channelId=f"ch_{number}")]))


@pytest.mark.parametrize(("life", "server"), LIVES, ids=lambda given: given.name)
async def test_another_scheduler_finishes_work_that_was_cut_off_at_any_await(
    database_url: str, life: Life, server: Server, report_line: ReportLine
):
    async with Simulator(server.config(**life.config)) as simulator:
        settings = Settings.from_env(environment_at(server, simulator, database_url, webhook_url=life.webhook_url))
        async with connect(settings, policy=AT_ONCE, scheduler=False) as other:

            async def cut_after(awaits: int) -> bool:
                begin = other.open_session if life.opened else other.accept
                session = await begin(request(awaits))
                await set_apart(database_url, session.id)
                cut = CutOff(awaits, only_within=True)

                async def work() -> None:
                    async with connect(settings, policy=AT_ONCE, profile=IMPATIENT, scheduler=False) as ledger:
                        with cut.within():
                            await ledger.scheduler.run_once()

                await cut.run(work)
                return cut.happened

            points = await count_points(cut_after)
            report_line(f"{life.name} at {server.name}: a scheduler was cut off at {points} points")

            await raw_log.lapse_leases(database_url)
            await other.scheduler.run_until_idle()

        assert points > 20, "a scheduler's work has more awaits than that"
        await assert_all_came_to(database_url, life)
        await assert_nothing_lost(database_url, simulator, server)
        assert server is KEYS or max(map(len, simulator.sessions_by_key.values())) > 1, "the test showed nothing"


@pytest.mark.parametrize(
    "server", [pytest.param(KEYS, marks=pytest.mark.slow), NO_KEYS], ids=lambda server: server.name
)
async def test_an_open_session_cut_off_at_any_await_is_finished_later(
    database_url: str, server: Server, report_line: ReportLine
):
    async with Simulator(server.config(**THROTTLING)) as simulator:
        settings = Settings.from_env(environment_at(server, simulator, database_url))

        async def cut_after(awaits: int) -> bool:
            async def open_one() -> None:
                async with connect(settings, policy=AT_ONCE, scheduler=False) as ledger:
                    await ledger.open_session(request(awaits))

            cut = CutOff(awaits)
            await cut.run(open_one)
            return cut.happened

        points = await count_points(cut_after)
        report_line(f"open_session at {server.name}: the process was cut off at {points} points")
        cut_off = await raw_log.open_ended(database_url)
        assert len(cut_off) > 10, "there are more awaits than that between acceptance and session"

        await finish(settings)

        await assert_nothing_lost(database_url, simulator, server)


async def test_cancelling_open_session_at_any_await_loses_no_session(database_url: str, report_line: ReportLine):
    async with Simulator(KEYS.config(**THROTTLING)) as simulator:
        settings = Settings.from_env(environment_at(KEYS, simulator, database_url))
        async with connect(settings, policy=AT_ONCE, scheduler=False) as ledger:

            async def cut_after(awaits: int) -> bool:
                cut = CutOff(awaits, alone=True)
                await cut.run(lambda: ledger.open_session(request(awaits)))
                return cut.happened

            points = await count_points(cut_after)
            report_line(f"open_session: its caller was cancelled at {points} points")

            await ledger.scheduler.run_until_idle()

            assert points > 3, "there are more awaits than that"
            session = await ledger.open_session(request(0))
            assert session.status in (Status.ACTIVE, Status.THROTTLED)
            await ledger.scheduler.run_until_idle()
        await assert_nothing_lost(database_url, simulator, KEYS)


async def test_a_handed_over_webhook_cut_off_at_any_await_is_delivered_later(
    database_url: str, monkeypatch: pytest.MonkeyPatch, report_line: ReportLine
):
    handed = note_handed(monkeypatch)
    async with Simulator(KEYS.config()) as simulator:
        settings = Settings.from_env(environment_at(KEYS, simulator, database_url, webhook_url=None))

        async def cut_after(awaits: int) -> bool:
            cut = CutOff(awaits, only_within=True)

            async def open_beside_a_scheduler() -> None:
                async with connect(settings, policy=AT_ONCE, scheduler=False) as ledger:
                    # The scheduler itself would run the steps of other sessions too.
                    lanes = ledger.scheduler._lanes
                    lanes.runs = 1
                    with cut.within():
                        await ledger.open_session(request(awaits))
                        await lanes.finish_handed(Counter())

            before = len(handed)
            await cut.run(open_beside_a_scheduler)
            # On a slow machine a session can end before its webhook is due: it does not count as a run to the end.
            return cut.happened or len(handed) == before

        points = await count_points(cut_after)
        report_line(f"open_session beside a scheduler: the process was cut off at {points} points")
        assert len(handed) > 3, "there are more awaits than that after the hand-over"

        await finish(settings)

        await assert_nothing_lost(database_url, simulator, KEYS)
        await assert_each_came_to(database_url, "WebhookSynced")


@pytest.mark.parametrize("recorded", [False, True], ids=["not recorded", "recorded, but not confirmed"])
@pytest.mark.parametrize(
    "server", [pytest.param(KEYS, marks=pytest.mark.slow), NO_KEYS], ids=lambda server: server.name
)
async def test_an_answer_recorded_later_and_cut_off_at_any_await_is_accounted_for(
    database_url: str, server: Server, recorded: bool, report_line: ReportLine
):
    async with Simulator(server.config()) as simulator:
        settings = Settings.from_env(environment_at(server, simulator, database_url))
        failed: list[int] = []

        async def cut_after(awaits: int) -> bool:
            cut = CutOff(awaits, only_within=True)

            async def open_while_the_database_fails() -> None:
                async with connect(settings, policy=AT_ONCE, scheduler=False) as ledger:
                    fail_first_answer(ledger, recorded=recorded)
                    with cut.within():
                        try:
                            await ledger.open_session(request(awaits))
                        except ServiceUnreachable:
                            failed.append(awaits)
                        await ledger._opener._executor.recorder.close()

            await cut.run(open_while_the_database_fails)
            # On a slow machine the lease can lapse before the answer: nothing is recorded then, and it is no run to the end.
            return cut.happened or awaits not in failed

        points = await count_points(cut_after)
        report_line(
            f"an answer recorded in the background at {server.name}: the process was cut off at {points} points"
        )
        [uncut] = await raw_log.query(
            database_url, "SELECT stream_id FROM events WHERE data->>'channel_id' = $1 LIMIT 1", f"ch_{points + 1}"
        )
        history = "SELECT event_type FROM events WHERE stream_id = $1 ORDER BY version"
        assert [row[0] for row in await raw_log.query(database_url, history, uncut[0])] == [
            "ConsentRecorded",
            "ChannelValidated",
            "CreationAttempted",
            OPENED,
        ]

        await finish(settings)

        await assert_nothing_lost(database_url, simulator, server)


def note_handed(monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    """The sessions whose webhook is handed to the scheduler of the same process."""
    handed: list[UUID] = []
    start = LaneRunner.start

    def note(lanes: LaneRunner, work: SessionWork, step: StepName) -> bool:
        handed.append(work.state.id)
        return start(lanes, work, step)

    monkeypatch.setattr(LaneRunner, "start", note)
    return handed


def fail_first_answer(ledger: Ledger, *, recorded: bool) -> None:
    """Let the database fail at the first append of a created session; `recorded`: only its confirmation is lost."""
    store = ledger._adapters.store
    assert isinstance(store, PostgresEventStore)
    append_at_once, failures = store.append, iter([ServiceUnreachable("database", Cause.CONNECTION_LOST)])

    async def append(proposed: Append) -> Appended:
        if isinstance(proposed.events[-1], SessionCreated) and (failure := next(failures, None)):
            if recorded:
                await append_at_once(proposed)
            raise failure
        return await append_at_once(proposed)

    store.append = append  # type: ignore[method-assign]


async def finish(settings: Settings) -> None:
    """Let another process finish what is left."""
    async with connect(settings, policy=AT_ONCE, scheduler=False) as ledger:
        await ledger.scheduler.run_until_idle()


async def count_points(cut_after: Callable[[int], Awaitable[bool]]) -> int:
    """Cut the work off after one await, after two, and so on until it ends by itself. Returns the number of cuts."""
    for awaits in range(1, 1_000):
        if not await cut_after(awaits):
            return awaits - 1
    raise AssertionError("the work never came to its end")


async def set_apart(database_url: str, stream_id: UUID) -> None:
    """Lease the steps of all other sessions, so that only this one can be claimed."""
    await raw_log.query(
        database_url,
        """UPDATE due_steps SET owner = gen_random_uuid(),
                  lease_until = CASE WHEN stream_id = $1 THEN now() ELSE now() + interval '1 hour' END""",
        stream_id,
    )


async def assert_all_came_to(database_url: str, life: Life) -> None:
    """Every session came to the end of that part of its life, once."""
    await assert_each_came_to(database_url, life.ends_with)
    counts = await raw_log.counts(database_url)
    assert [event_type for event_type in life.and_shows if not counts[event_type]] == []


async def assert_each_came_to(database_url: str, event_type: str) -> None:
    """Every session has exactly one event of this type."""
    found = await raw_log.query(database_url, "SELECT stream_id FROM events WHERE event_type = $1", event_type)
    assert sorted(row[0] for row in found) == sorted(await raw_log.accepted(database_url))


async def assert_nothing_lost(database_url: str, simulator: Simulator, server: Server) -> None:
    assert not await raw_log.open_ended(database_url)
    assert {str(stream_id) for stream_id in await raw_log.accepted(database_url)} == set(simulator.sessions_by_key)
    assert not await raw_log.sent_unrecorded(database_url, simulator)
    await assert_none_silent(database_url, simulator, server)
