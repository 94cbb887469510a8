"""Due steps: claimed in due order by the database's clock, by one owner at a time, and never lost."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from guestledger.adapters.postgres.work.due_steps import PostgresDueSteps
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.log.appends import Lease
from guestledger.engine.log.recorded import began_at
from guestledger.engine.worker.leases import Leases
from tests.integration.appends import HOUR_MS, a_lease, an_append, due, new_id
from tests.integration.plain_sql import SCHEMA

CREATE, DELIVER, EXPIRE = StepName.CREATE_SESSION, StepName.DELIVER_WEBHOOK, StepName.EXPIRE_TOKEN
HOUR = timedelta(hours=1)
LONG = 30
"""Seconds; nothing takes this long unless it hangs."""

Put = Callable[..., Awaitable[UUID]]


@pytest.fixture
def put(sql: Any) -> Put:
    """A row that is due in so many seconds (default: an hour ago), leased for so many seconds or free."""

    async def make(
        due_in: float = -3_600,
        step: str = CREATE,
        *,
        stream_id: UUID | None = None,
        owner: UUID | None = None,
        leased_for: float | None = None,
    ) -> UUID:
        stream_id = stream_id or new_id()
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


async def claimed(
    due_steps: PostgresDueSteps, *steps: StepName, lease: Lease | None = None, limit: int = 100
) -> list[UUID]:
    found = await due_steps.claim(lease or a_lease(), dict.fromkeys(steps or (CREATE,)), limit)
    return [claim.stream_id for claim in found.claims]


# Claiming


async def test_due_steps_are_claimed_oldest_first(due_steps: PostgresDueSteps, put: Put) -> None:
    second, first, third = await put(-20), await put(-30), await put(-10)

    assert [await claimed(due_steps, limit=1) for _ in range(4)] == [[first], [second], [third], []]


async def test_a_batch_of_claims_is_in_due_order(due_steps: PostgresDueSteps, sql: Any) -> None:
    await sql(
        "INSERT INTO due_steps SELECT gen_random_uuid(), $1, now() - (n * 7919 % 1000) * interval '1 s' "
        "FROM generate_series(1, 999) AS n",
        CREATE,
    )
    await sql("ANALYZE due_steps")
    by_age = await sql("SELECT stream_id FROM due_steps ORDER BY due_at LIMIT 500")

    assert await claimed(due_steps, limit=500) == [row["stream_id"] for row in by_age]


async def test_no_step_is_claimed_before_it_is_due(due_steps: PostgresDueSteps, put: Put, sql: Any) -> None:
    later = await put(3_600)
    assert await claimed(due_steps) == []

    await sql("UPDATE due_steps SET due_at = now()")
    assert await claimed(due_steps) == [later]


async def test_only_the_requested_steps_are_claimed(due_steps: PostgresDueSteps, put: Put) -> None:
    await put(step=EXPIRE)
    second, first = await put(-10, CREATE), await put(-20, StepName.VALIDATE_CHANNEL)

    assert await claimed(due_steps, DELIVER) == []
    assert await claimed(due_steps, StepName.VALIDATE_CHANNEL, CREATE) == [first, second]


async def test_a_claim_names_its_step_and_is_leased_by_the_database_clock(
    due_steps: PostgresDueSteps, put: Put, sql: Any
) -> None:
    stream_id, lease = await put(-5), a_lease(ms=HOUR_MS)

    began: datetime = (await sql("SELECT clock_timestamp()"))[0][0]
    (claim,) = (await due_steps.claim(lease, {CREATE: None}, 1)).claims
    ended: datetime = (await sql("SELECT clock_timestamp()"))[0][0]

    row = (await rows(sql))[stream_id]
    assert (claim.stream_id, claim.step, claim.due_at) == (stream_id, CREATE, row["due_at"])
    assert row["owner"] == lease.owner
    assert began + HOUR <= row["lease_until"] <= ended + HOUR


async def test_the_claim_limit_holds_under_any_query_plan(due_steps: PostgresDueSteps, put: Put, sql: Any) -> None:
    """If statistics show a single row, PostgreSQL picks a plan that would run a subquery for each row."""
    await put()
    await sql("ANALYZE due_steps")
    await sql(
        "INSERT INTO due_steps SELECT gen_random_uuid(), $1, now() - n * interval '1 s' FROM generate_series(1, 50) AS n",
        CREATE,
    )

    assert [len(await claimed(due_steps, limit=limit)) for limit in (1, 2, 7)] == [1, 2, 7]


async def test_a_claimed_step_is_claimed_again_only_after_its_lease_lapses(
    due_steps: PostgresDueSteps, put: Put, sql: Any
) -> None:
    stream_id, first, second = await put(), a_lease(), a_lease()
    assert await claimed(due_steps, lease=first) == [stream_id]
    assert await claimed(due_steps, lease=second) == []
    assert await claimed(due_steps, lease=first) == []

    await sql("UPDATE due_steps SET lease_until = now()")
    await due_steps.free_lapsed()
    assert await claimed(due_steps, lease=second) == [stream_id]
    assert (await rows(sql))[stream_id]["owner"] == second.owner


async def test_concurrent_claimers_get_each_due_step_once(new_due_steps: Any, put: Put) -> None:
    ids = {await put(-number) for number in range(90)}
    claimers = [new_due_steps() for _ in range(4)]

    async def take(claimer: PostgresDueSteps) -> list[UUID]:
        taken: list[UUID] = []
        lease = a_lease()
        while found := await claimed(claimer, lease=lease, limit=7):
            taken += found
        return taken

    taken = [one for some in await asyncio.gather(*map(take, claimers)) for one in some]

    assert sorted(taken) == sorted(ids)


async def test_a_claim_skips_locked_rows(due_steps: PostgresDueSteps, put: Put, outsider: asyncpg.Connection) -> None:
    older, younger = await put(-20), await put(-10)
    async with outsider.transaction():
        await outsider.execute("SELECT FROM due_steps WHERE stream_id = $1 FOR UPDATE", older)
        async with asyncio.timeout(LONG):
            assert await claimed(due_steps, limit=1) == [younger]

    assert await claimed(due_steps) == [older]


# Steps of one session


async def test_an_expiry_is_claimed_once_while_its_webhook_is_still_due(
    new_due_steps: Any, due_steps: PostgresDueSteps, put: Put, sql: Any
) -> None:
    waiting = {await put(step=DELIVER) for _ in range(20)}
    held = await put(step=DELIVER, owner=uuid4(), leased_for=3_600)
    lasting = await put(step=DELIVER)
    for stream_id in (*waiting, held):
        await put(-1, EXPIRE, stream_id=stream_id)
    await put(3_600, EXPIRE, stream_id=lasting)
    expired = await put(step=EXPIRE)

    claimers = [new_due_steps() for _ in range(4)]
    found = await asyncio.gather(*(claimer.claim(a_lease(), {EXPIRE: None}, 100) for claimer in claimers))

    claims = [claim for some in found for claim in some.claims]
    assert sorted(claim.stream_id for claim in claims) == sorted({*waiting, held, expired})
    assert {claim.step for claim in claims} == {EXPIRE}
    assert sorted(await claimed(due_steps, DELIVER)) == sorted({*waiting, lasting})


async def test_a_lease_on_one_step_leaves_the_other_steps_of_the_session_claimable(
    due_steps: PostgresDueSteps, put: Put
) -> None:
    expiring = await put(step=DELIVER, owner=uuid4(), leased_for=3_600)
    await put(step=EXPIRE, stream_id=expiring)
    overdue = await put(step=CREATE, owner=uuid4(), leased_for=3_600)
    await put(step=StepName.ENFORCE_DEADLINE, stream_id=overdue)
    await put(step=EXPIRE, owner=uuid4(), leased_for=1)

    found = await due_steps.claim(a_lease(), dict.fromkeys(StepName), 100)
    assert {(claim.stream_id, claim.step) for claim in found.claims} == {
        (expiring, EXPIRE),
        (overdue, StepName.ENFORCE_DEADLINE),
    }


async def test_the_steps_of_one_claim_share_its_limit(due_steps: PostgresDueSteps, put: Put) -> None:
    for step in (DELIVER, EXPIRE) * 3:
        await put(step=step)

    assert [len(await claimed(due_steps, DELIVER, EXPIRE, limit=4)) for _ in range(3)] == [4, 2, 0]


async def test_a_delayed_release_of_one_step_does_not_delay_the_others(
    due_steps: PostgresDueSteps, put: Put, sql: Any
) -> None:
    owner = uuid4()
    stream_id = await put(step=DELIVER, owner=owner, leased_for=60)
    await put(-1, EXPIRE, stream_id=stream_id)

    await due_steps.release(owner, stream_id, HOUR_MS)

    assert await claimed(due_steps, DELIVER) == []
    assert await claimed(due_steps, EXPIRE) == [stream_id]


# Holding


async def test_a_heartbeat_extends_only_its_owners_leases_on_the_named_streams(
    due_steps: PostgresDueSteps, put: Put, sql: Any
) -> None:
    lease, other = a_lease(ms=2 * HOUR_MS), uuid4()
    mine = await put(owner=lease.owner, leased_for=60)
    mine_unnamed = await put(owner=lease.owner, leased_for=60)
    theirs, free = await put(owner=other, leased_for=60), await put()
    before = await rows(sql)

    assert await due_steps.heartbeat(lease, [mine, theirs, free, new_id()]) == {mine}

    after = await rows(sql)
    assert after[mine]["lease_until"] > before[mine]["lease_until"] + HOUR
    assert (after[mine]["owner"], after[mine]["due_at"]) == (lease.owner, before[mine]["due_at"])
    for untouched in (mine_unnamed, theirs, free):
        assert after[untouched] == before[untouched]


async def test_a_heartbeat_skips_locked_rows_and_cannot_deadlock(
    due_steps: PostgresDueSteps, put: Put, sql: Any, connect_by_sql: Any
) -> None:
    """An append locks rows in the order in which the sessions came. A heartbeat could lock them in another order."""
    lease = a_lease()
    busy, idle = await put(owner=lease.owner, leased_for=60), await put(owner=lease.owner, leased_for=60)
    before = await rows(sql)
    appending = await connect_by_sql()
    async with appending.transaction():
        await appending.execute("UPDATE due_steps SET due_at = due_at WHERE stream_id = $1", busy)
        async with asyncio.timeout(LONG):
            assert await due_steps.heartbeat(lease, [busy, idle]) == {idle}

    after = await rows(sql)
    assert after[idle]["lease_until"] > before[idle]["lease_until"]
    assert after[busy] == before[busy]


async def test_leases_are_renewed_only_until_they_are_released(due_steps: PostgresDueSteps, put: Put, sql: Any) -> None:
    lease = a_lease(ms=1_500)
    released, held = [await put(owner=lease.owner, leased_for=60) for _ in range(2)]
    beats: asyncio.Queue[list[UUID]] = asyncio.Queue()

    class Watched(PostgresDueSteps):
        async def heartbeat(self, lease: Lease, stream_ids: Any) -> set[UUID]:
            if beats.qsize() == 0:
                beats.put_nowait([])
                raise RuntimeError("an unexpected fault")
            if beats.qsize() == 1:
                beats.put_nowait([])
                raise ServiceUnreachable("database", Cause.CONNECTION_REFUSED)
            kept = await due_steps.heartbeat(Lease(owner=lease.owner, ms=HOUR_MS), stream_ids)
            beats.put_nowait(list(stream_ids))
            return kept

    leases = Leases(Watched(due_steps._engine, SCHEMA, due_steps._limiter), lease.ms)
    async with asyncio.timeout(LONG):
        with leases.hold(lease, held):
            with leases.hold(lease, released):
                pass
            while beats.qsize() < 4:
                await asyncio.sleep(0.005)
        beaten = [beats.get_nowait() for _ in range(4)]
        await leases.close()

    assert beaten == [[], [], [held], [held]]
    after = await rows(sql)
    assert after[held]["lease_until"] > after[released]["lease_until"] + HOUR / 2


# Releasing


async def test_a_released_step_can_be_claimed_at_once_by_any_owner(
    due_steps: PostgresDueSteps, put: Put, sql: Any
) -> None:
    stream_id, lease = await put(), a_lease()
    since = (await rows(sql))[stream_id]["due_at"]
    await claimed(due_steps, lease=lease)

    await due_steps.release(lease.owner, stream_id, 0)

    row = (await rows(sql))[stream_id]
    assert (row["owner"], row["lease_until"]) == (None, None)
    assert row["due_at"] >= since
    assert await claimed(due_steps) == [stream_id]


async def test_a_step_released_with_a_delay_is_due_after_that_delay(
    due_steps: PostgresDueSteps, put: Put, sql: Any
) -> None:
    stream_id, lease = await put(), a_lease()
    await claimed(due_steps, lease=lease)

    (began,) = (await sql("SELECT clock_timestamp()"))[0]
    await due_steps.release(lease.owner, stream_id, HOUR_MS)
    (ended,) = (await sql("SELECT clock_timestamp()"))[0]

    assert began + HOUR <= (await rows(sql))[stream_id]["due_at"] <= ended + HOUR
    assert await claimed(due_steps) == []


@pytest.mark.parametrize("days", [30, 365 * 7_900])
async def test_a_release_delay_can_be_as_long_as_any_token_lifetime(
    due_steps: PostgresDueSteps, put: Put, sql: Any, days: int
) -> None:
    lease, span = a_lease(), timedelta(days=days)
    stream_id = await put(step=EXPIRE)
    assert await claimed(due_steps, EXPIRE, lease=lease) == [stream_id]

    (began,) = (await sql("SELECT clock_timestamp()"))[0]
    await due_steps.release(lease.owner, stream_id, span // timedelta(milliseconds=1))

    assert (await rows(sql))[stream_id]["due_at"] >= began + span


async def test_a_release_never_moves_a_due_time_earlier(due_steps: PostgresDueSteps, put: Put, sql: Any) -> None:
    owner = uuid4()
    stream_id = await put(3_600, owner=owner, leased_for=60)
    before = (await rows(sql))[stream_id]["due_at"]

    await due_steps.release(owner, stream_id, 1_000)

    assert (await rows(sql))[stream_id]["due_at"] == before


async def test_an_owner_that_lost_its_lease_can_neither_release_nor_renew_it(
    due_steps: PostgresDueSteps, put: Put, sql: Any
) -> None:
    stream_id, first, second = await put(), a_lease(), a_lease()
    await claimed(due_steps, lease=first)
    await sql("UPDATE due_steps SET lease_until = now()")
    await due_steps.free_lapsed()
    await claimed(due_steps, lease=second)
    before = await rows(sql)

    await due_steps.release(first.owner, stream_id, HOUR_MS)
    await due_steps.heartbeat(Lease(owner=first.owner, ms=9 * HOUR_MS), [stream_id])

    assert await rows(sql) == before


async def test_release_all_frees_every_lease_of_its_owners_and_notifies_workers(
    due_steps: PostgresDueSteps, put: Put, sql: Any, connect_by_sql: Any
) -> None:
    owners, other = {uuid4(), uuid4()}, uuid4()
    mine = {await put(owner=owner, leased_for=60) for owner in owners for _ in range(2)}
    theirs = await put(owner=other, leased_for=60)
    before = (await rows(sql))[theirs]
    notified = asyncio.Event()
    await (await connect_by_sql()).add_listener("guestledger_guestledger", lambda *_: notified.set())

    await due_steps.release_all(owners)

    assert set(await claimed(due_steps)) == mine
    assert (await rows(sql))[theirs] == before
    async with asyncio.timeout(LONG):
        await notified.wait()


async def test_release_all_skips_locked_rows_and_cannot_deadlock(
    due_steps: PostgresDueSteps, put: Put, sql: Any, connect_by_sql: Any
) -> None:
    owner = uuid4()
    busy, idle = await put(owner=owner, leased_for=60), await put(owner=owner, leased_for=60)
    before = await rows(sql)
    appending = await connect_by_sql()
    async with appending.transaction():
        await appending.execute("UPDATE due_steps SET due_at = due_at WHERE stream_id = $1", busy)
        async with asyncio.timeout(LONG):
            await due_steps.release_all([owner])

    assert await claimed(due_steps) == [idle]
    assert (await rows(sql))[busy] == before[busy]


# Counting


async def test_the_backlog_excludes_future_expiries_and_far_webhook_retries(
    due_steps: PostgresDueSteps, put: Put, sql: Any
) -> None:
    assert await due_steps.unfinished({}) == 0
    await put(3_600, EXPIRE)
    assert await due_steps.unfinished({}) == 0

    await put(-1, EXPIRE)
    await put(-1)
    waiting = await put(3_600)
    await put(7_200, StepName.ENFORCE_DEADLINE, stream_id=waiting)
    await put(-1, owner=uuid4(), leased_for=60)
    assert await due_steps.unfinished({}) == 4, "each session counts once"

    hooked = {DELIVER: "hooks"}
    far = await put(3_600, DELIVER)
    assert await due_steps.unfinished(hooked) == 4
    near = await put(30, DELIVER)
    assert await due_steps.unfinished(hooked) == 5
    assert await due_steps.unfinished({}) == 4, "a process without a webhook does not wait for notices"

    await sql("UPDATE due_steps SET due_at = now()")
    assert await due_steps.unfinished(hooked) == 7
    assert await due_steps.unfinished({}) == 5
    for stream_id in (far, near):
        await put(-1, EXPIRE, stream_id=stream_id)
    assert await due_steps.unfinished({}) == 7, "but it records their expiries"


async def test_a_step_of_a_dead_worker_counts_as_due_though_nobody_has_freed_it(
    due_steps: PostgresDueSteps, put: Put
) -> None:
    lost = await put(-60, StepName.SETTLE_ATTEMPT, owner=uuid4(), leased_for=-30)
    running = await put(-20, StepName.SETTLE_ATTEMPT, owner=uuid4(), leased_for=30)

    counts = {count.step: count for count in await due_steps.counts()}[StepName.SETTLE_ATTEMPT]
    backlog = await due_steps.backlog()

    assert (counts.due, counts.leased) == (1, 1)
    assert counts.oldest_seconds >= 60
    assert backlog.waiting == 2
    assert backlog.oldest_accepted_at == began_at(lost) != began_at(running)
    assert backlog.oldest_due is not None
    assert backlog.oldest_due.step is StepName.SETTLE_ATTEMPT


# Together with the log


async def test_a_step_appended_with_a_lease_belongs_to_the_lease_owner(
    store: Any, due_steps: PostgresDueSteps, sql: Any
) -> None:
    lease, other, stream_id = a_lease(), a_lease(), new_id()
    await store.append(an_append(stream_id, steps=due(lease=lease)))
    assert await claimed(due_steps, lease=other) == []

    await due_steps.release(lease.owner, stream_id)
    assert await claimed(due_steps, lease=other) == [stream_id]

    await store.append(an_append(stream_id, 1, steps=due(lease=lease)))
    assert (await rows(sql))[stream_id]["owner"] == lease.owner


async def test_concurrent_appends_and_heartbeats_do_not_deadlock(store: Any, due_steps: PostgresDueSteps) -> None:
    lease = a_lease()
    ids = [new_id() for _ in range(40)]
    appending = True

    async def beat() -> int:
        beats = 0
        while appending:
            await due_steps.heartbeat(lease, ids[::-1])
            beats += 1
        return beats

    async def append(stream_id: UUID) -> None:
        for version in range(8):
            await store.append(an_append(stream_id, version, steps=due(lease=lease)))

    await due_steps.heartbeat(lease, ids)  # connects
    beating = asyncio.create_task(beat())
    await asyncio.gather(*map(append, ids))
    appending = False
    assert await beating > 1
    assert await store.head() == 8 * len(ids) - 1


async def test_claims_and_leases_do_not_wait_for_the_disk(due_steps: PostgresDueSteps, put: Put, sql: Any) -> None:
    for _ in range(3):
        await put()
    await put(owner=uuid4(), leased_for=-1)
    # A commit that waits for the disk waits for this standby too.
    await sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    try:
        await sql("SELECT pg_reload_conf()")
        async with asyncio.timeout(LONG):
            while not await _hangs(sql("SELECT pg_logical_emit_message(true, 'test', '')")):
                await asyncio.sleep(0.05)
            lease = a_lease()
            claims = await claimed(due_steps, CREATE, lease=lease, limit=2)
            assert len(await due_steps.heartbeat(lease, claims)) == 2
            await due_steps.free_lapsed()
            await due_steps.release(lease.owner, claims[0])
            await due_steps.release_all([lease.owner])
    finally:
        await sql("ALTER SYSTEM RESET synchronous_standby_names")
        await sql("SELECT pg_reload_conf()")


async def _hangs(statement: Awaitable[Any]) -> bool:
    try:
        await asyncio.wait_for(statement, 0.5)
    except TimeoutError:
        return True
    return False
