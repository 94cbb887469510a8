import itertools
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from guestledger.adapters import wiring
from guestledger.adapters.cxone.profile import Profile
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.domain.request import GuestRequest, parse_request
from guestledger.engine.domain.session import Status
from guestledger.engine.limits.retry import RetryPolicy
from tests.e2e import guests, raw_log
from tests.faults.fault_injection import SuddenEnd
from tests.faults.servers import SERVERS, Server, assert_none_silent, environment_at
from tests.limits import BRISK

AT_ONCE = Policy(
    creation=RetryPolicy(base_ms=0, max_failures=1_000), webhook=DeliveryPolicy(waits_ms=(0,)), limiter=BRISK
)
IMPATIENT = Profile(connect_ms=40, total_ms=80)
THROTTLING = {"throttle_share": 0.5, "retry_after_s": 0}

Tell = Callable[[str], None]


class Life(NamedTuple):
    """A part of a session's life that a scheduler takes it through in one go: from where on, what befalls it, how it ends."""

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
KEYS, _ = SERVERS
ROUGH = Life("a look-up and its creation", False, REFUSED | BROKEN, OPENED, ("ChannelLookupFailed", "CreationFailed"))
HANGS = Life("a creation that hangs", False, HANGING, OPENED, ("CreationFailed",))
LIVES = [
    *(pytest.param(life, server, marks=pytest.mark.slow) for life in (ROUGH, HANGS) for server in SERVERS),
    (Life("a webhook", True, {"webhook_status": 503}, "WebhookAbandoned", ("WebhookFailed",), webhook_url=None), KEYS),
    (Life("an expiry", True, {"session_lifetime_s": 0.01}, "TokenExpired"), KEYS),
]


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "LEASE_MS", 300)


def request(number: int) -> GuestRequest:
    return parse_request(guests.as_lines([guests.guest(number, channelId=f"ch_{number}")]))


@pytest.mark.parametrize(("life", "server"), LIVES, ids=lambda given: given.name)
async def test_another_scheduler_finishes_work_that_was_cut_off_at_any_await(
    database_url: str, life: Life, server: Server, tell: Tell
):
    async with Simulator(server.config(**life.config)) as simulator:
        settings = Settings.from_env(environment_at(server, simulator, database_url, webhook_url=life.webhook_url))
        async with connect(settings, policy=AT_ONCE, scheduler=False) as other:

            async def end_after(moments: int) -> bool:
                begin = other.open_session if life.opened else other.accept
                session = await begin(request(moments))
                await set_apart(database_url, session.id)
                ending = SuddenEnd(moments, only_within=True)

                async def work() -> None:
                    async with connect(settings, policy=AT_ONCE, profile=IMPATIENT, scheduler=False) as ledger:
                        with ending.within():
                            await ledger.scheduler.run_once()

                await ending.of(work)
                return ending.came

            points = await count_points(end_after)
            tell(f"{life.name} at {server.name}: a scheduler was ended at {points} points")

            await raw_log.lapse_leases(database_url)
            await other.scheduler.run_until_idle()

        assert points > 20, "there are more awaits than that in a scheduler's work"
        await assert_all_came_to(database_url, life)
        await assert_nothing_lost(database_url, simulator, server)
        assert server is KEYS or max(map(len, simulator.sessions_by_key.values())) > 1, "nothing was shown"


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
async def test_an_open_session_cut_off_at_any_await_is_finished_later(database_url: str, server: Server, tell: Tell):
    async with Simulator(server.config(**THROTTLING)) as simulator:
        settings = Settings.from_env(environment_at(server, simulator, database_url))

        async def end_after(moments: int) -> bool:
            async def open_one() -> None:
                async with connect(settings, policy=AT_ONCE, scheduler=False) as ledger:
                    await ledger.open_session(request(moments))

            ending = SuddenEnd(moments)
            await ending.of(open_one)
            return ending.came

        points = await count_points(end_after)
        tell(f"open_session at {server.name}: everything was ended at {points} points")
        cut_off = await raw_log.open_ended(database_url)
        assert len(cut_off) > 10, "there are more moments than that between acceptance and session"

        async with connect(settings, policy=AT_ONCE, scheduler=False) as ledger:
            await ledger.scheduler.run_until_idle()

        await assert_nothing_lost(database_url, simulator, server)


async def test_cancelling_open_session_at_any_await_loses_no_session(database_url: str, tell: Tell):
    server = SERVERS[0]
    async with Simulator(server.config(**THROTTLING)) as simulator:
        settings = Settings.from_env(environment_at(server, simulator, database_url))
        async with connect(settings, policy=AT_ONCE, scheduler=False) as ledger:

            async def end_after(moments: int) -> bool:
                ending = SuddenEnd(moments, alone=True)
                await ending.of(lambda: ledger.open_session(request(moments)))
                return ending.came

            points = await count_points(end_after)
            tell(f"open_session: its caller stopped waiting at {points} points")

            await ledger.scheduler.run_until_idle()

            assert points > 3, "there are more moments than that"
            session = await ledger.open_session(request(0))
            assert session.status in (Status.ACTIVE, Status.THROTTLED)
            await ledger.scheduler.run_until_idle()
        await assert_nothing_lost(database_url, simulator, server)


async def count_points(end_after: Callable[[int], Awaitable[bool]]) -> int:
    """End the work after one wait, after two, and so on until it runs through: at how many points it was ended."""
    for moments in itertools.count(1):
        if not await end_after(moments):
            return moments - 1
    raise AssertionError


async def set_apart(database_url: str, stream_id: UUID) -> None:
    """Let this session alone be free to be worked on."""
    await raw_log.query(
        database_url,
        """UPDATE due_steps SET lease_until = CASE WHEN stream_id = $1 THEN now() ELSE now() + interval '1 hour' END""",
        stream_id,
    )


async def assert_all_came_to(database_url: str, life: Life) -> None:
    """Every session came to the end of that part of its life, once."""
    ends = await raw_log.query(database_url, "SELECT stream_id FROM events WHERE event_type = $1", life.ends_with)
    assert sorted(row[0] for row in ends) == sorted(await raw_log.accepted(database_url))
    counts = await raw_log.counts(database_url)
    assert [event_type for event_type in life.and_shows if not counts[event_type]] == []


async def assert_nothing_lost(database_url: str, simulator: Simulator, server: Server) -> None:
    assert not await raw_log.open_ended(database_url)
    assert {str(stream_id) for stream_id in await raw_log.accepted(database_url)} == set(simulator.sessions_by_key)
    assert not await raw_log.sent_unrecorded(database_url, simulator)
    await assert_none_silent(database_url, simulator, server)
