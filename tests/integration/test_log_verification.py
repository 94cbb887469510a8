"""Verification of the log: it finds what was changed behind the ledger's back, and says what it read."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from hashlib import sha256
from typing import Any

import pytest

from guestledger.engine.ledger import Ledger
from tests import logs
from tests.integration.conftest import Sql

EVENTS = 40
OWNERS = "SET session_replication_role = replica"


@pytest.fixture
async def whole(database_url: str, ledger: Ledger, ledger_url: str, sql: Sql) -> Callable[[str], Awaitable[None]]:
    """A log of `EVENTS` events in a database of its own, and `await whole(statement)`: change it as only an owner could."""
    await logs.write(ledger_url, EVENTS)

    async def change(statement: str) -> None:
        parts = await sql(
            "SELECT inhrelid::regclass::text AS part FROM pg_inherits WHERE inhparent = 'events'::regclass"
        )
        for table in ("events", "batches", *(row["part"] for row in parts)):
            await sql(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        await sql(statement)

    return change


async def test_an_unchanged_log_is_intact_with_the_digest_of_its_hashes(ledger: Ledger, whole: Any, sql: Sql) -> None:
    seen: list[int] = []

    found = await ledger.events.verify(advanced=seen.append)

    rows = await sql("SELECT position, leaf_hash FROM events ORDER BY position")
    digest = sha256(b"".join(row["position"].to_bytes(8, "big") + row["leaf_hash"] for row in rows)).hexdigest()
    assert found.is_intact
    assert (found.events, found.first_position, found.last_position) == (EVENTS, 0, EVENTS - 1)
    assert (found.digest, found.detached, found.unaccounted) == (digest, 0, 0)


async def test_an_empty_log_is_intact(ledger: Ledger) -> None:
    found = await ledger.events.verify()
    assert found.is_intact
    assert (found.events, found.first_position, found.digest) == (0, None, sha256().hexdigest())


@pytest.mark.parametrize(
    ("change", "changed", "missing"),
    [
        ("UPDATE events SET actor = 'nobody' WHERE position = 7", (7,), ()),
        ("UPDATE events SET data = replace(data::text, 'ch_', 'CH_')::json WHERE position IN (0, 9)", (0, 9), ()),
        ("UPDATE events SET recorded_at = recorded_at - interval '1 s' WHERE position = 7", (7,), ()),
        ("UPDATE events SET leaf_hash = '\\x00' WHERE position = 7", (7,), ()),
        ("DELETE FROM events WHERE position IN (0, 5, 39)", (), (0, 5, 39)),
        ("DELETE FROM events", (), tuple(range(10))),
    ],
)
async def test_a_change_behind_the_ledgers_back_is_found(
    change: str, changed: tuple[int, ...], missing: tuple[int, ...], ledger: Ledger, whole: Any
) -> None:
    await whole(change)

    found = await ledger.events.verify()

    assert (found.changed, found.missing, found.is_intact) == (changed, missing, False)


async def test_a_kept_digest_shows_a_change_whose_hash_was_changed_too(ledger: Ledger, whole: Any, sql: Sql) -> None:
    before = await ledger.events.verify()
    await whole("UPDATE events SET actor = 'nobody' WHERE position = 7")
    [row] = await sql("SELECT *, data::text AS data FROM events WHERE position = 7")
    hashed = {name: row[name] for name in logs.COLUMNS if name not in {"position", "leaf_hash"}}
    await sql("UPDATE events SET leaf_hash = $1 WHERE position = 7", logs.leaf_hash(**hashed))

    after = await ledger.events.verify()

    assert after.is_intact
    assert after.digest != before.digest


async def test_a_span_of_time_has_the_same_digest_whatever_comes_later(
    ledger: Ledger, whole: Any, ledger_url: str, sql: Sql
) -> None:
    await sql("INSERT INTO batches SELECT position, recorded_at FROM events WHERE position < 39")
    [(tenth, thirtieth)] = await sql(
        "SELECT min(recorded_at) FILTER (WHERE position = 10), "
        "min(recorded_at) FILTER (WHERE position = 30) FROM events"
    )
    before = await verified(ledger, tenth, thirtieth)
    await logs.write(ledger_url, 5, after=EVENTS - 1)

    assert await verified(ledger, tenth, thirtieth) == before
    assert (before.events, before.first_position, before.last_position) == (20, 10, 29)
    assert (await verified(ledger, None, None)).events == EVENTS + 5
    assert (await verified(ledger, tenth, tenth)).events == 0


async def verified(ledger: Ledger, since: datetime | None, until: datetime | None) -> Any:
    return await ledger.events.verify(since=since, until=until)
