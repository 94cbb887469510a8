"""Rotating the key-encryption key: every data key is wrapped again, while workers run, and no event changes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from guestledger.adapters.keys import open_rotation
from guestledger.adapters.postgres.personal import key_rotation
from guestledger.adapters.postgres.personal.key_ring import WrongKey
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from tests import postgres
from tests.integration.test_key_vault import revealed, rows, upgraded
from tests.keys import KEY, NEW_KEY
from tests.unit.samples import IP, request

BOTH = f"{NEW_KEY} {KEY}"


@pytest.fixture(params=["beside the log", "apart"])
async def ledger_settings(
    request: pytest.FixtureRequest, runtime_server: str, database_url: str
) -> AsyncIterator[Settings]:
    """A ledger under `KEY`, its vault beside the log or in a database of its own."""
    settings = Settings(database_url=database_url, encryption_key=KEY)
    if request.param == "beside the log":
        yield settings
        return
    async with postgres.new_database(runtime_server) as vault_url:
        apart = replace(settings, vault_url=vault_url)
        await upgraded(apart)
        yield apart


async def wrapped_by(settings: Settings) -> dict[str, int]:
    found = "SELECT kek, count(*) FROM guestledger.data_keys GROUP BY kek"
    return dict(await rows(settings.vault_url or settings.database_url or "", found))


async def rotated(settings: Settings) -> key_rotation.Rotation:
    async with open_rotation(settings) as rotation:
        return await rotation.rotate(lambda _total: None, lambda _more: None)


def guest(number: int) -> Any:
    return replace(request(), subject_id=f"guest {number}" if number % 2 else None, idempotency_key=None)


async def test_rotation_wraps_all_keys_again_and_the_old_key_may_go(ledger_settings: Settings) -> None:
    async with connect(ledger_settings) as ledger:
        sessions = [await ledger.accept(guest(number)) for number in range(5)]
    events = await rows(
        ledger_settings.database_url or "", "SELECT leaf_hash FROM guestledger.events ORDER BY position"
    )
    [before] = await wrapped_by(ledger_settings)

    done = await rotated(replace(ledger_settings, encryption_key=BOTH))

    counts = await wrapped_by(ledger_settings)
    assert counts == {done.key: done.rewrapped}
    assert done.key != before
    assert (
        await rows(ledger_settings.database_url or "", "SELECT leaf_hash FROM guestledger.events ORDER BY position")
        == events
    )
    async with connect(replace(ledger_settings, encryption_key=NEW_KEY)) as ledger:
        for session in sessions:
            assert (await revealed(ledger, session)).guest.ip_address == IP
    with pytest.raises(WrongKey):
        async with connect(ledger_settings):
            pass


async def test_workers_with_both_keys_go_on_while_keys_are_rotated(
    ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_rotation, "BATCH", 3)
    both = replace(ledger_settings, encryption_key=BOTH)
    async with connect(ledger_settings) as ledger:
        sessions = [await ledger.accept(guest(number)) for number in range(10)]
    async with connect(both) as one, connect(both) as other:
        opening = [asyncio.create_task(each.accept(guest(number))) for number in range(10, 60) for each in (one, other)]
        await asyncio.sleep(0.05)
        done = await rotated(both)
        opening += [
            asyncio.create_task(each.accept(guest(number))) for number in range(60, 80) for each in (one, other)
        ]
        sessions += await asyncio.gather(*opening)

    assert set(await wrapped_by(ledger_settings)) == {done.key}
    async with connect(replace(ledger_settings, encryption_key=NEW_KEY), scheduler=False) as ledger:
        for session in sessions:
            assert (await revealed(ledger, session)).guest.ip_address == IP


async def test_an_interrupted_rotation_continues(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_rotation, "BATCH", 2)
    both = replace(ledger_settings, encryption_key=BOTH)
    async with connect(ledger_settings) as ledger:
        sessions = [await ledger.accept(guest(number)) for number in range(8)]

    class Interrupted(Exception):
        pass

    def interrupt(_more: int) -> None:
        interrupt.calls += 1  # type: ignore[attr-defined]
        if interrupt.calls == 3:  # type: ignore[attr-defined]
            raise Interrupted

    interrupt.calls = 0  # type: ignore[attr-defined]
    async with open_rotation(both) as rotation:
        with pytest.raises(Interrupted):
            await rotation.rotate(lambda _total: None, interrupt)
    assert len(await wrapped_by(ledger_settings)) == 2
    async with connect(both) as ledger:
        assert (await revealed(ledger, sessions[0])).guest.ip_address == IP

    done = await rotated(both)

    assert set(await wrapped_by(ledger_settings)) == {done.key}
    assert (await rotated(both)).rewrapped == 0
    async with connect(replace(ledger_settings, encryption_key=NEW_KEY)) as ledger:
        for session in sessions:
            assert (await revealed(ledger, session)).guest.ip_address == IP


async def test_a_key_that_was_destroyed_stays_destroyed(ledger_settings: Settings) -> None:
    async with connect(ledger_settings) as ledger:
        await ledger.accept(guest(1))
        kept = await ledger.accept(guest(2))
        subject = await ledger._adapters.personal.subject_of("guest 1")
        await ledger._adapters.vault.destroy(await ledger._adapters.vault.ids(subject))

    await rotated(replace(ledger_settings, encryption_key=BOTH))

    found = await rows(
        ledger_settings.vault_url or ledger_settings.database_url or "",
        "SELECT DISTINCT subject FROM guestledger.data_keys",
    )
    assert {owner for (owner,) in found} == {b"", kept.id.bytes}


async def test_nothing_is_rotated_without_the_old_key(ledger_settings: Settings) -> None:
    async with connect(ledger_settings) as ledger:
        await ledger.accept(guest(1))
    before = await wrapped_by(ledger_settings)

    with pytest.raises(WrongKey):
        await rotated(replace(ledger_settings, encryption_key=NEW_KEY))
    assert await wrapped_by(ledger_settings) == before
