"""Due steps in PostgreSQL, as appends change them: together with the events, or not at all."""

import asyncio
import re
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from guestledger.adapters.postgres.errors import DatabaseFault
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.log.statements import AppendStatements
from guestledger.engine.domain.due import DueStep, StepName
from guestledger.engine.domain.errors import WrongExpectedVersion
from guestledger.engine.log.appends import Appended, KeyTaken, Lease, StepChanges
from tests.integration.appends import a_lease, an_append, due, new_id
from tests.integration.conftest import Sql
from tests.integration.plain_sql import connect_plainly
from tests.unit.samples import START

CREATE, DELIVER, EXPIRE = StepName.CREATE_SESSION, StepName.DELIVER_WEBHOOK, StepName.EXPIRE_TOKEN
LATER = START + timedelta(hours=1)
DONE = StepChanges(done=frozenset({CREATE}))

Rows = dict[tuple[UUID, str], tuple[Any, ...]]


async def due_rows(sql: Sql) -> Rows:
    """Due time, owner and end of the lease, by stream and step."""
    rows = await sql("SELECT stream_id, step, due_at, owner, lease_until FROM due_steps")
    return {(row["stream_id"], row["step"]): tuple(row)[2:] for row in rows}


def leased(appended: Appended, lease: Lease) -> tuple[Any, ...]:
    return lease.owner, appended.at + timedelta(milliseconds=lease.ms)


async def test_an_append_replaces_the_due_step_of_the_previous_append(store: PostgresEventStore, sql: Sql) -> None:
    stream_id, lease = new_id(), a_lease(ms=10_000)

    opened = await store.append(an_append(stream_id, steps=due(step=CREATE, lease=lease)))
    assert await due_rows(sql) == {(stream_id, CREATE): (START, *leased(opened, lease))}

    replaced = StepChanges(due=(DueStep(EXPIRE, LATER),), done=frozenset({CREATE}))
    await store.append(an_append(stream_id, 1, steps=replaced))
    assert await due_rows(sql) == {(stream_id, EXPIRE): (LATER, None, None)}

    await store.append(an_append(stream_id, 2, steps=StepChanges(done=frozenset({EXPIRE}))))
    assert await due_rows(sql) == {}


async def test_an_append_changes_no_other_step_of_its_stream(store: PostgresEventStore, sql: Sql) -> None:
    stream_id, lease, other = new_id(), a_lease(), a_lease()
    first = await store.append(an_append(stream_id, steps=due(step=EXPIRE, lease=lease)))
    second = await store.append(an_append(stream_id, 1, steps=due(step=DELIVER, lease=other)))

    await store.append(an_append(stream_id, 2))
    await store.append(an_append(stream_id, 3, steps=StepChanges(done=frozenset({CREATE}))))

    assert await due_rows(sql) == {
        (stream_id, EXPIRE): (START, *leased(first, lease)),
        (stream_id, DELIVER): (START, *leased(second, other)),
    }


async def test_an_append_without_a_lease_keeps_the_current_lease(store: PostgresEventStore, sql: Sql) -> None:
    held, free, lease = new_id(), new_id(), a_lease()
    opened = await store.append(an_append(held, steps=due(lease=lease)))
    await store.append(an_append(free))

    await store.append(an_append(held, 1, steps=due(LATER)))
    await store.append(an_append(free, 1, steps=due(LATER)))

    assert await due_rows(sql) == {
        (held, CREATE): (LATER, *leased(opened, lease)),
        (free, CREATE): (LATER, None, None),
    }


async def test_an_append_releases_its_own_step(store: PostgresEventStore, sql: Sql) -> None:
    stream_id = new_id()
    await store.append(an_append(stream_id, steps=due(lease=a_lease())))

    released = StepChanges(due=(DueStep(CREATE, LATER),), mine=frozenset({CREATE}), lease=None)
    await store.append(an_append(stream_id, 1, steps=released))

    assert await due_rows(sql) == {(stream_id, CREATE): (LATER, None, None)}


async def test_the_last_append_of_a_batch_sets_the_due_step_of_its_stream(store: PostgresEventStore, sql: Sql) -> None:
    lease, moved, unchanged = a_lease(), due(LATER), StepChanges()
    chains = {
        new_id(): (due(lease=lease), moved),
        new_id(): (due(lease=lease), unchanged),
        new_id(): (moved, DONE),
        new_id(): (unchanged, moved),
        new_id(): (due(lease=lease), DONE, moved),
        new_id(): (moved, due(lease=lease)),
    }

    (first, *_) = await asyncio.gather(
        *(
            store.append(an_append(stream_id, version, steps=steps))
            for stream_id, chain in chains.items()
            for version, steps in enumerate(chain)
        )
    )

    free, held = (LATER, None, None), (START, *leased(first, lease))
    rows = ((LATER, *leased(first, lease)), held, None, free, free, held)
    expected = {(stream_id, CREATE): row for stream_id, row in zip(chains, rows, strict=True) if row}
    assert await due_rows(sql) == expected


async def test_a_rejected_append_leaves_due_steps_unchanged(store: PostgresEventStore, sql: Sql) -> None:
    ids = [new_id() for _ in range(3)]
    for stream_id in ids:
        await store.append(an_append(stream_id, key=str(stream_id), steps=due(lease=a_lease())))
    before = await due_rows(sql)

    results = await asyncio.gather(
        store.append(an_append(ids[0], 0, steps=DONE)),
        store.append(an_append(ids[1], 7, steps=due(LATER, lease=a_lease()))),
        store.append(an_append(ids[2], 0, steps=due(LATER))),
        store.append(an_append(key=str(ids[0]), steps=due(LATER))),
        return_exceptions=True,
    )

    assert [type(error) for error in results] == [WrongExpectedVersion] * 3 + [KeyTaken]
    assert await due_rows(sql) == before


@pytest.mark.usefixtures("database_url")
async def test_events_and_due_steps_are_stored_atomically(store: PostgresEventStore, sql: Sql) -> None:
    await sql(f"ALTER TABLE due_steps ADD CONSTRAINT not_allowed CHECK (step <> '{EXPIRE}')")

    results = await asyncio.gather(
        store.append(an_append(key="order-1", steps=due(step=EXPIRE))),
        store.append(an_append(key="order-2")),
        return_exceptions=True,
    )

    assert [type(result) for result in results] == [DatabaseFault, Appended]
    assert await store.head() == 0
    stored = (await store._personal.hashed("key", "order-2")).hex()
    assert [row["idempotency_key"] for row in await sql("SELECT * FROM request_keys")] == [stored]
    assert isinstance(await store.append(an_append(key="order-1")), Appended)


async def test_appends_find_steps_and_personal_data_by_index(database_url: str) -> None:
    statement = AppendStatements("guestledger").append
    connection = await connect_plainly(database_url)
    try:
        # Prepared on an empty table, the plan is kept while the table grows.
        await connection.execute(f"SET plan_cache_mode = force_generic_plan; PREPARE append AS {statement}")
        parameters = max(map(int, re.findall(r"\$(\d+)", statement)))
        plan = await connection.fetch(f"EXPLAIN EXECUTE append({', '.join(['NULL'] * parameters)})")
    finally:
        await connection.close()
    lines = [row[0] for row in plan]
    assert any("due_steps" in line for line in lines)
    tables = ("due_steps", "personal", "personal_index", "data_keys", "destroyed_keys")
    assert not [
        line for line in lines if line.strip(" ->").startswith(tuple(f"Seq Scan on {table} " for table in tables))
    ]
