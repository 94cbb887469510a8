"""The log's end: the runtime's user cannot move it to where no append can follow."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from guestledger.adapters.postgres.log.event_store import PostgresEventStore
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


async def test_the_owner_can_restore_any_end_of_the_log(sql: Sql, store: Any) -> None:
    await sql("INSERT INTO batches VALUES (5000000, now() + interval '1 day')")
    assert (await store.append(an_append())).position == 5_000_001
