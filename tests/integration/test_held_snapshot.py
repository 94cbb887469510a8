"""Due steps under an idle transaction elsewhere that holds a snapshot: dead versions of done rows stay in the index."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from guestledger.adapters.postgres.work import scan_bounds
from guestledger.adapters.postgres.work.due_steps import PostgresDueSteps
from guestledger.engine.domain.due import StepName
from tests.integration.appends import a_lease, new_id

STEP = StepName.ENFORCE_DEADLINE
WANTED = {STEP: None}
DONE = 3_000
ADD = "INSERT INTO due_steps (stream_id, step, due_at) VALUES ($1, $2, $3)"


@pytest.fixture
async def held(
    database_url: str, connect_by_sql: Any, sql: Any, due_steps: PostgresDueSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`DONE` rows are done, half of them long before they were due, and a snapshot keeps them all."""
    monkeypatch.setattr(scan_bounds, "MIN_DEAD", DONE)
    holder = await connect_by_sql()
    await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM head")
    await sql(
        """
        INSERT INTO due_steps (stream_id, step, due_at)
        SELECT gen_random_uuid(), $1, now() + (CASE WHEN n % 2 = 0 THEN 1 ELSE -1 END) * (60 + n) * interval '1 s'
          FROM generate_series(1, $2::int) AS n""",
        STEP,
        DONE,
    )
    await sql("DELETE FROM due_steps")
    await sql("SELECT pg_stat_force_next_flush()")
    await due_steps.outlook(WANTED)  # reads the statistics
    assert due_steps._bounds.dead >= DONE


async def test_work_that_has_just_become_due_is_found_under_a_held_snapshot(
    held: None, due_steps: PostgresDueSteps, sql: Any
) -> None:
    await due_steps.outlook(WANTED)
    stream_id = new_id()
    await sql(ADD, stream_id, STEP, datetime.now(UTC))

    assert (await due_steps.outlook(WANTED)).claimable == {STEP}
    assert [claim.stream_id for claim in (await due_steps.claim(a_lease(), WANTED, 10)).claims] == [stream_id]


async def test_work_far_behind_is_found_under_a_held_snapshot_after_a_rescan(
    held: None, due_steps: PostgresDueSteps, sql: Any
) -> None:
    await due_steps.outlook(WANTED)
    stream_id = uuid4()
    await sql(ADD, stream_id, STEP, datetime.now(UTC) - timedelta(hours=1))

    due_steps.rescan()

    assert [claim.stream_id for claim in (await due_steps.claim(a_lease(), WANTED, 10)).claims] == [stream_id]


async def test_a_backlog_is_claimed_in_due_order_under_a_held_snapshot(
    held: None, due_steps: PostgresDueSteps, sql: Any
) -> None:
    backlog = [new_id() for _ in range(30)]
    for number, stream_id in enumerate(backlog):
        await sql(ADD, stream_id, STEP, datetime.now(UTC) - timedelta(seconds=600 - number))
    due_steps.rescan()

    claimed = [claim.stream_id for _ in range(4) for claim in (await due_steps.claim(a_lease(), WANTED, 8)).claims]

    assert claimed == backlog


async def test_a_bounded_look_passes_no_dead_versions(held: None, due_steps: PostgresDueSteps, sql: Any) -> None:
    full = await pages(sql, due_steps, [None], None)
    await due_steps.outlook(WANTED)

    bounded = await pages(sql, due_steps, due_steps._bounds.since([STEP]), due_steps._bounds.ahead)

    assert bounded < full / 3


async def pages(sql: Any, due_steps: PostgresDueSteps, since: list[datetime | None], ahead: timedelta | None) -> int:
    """How many pages a look reads."""
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {due_steps._sql.outlook}"
    [(plan,)] = await sql(explain, ["sessions"], [STEP], [None], since, ahead)
    return int(json.loads(plan)[0]["Plan"]["Shared Hit Blocks"])
