"""Due work: claimed in due order by the database's clock, by one owner at a time, and never lost."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from guestledger.adapters.postgres.work.due_steps import PostgresDueSteps
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.log.appends import Lease
from guestledger.engine.worker.leases import Leases
from tests.integration.appends import HOUR_MS, a_lease, an_append, due_at, new_id

CREATE, SYNC, EXPIRE = "create_session", "deliver_webhook", "expire_token"
HOUR = timedelta(hours=1)
LONG = 30
"""Seconds. Nothing here takes as long, unless it hangs."""

Put = Callable[..., Awaitable[UUID]]


@pytest.fixture
def put(sql: Any) -> Put:
    """A row that is due so many seconds from now (default: an hour ago), leased for so many seconds or free."""

    async def make(
        due_in: float = -3_600, step: str = CREATE, *, owner: UUID | None = None, leased_for: float | None = None
    ) -> UUID:
        stream_id = new_id()
        await sql(
            "INSERT INTO due_steps VALUES ($1, $2, now() + $3 * interval '1 s', $4, now() + $5 * interval '1 s')",
            stream_id,
            step,
            due_in,
            owner,
            leased_for,
        )
        return stream_id

    return make


async def rows(sql: Any) -> dict[UUID, asyncpg.Record]:
    return {row["stream_id"]: row for row in await sql("SELECT * FROM due_steps")}


async def claimed(due_work: PostgresDueSteps, *steps: str, lease: Lease | None = None, limit: int = 100) -> list[UUID]:
    found = await due_work.claim(lease or a_lease(), dict.fromkeys(steps or (CREATE,)), limit)
    return [claim.stream_id for claim in found.claims]


# Claiming


async def test_due_steps_are_claimed_oldest_first(due_work: PostgresDueSteps, put: Put) -> None:
    second, first, third = await put(-20), await put(-30), await put(-10)

    assert [await claimed(due_work, limit=1) for _ in range(4)] == [[first], [second], [third], []]


async def test_a_batch_of_claims_is_in_due_order(due_work: PostgresDueSteps, sql: Any) -> None:
    await sql(
        "INSERT INTO due_steps SELECT gen_random_uuid(), $1, now() - (n * 7919 % 1000) * interval '1 s' "
        "FROM generate_series(1, 999) AS n",
        CREATE,
    )
    await sql("ANALYZE due_work")
    by_age = await sql("SELECT stream_id FROM due_steps ORDER BY due_at LIMIT 500")

    assert await claimed(due_work, limit=500) == [row["stream_id"] for row in by_age]


async def test_no_step_is_claimed_before_it_is_due(due_work: PostgresDueSteps, put: Put, sql: Any) -> None:
    later = await put(3_600)
    assert await claimed(due_work) == []

    await sql("UPDATE due_steps SET due_at = now()")
    assert await claimed(due_work) == [later]


async def test_only_the_requested_steps_are_claimed(due_work: PostgresDueSteps, put: Put) -> None:
    await put(step="expire_token")
    second, first = await put(-10, "create_session"), await put(-20, "validate_channel")

    assert await claimed(due_work, "deliver_webhook") == []
    assert await claimed(due_work, "validate_channel", "create_session") == [first, second]


async def test_a_claim_names_its_step_and_is_leased_by_the_database_clock(
    due_work: PostgresDueSteps, put: Put, sql: Any
) -> None:
    stream_id, lease = await put(-5), a_lease(ms=HOUR_MS)

    began: datetime = (await sql("SELECT clock_timestamp()"))[0][0]
    (claim,) = (await due_work.claim(lease, {CREATE: None}, 1)).claims
    ended: datetime = (await sql("SELECT clock_timestamp()"))[0][0]

    row = (await rows(sql))[stream_id]
    assert (claim.stream_id, claim.step, claim.due_at) == (stream_id, CREATE, row["due_at"])
    assert row["owner"] == lease.owner
    assert began + HOUR <= row["lease_until"] <= ended + HOUR


async def test_the_claim_limit_holds_under_any_query_plan(
    due_work: PostgresDueSteps, put: Put, sql: Any
) -> None:
    """With statistics that know of a single row, PostgreSQL picks a plan that would run a subquery once a row."""
    await put()
    await sql("ANALYZE due_work")
    await sql(
        "INSERT INTO due_steps SELECT gen_random_uuid(), $1, now() - n * interval '1 s' FROM generate_series(1, 50) AS n",
        CREATE,
    )

    assert [len(await claimed(due_work, limit=limit)) for limit in (1, 2, 7)] == [1, 2, 7]


async def test_a_claimed_step_is_claimed_again_only_after_its_lease_lapses(
    due_work: PostgresDueSteps, put: Put, sql: Any
) -> None:
    stream_id, first, second = await put(), a_lease(), a_lease()
    assert await claimed(due_work, lease=first) == [stream_id]
    assert await claimed(due_work, lease=second) == []
    assert await claimed(due_work, lease=first) == []

    await sql("UPDATE due_steps SET lease_until = now()")
    assert await claimed(due_work, lease=second) == [stream_id]
    assert (await rows(sql))[stream_id]["owner"] == second.owner


async def test_concurrent_claimers_get_each_due_step_once(new_engine: Any, put: Put) -> None:
    ids = {await put(-number) for number in range(90)}
    claimers = [PostgresDueSteps(new_engine(), "guestledger") for _ in range(4)]

    async def take(claimer: PostgresDueSteps) -> list[UUID]:
        taken: list[UUID] = []
        lease = a_lease()
        while found := await claimed(claimer, lease=lease, limit=7):
            taken += found
        return taken

    taken = [one for some in await asyncio.gather(*map(take, claimers)) for one in some]

    assert sorted(taken) == sorted(ids)


async def test_a_claim_skips_locked_rows(
    due_work: PostgresDueSteps, put: Put, outsider: asyncpg.Connection
) -> None:
    older, younger = await put(-20), await put(-10)
    async with outsider.transaction():
        await outsider.execute("SELECT FROM due_steps WHERE stream_id = $1 FOR UPDATE", older)
        async with asyncio.timeout(LONG):
            assert await claimed(due_work, limit=1) == [younger]

    assert await claimed(due_work) == [older]


# What ends before it is its turn


async def test_an_expiry_is_claimed_once_while_its_webhook_is_still_due(
    new_engine: Any, due_work: PostgresDueSteps, put: Put, sql: Any
) -> None:
    ends = {await put(step=SYNC) for _ in range(20)}
    await sql("UPDATE due_steps SET ends_at = now() - interval '1 s'")
    held, lasting = await put(step=SYNC, owner=uuid4(), leased_for=3_600), await put(step=SYNC)
    await sql("UPDATE due_steps SET ends_at = now() - interval '1 s' WHERE stream_id = $1", held)
    await sql("UPDATE due_steps SET ends_at = now() + interval '1 hour' WHERE stream_id = $1", lasting)
    expired = await put(step=EXPIRE)

    claimers = [PostgresDueSteps(new_engine(), "guestledger") for _ in range(4)]
    found = await asyncio.gather(*(claimer.claim(a_lease(uuid4()), {EXPIRE: None}, 100) for claimer in claimers))

    claims = [claim for some in found for claim in some.claims]
    assert sorted(claim.stream_id for claim in claims) == sorted({*ends, expired})
    assert {claim.stream_id for claim in claims if claim.ended} == ends
    assert {claim.step for claim in claims if claim.ended} == {SYNC}
    assert await claimed(due_work, SYNC) == [lasting]


async def test_only_an_overdue_expiry_is_claimed_under_another_owners_lease(
    due_work: PostgresDueSteps, put: Put, sql: Any
) -> None:
    old, new = 3_590, 3_600
    late = {await put(step=step, owner=uuid4(), leased_for=old) for step in (SYNC, EXPIRE)}
    await put(step=SYNC, owner=uuid4(), leased_for=new)
    attempted = await put(step=CREATE, owner=uuid4(), leased_for=old)
    await sql("UPDATE due_steps SET ends_at = now() - interval '2 s'")
    in_time = await put(step=SYNC, owner=uuid4(), leased_for=old)
    await sql("UPDATE due_steps SET ends_at = now() + interval '1 hour' WHERE stream_id = $1", in_time)

    outlook = await due_work.outlook({EXPIRE: None, CREATE: None})
    assert (outlook.claimable, await claimed(due_work, CREATE)) == ({EXPIRE}, [])
    found = await due_work.claim(a_lease(), {EXPIRE: None}, 100)
    assert {claim.stream_id for claim in found.claims} == late
    assert all(claim.ended for claim in found.claims)
    assert (await due_work.claim(a_lease(), {EXPIRE: None}, 100)).claims == []
    assert attempted in await rows(sql)


async def test_an_expiry_under_another_lease_is_checked_again_within_half_a_second(
    due_work: PostgresDueSteps, put: Put, sql: Any
) -> None:
    await put(step=SYNC, owner=uuid4(), leased_for=3_590)
    async with asyncio.timeout(30):
        while True:  # the machine may be too slow for the half second that it lasts
            await sql("UPDATE due_steps SET ends_at = now()")
            outlook = await due_work.outlook({EXPIRE: None})
            if not outlook.claimable:
                break
    assert outlook.next_due_ms is not None
    assert outlook.next_due_ms <= 500


async def test_expired_tokens_count_towards_the_claim_limit(
    due_work: PostgresDueSteps, put: Put, sql: Any
) -> None:
    for step in (SYNC, EXPIRE) * 3:
        await put(step=step)
    await sql("UPDATE due_steps SET ends_at = now() WHERE step = $1", SYNC)

    assert [len(await claimed(due_work, EXPIRE, limit=4)) for _ in range(3)] == [4, 2, 0]


async def test_a_delayed_release_delays_an_overdue_expiry_but_not_a_future_one(
    due_work: PostgresDueSteps, put: Put, sql: Any
) -> None:
    owner = uuid4()
    ended, ends = [await put(step=SYNC, owner=owner, leased_for=60) for _ in range(2)]
    await sql("UPDATE due_steps SET ends_at = now() - interval '1 s' WHERE stream_id = $1", ended)
    await sql("UPDATE due_steps SET ends_at = now() + interval '1 min' WHERE stream_id = $1", ends)
    before = await rows(sql)

    for stream_id in (ended, ends):
        await due_work.release(owner, stream_id, HOUR_MS)

    after = await rows(sql)
    assert after[ended]["ends_at"] > before[ended]["ends_at"] + HOUR
    assert after[ends]["ends_at"] == before[ends]["ends_at"]
    assert await claimed(due_work, EXPIRE) == []


# Holding


async def test_a_heartbeat_extends_only_its_owners_leases_on_the_named_streams(
    due_work: PostgresDueSteps, put: Put, sql: Any
) -> None:
    lease, other = a_lease(ms=2 * HOUR_MS), uuid4()
    mine = await put(owner=lease.owner, leased_for=60)
    mine_unnamed = await put(owner=lease.owner, leased_for=60)
    theirs, free = await put(owner=other, leased_for=60), await put()
    before = await rows(sql)

    assert await due_work.heartbeat(lease, [mine, theirs, free, new_id()]) == {mine}

    after = await rows(sql)
    assert after[mine]["lease_until"] > before[mine]["lease_until"] + HOUR
    assert (after[mine]["owner"], after[mine]["due_at"]) == (lease.owner, before[mine]["due_at"])
    for untouched in (mine_unnamed, theirs, free):
        assert after[untouched] == before[untouched]


async def test_a_heartbeat_skips_locked_rows_and_cannot_deadlock(
    due_work: PostgresDueSteps, put: Put, sql: Any, connect_by_sql: Any
) -> None:
    """An append locks its rows in whatever order the sessions came; so might a heartbeat, in another."""
    lease = a_lease()
    busy, idle = await put(owner=lease.owner, leased_for=60), await put(owner=lease.owner, leased_for=60)
    before = await rows(sql)
    appending = await connect_by_sql()
    async with appending.transaction():
        await appending.execute("UPDATE due_steps SET due_at = due_at WHERE stream_id = $1", busy)
        async with asyncio.timeout(LONG):
            assert await due_work.heartbeat(lease, [busy, idle]) == {idle}

    after = await rows(sql)
    assert after[idle]["lease_until"] > before[idle]["lease_until"]
    assert after[busy] == before[busy]


async def test_leases_are_renewed_only_until_they_are_released(
    due_work: PostgresDueSteps, put: Put, sql: Any
) -> None:
    lease = a_lease(ms=60)
    let_go, held = [await put(owner=lease.owner, leased_for=60) for _ in range(2)]
    beats: asyncio.Queue[list[UUID]] = asyncio.Queue()

    class Watched(PostgresDueSteps):
        async def heartbeat(self, lease: Lease, stream_ids: Any) -> set[UUID]:
            if beats.qsize() == 0:
                beats.put_nowait([])
                raise RuntimeError("whatever may go wrong with one beat")
            if beats.qsize() == 1:
                beats.put_nowait([])
                raise ServiceUnreachable("the database cannot be reached")
            kept = await due_work.heartbeat(Lease(owner=lease.owner, ms=HOUR_MS), stream_ids)
            beats.put_nowait(list(stream_ids))
            return kept

    leases = Leases(Watched(due_work._engine, "guestledger"), lease.ms)
    async with asyncio.timeout(LONG):
        with leases.hold(lease, held):
            with leases.hold(lease, let_go):
                pass
            while beats.qsize() < 4:
                await asyncio.sleep(0.005)
        beaten = [beats.get_nowait() for _ in range(4)]
        await leases.close()

    assert beaten == [[], [], [held], [held]]
    after = await rows(sql)
    assert after[held]["lease_until"] > after[let_go]["lease_until"] + HOUR / 2


# Giving back


async def test_a_released_step_can_be_claimed_at_once_by_any_owner(due_work: PostgresDueSteps, put: Put, sql: Any) -> None:
    stream_id, lease = await put(), a_lease()
    since = (await rows(sql))[stream_id]["due_at"]
    await claimed(due_work, lease=lease)

    await due_work.release(lease.owner, stream_id, 0)

    row = (await rows(sql))[stream_id]
    assert (row["owner"], row["lease_until"]) == (None, None)
    assert row["due_at"] >= since
    assert await claimed(due_work) == [stream_id]


async def test_a_step_released_with_a_delay_is_due_after_that_delay(due_work: PostgresDueSteps, put: Put, sql: Any) -> None:
    stream_id, lease = await put(), a_lease()
    await claimed(due_work, lease=lease)

    (began,) = (await sql("SELECT clock_timestamp()"))[0]
    await due_work.release(lease.owner, stream_id, HOUR_MS)
    (ended,) = (await sql("SELECT clock_timestamp()"))[0]

    assert began + HOUR <= (await rows(sql))[stream_id]["due_at"] <= ended + HOUR
    assert await claimed(due_work) == []


@pytest.mark.parametrize("days", [30, 365 * 7_900])
async def test_a_release_delay_can_be_as_long_as_any_token_lifetime(
    due_work: PostgresDueSteps, put: Put, sql: Any, days: int
) -> None:
    lease, span = a_lease(), timedelta(days=days)
    waits, ended = await put(), await put()
    await sql("UPDATE due_steps SET ends_at = now() WHERE stream_id = $1", ended)
    assert set(await claimed(due_work, lease=lease)) == {waits, ended}

    (began,) = (await sql("SELECT clock_timestamp()"))[0]
    for stream_id in (waits, ended):
        await due_work.release(lease.owner, stream_id, span // timedelta(milliseconds=1), EXPIRE)

    found = await rows(sql)
    assert found[waits]["due_at"] >= began + span
    assert found[ended]["ends_at"] >= began + span


async def test_a_release_never_moves_a_due_time_earlier(due_work: PostgresDueSteps, put: Put, sql: Any) -> None:
    owner = uuid4()
    stream_id = await put(3_600, owner=owner, leased_for=60)
    due = (await rows(sql))[stream_id]["due_at"]

    await due_work.release(owner, stream_id, 1_000)

    assert (await rows(sql))[stream_id]["due_at"] == due


async def test_an_owner_that_lost_its_lease_can_neither_release_nor_renew_it(
    due_work: PostgresDueSteps, put: Put, sql: Any
) -> None:
    stream_id, first, second = await put(), a_lease(), a_lease()
    await claimed(due_work, lease=first)
    await sql("UPDATE due_steps SET lease_until = now()")
    await claimed(due_work, lease=second)
    before = await rows(sql)

    await due_work.release(first.owner, stream_id, HOUR_MS)
    await due_work.heartbeat(Lease(owner=first.owner, ms=9 * HOUR_MS), [stream_id])

    assert await rows(sql) == before


async def test_release_all_frees_every_lease_of_its_owners_and_notifies_workers(
    due_work: PostgresDueSteps, put: Put, sql: Any, connect_by_sql: Any
) -> None:
    owners, other = {uuid4(), uuid4()}, uuid4()
    mine = {await put(owner=owner, leased_for=60) for owner in owners for _ in range(2)}
    theirs = await put(owner=other, leased_for=60)
    before = (await rows(sql))[theirs]
    told = asyncio.Event()
    await (await connect_by_sql()).add_listener("guestledger_guestledger", lambda *_: told.set())

    await due_work.release_all(owners)

    assert set(await claimed(due_work)) == mine
    assert (await rows(sql))[theirs] == before
    async with asyncio.timeout(LONG):
        await told.wait()


async def test_release_all_skips_locked_rows_and_cannot_deadlock(
    due_work: PostgresDueSteps, put: Put, sql: Any, connect_by_sql: Any
) -> None:
    owner = uuid4()
    busy, idle = await put(owner=owner, leased_for=60), await put(owner=owner, leased_for=60)
    before = await rows(sql)
    appending = await connect_by_sql()
    async with appending.transaction():
        await appending.execute("UPDATE due_steps SET due_at = due_at WHERE stream_id = $1", busy)
        async with asyncio.timeout(LONG):
            await due_work.release_all([owner])

    assert await claimed(due_work) == [idle]
    assert (await rows(sql))[busy] == before[busy]


# Counting


async def test_the_backlog_excludes_future_expiries_and_far_webhook_retries(
    due_work: PostgresDueSteps, put: Put, sql: Any
) -> None:
    assert (await due_work.backlog({})).unfinished == 0
    await put(3_600, EXPIRE)
    assert (await due_work.backlog({})).unfinished == 0

    await put(-1, EXPIRE)
    await put(-1)
    await put(3_600)
    await put(-1, owner=uuid4(), leased_for=60)
    assert (await due_work.backlog({})).unfinished == 4

    hooked = {"deliver_webhook": "hooks"}
    await put(3_600, "deliver_webhook")
    assert (await due_work.backlog(hooked)).unfinished == 4
    await put(30, "deliver_webhook")
    assert (await due_work.backlog(hooked)).unfinished == 5
    assert (await due_work.backlog({})).unfinished == 4, "nobody waits for notices that are not sent from here"

    await sql("UPDATE due_steps SET due_at = now()")
    assert (await due_work.backlog(hooked)).unfinished == 7
    assert (await due_work.backlog({})).unfinished == 5
    await sql("UPDATE due_steps SET ends_at = now() WHERE step = 'deliver_webhook'")
    assert (await due_work.backlog({})).unfinished == 7, "an expiry is recorded here all the same"


# Together with the log


async def test_a_step_appended_with_a_lease_belongs_to_the_lease_owner(
    store: Any, due_work: PostgresDueSteps, sql: Any
) -> None:
    lease, other, stream_id = a_lease(), a_lease(), new_id()
    await store.append(an_append(stream_id, due=due_at(lease=lease)))
    assert await claimed(due_work, lease=other) == []

    await due_work.release(lease.owner, stream_id, 0)
    assert await claimed(due_work, lease=other) == [stream_id]

    await store.append(an_append(stream_id, 1, due=due_at(lease=lease)))
    assert (await rows(sql))[stream_id]["owner"] == lease.owner


async def test_concurrent_appends_and_heartbeats_do_not_deadlock(store: Any, due_work: PostgresDueSteps) -> None:
    lease = a_lease()
    ids = [new_id() for _ in range(40)]
    appending = True

    async def beat() -> int:
        beats = 0
        while appending:
            await due_work.heartbeat(lease, ids[::-1])
            beats += 1
        return beats

    async def append(stream_id: UUID) -> None:
        for version in range(8):
            await store.append(an_append(stream_id, version, due=due_at(lease=lease)))

    beating = asyncio.create_task(beat())
    await asyncio.gather(*map(append, ids))
    appending = False
    assert await beating > 1
    assert await store.head() == 8 * len(ids) - 1
