"""The log's end: the runtime's user cannot move it to where no append can follow, nor put an event beside it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from tests import logs
from tests.integration.appends import an_append
from tests.integration.conftest import Sql

NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("position", "recorded_at"),
    [
        (2**63 - 1, NOW),
        (2**62, NOW),
        (5_000_000, NOW),
        (-5, NOW),
        (1, NOW + timedelta(days=3_000)),
        (1, datetime(9999, 12, 31, tzinfo=UTC)),
        (1, NOW - timedelta(days=1)),
    ],
)
async def test_the_runtime_user_cannot_move_the_end_of_the_log(
    position: int, recorded_at: datetime, store: PostgresEventStore, runtime: asyncpg.Connection
) -> None:
    assert (await store.append(an_append())).position == 0
    with pytest.raises(asyncpg.SerializationError, match="the log cannot continue at position"):
        await runtime.execute("INSERT INTO guestledger.batches VALUES ($1, $2)", position, recorded_at)
    assert (await store.append(an_append())).position == 1


ADD = """
    INSERT INTO guestledger.events (stream_id, version, position, event_type, schema_version, recorded_at, correlation_id,
                                    causation_id, actor, data, leaf_hash)
    SELECT new.id, 1, new.position, 'ConsentRecorded', 1, now(), 'by hand', new.id, 'by hand', '{}', ''
      FROM unnest($1::uuid[], $2::bigint[]) AS new(id, position)"""


async def write_by_hand(runtime: asyncpg.Connection, end: int | None, positions: list[int]) -> None:
    # Sessions of different months: an index keeps a position unique in each partition only.
    ids = [logs.new_stream(NOW + timedelta(days=40 * number)) for number in range(len(positions))]
    async with runtime.transaction():
        if end is not None:
            await runtime.execute("INSERT INTO guestledger.batches VALUES ($1, now())", end)
        await runtime.execute(ADD, ids, positions)


@pytest.mark.parametrize("end", [None, 1, 3])
@pytest.mark.parametrize("positions", [[1, 2], [2], [1, 3], [5], [2**62], [-7]])
async def test_the_runtime_user_cannot_add_an_event_beside_the_log(
    end: int | None, positions: list[int], store: PostgresEventStore, runtime: asyncpg.Connection
) -> None:
    await store.append(an_append())
    with pytest.raises(asyncpg.RestrictViolationError, match="only as one batch that continues the log"):
        await write_by_hand(runtime, end, positions)
    appended = await asyncio.gather(*(store.append(an_append()) for _ in range(3)))
    assert [one.position for one in appended] == [1, 2, 3]


async def test_appends_continue_after_a_batch_that_the_runtime_user_wrote_by_hand(
    store: PostgresEventStore, runtime: asyncpg.Connection
) -> None:
    await store.append(an_append())
    await write_by_hand(runtime, 2, [1, 2])
    assert (await store.append(an_append())).position == 3


async def test_the_owner_can_restore_any_end_of_the_log(sql: Sql, store: Any) -> None:
    await sql("INSERT INTO batches VALUES (5000000, now() + interval '1 day')")
    assert (await store.append(an_append())).position == 5_000_001
