"""The database keeps the log append-only, for every user and every statement."""

from typing import Any

import asyncpg
import pytest

from tests.integration.appends import an_append

CHANGES = {
    "UPDATE": "UPDATE {log} SET actor = 'somebody else'",
    "DELETE": "DELETE FROM {log}",
    "TRUNCATE": "TRUNCATE {log}",
    "an UPDATE that would meet no row": "UPDATE {log} SET actor = 'somebody else' WHERE position = -5",
    "a DELETE that would meet no row": "DELETE FROM {log} WHERE false",
    "a TRUNCATE together with another table": "TRUNCATE guestledger.due_steps, {log} CASCADE",
    "an UPDATE by way of INSERT": (
        "INSERT INTO {log} SELECT * FROM {log} ON CONFLICT (stream_id, version) DO UPDATE SET actor = 'somebody else'"
    ),
    "a MERGE": ("MERGE INTO {log} AS old USING {log} AS new ON old.position = new.position WHEN MATCHED THEN DELETE"),
}


@pytest.mark.parametrize("role", ["origin", "replica"])
@pytest.mark.parametrize("change", CHANGES)
async def test_every_change_to_the_log_is_refused_by_name(
    change: str, role: str, store: Any, outsider: asyncpg.Connection
) -> None:
    await store.append(an_append())
    before = await outsider.fetch("SELECT * FROM events")
    await outsider.execute(f"SET session_replication_role = {role}")

    with pytest.raises(asyncpg.RestrictViolationError, match=r"^guestledger\.events is append-only: \w+ is refused$"):
        await outsider.execute(CHANGES[change].format(log="guestledger.events"))

    assert await outsider.fetch("SELECT * FROM events") == before


async def test_the_log_accepts_events_after_a_refused_change(store: Any, outsider: asyncpg.Connection) -> None:
    await store.append(an_append())
    with pytest.raises(asyncpg.RestrictViolationError):
        await outsider.execute("DELETE FROM events")

    assert (await store.append(an_append())).position == 1


@pytest.mark.parametrize("column", ["position", "stream_id, version"])
async def test_positions_of_a_partition_and_versions_of_a_stream_are_unique(
    column: str, store: Any, outsider: asyncpg.Connection
) -> None:
    await store.append(an_append())
    fresh = {
        "position": ("overlay(stream_id::text PLACING 'ffff' FROM 33)::uuid", "1", "position"),
        "stream_id, version": ("stream_id", "version", "9"),
    }

    with pytest.raises(asyncpg.UniqueViolationError):
        await outsider.execute(
            f"INSERT INTO events SELECT {', '.join(fresh[column])}, event_type, schema_version, recorded_at, "
            "correlation_id, causation_id, actor, data, leaf_hash FROM events"
        )
