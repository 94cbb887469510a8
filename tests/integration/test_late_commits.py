"""An outcome is recorded in silence, whichever of its tries the database commits, and however late."""

import asyncio

import pytest

from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.domain.session import Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.log.appends import Append, Appended
from guestledger.engine.log.codec import wire_name
from tests.unit.samples import request


@pytest.mark.parametrize("committed", [0, 1, 2], ids=["the first", "the second", "the third"])
async def test_an_outcome_is_recorded_in_silence_whichever_try_is_committed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, committed: int
) -> None:
    """Three tries fail here; one of them is committed all the same, and only after the others have failed."""
    append = ledger._adapters.store.append
    tries: list[Append] = []

    async def unsure(asked: Append) -> Appended:
        if "SessionCreated" not in map(wire_name, asked.events):
            return await append(asked)
        tries.append(asked)
        if len(tries) == 3:
            await append(tries[committed])
        if len(tries) > 3:
            return await append(asked)
        raise ServiceUnreachable("database", Cause.SERVICE_UNAVAILABLE, "the connection was lost")

    monkeypatch.setattr(ledger._adapters.store, "append", unsure)
    with pytest.raises(ServiceUnreachable):
        await ledger.open_session(request())
    async with asyncio.timeout(30):
        while ledger._opener._executor.recorder._unrecorded:
            await asyncio.sleep(0.01)

    [row] = [row async for row in ledger.sessions()]
    assert row.status is Status.ACTIVE
    assert not [record for record in caplog.records if "late" in record.getMessage()]


async def test_an_outcome_that_two_tasks_record_is_recorded_once_and_in_silence(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = ledger._opener._executor.recorder
    append = ledger._adapters.store.append
    failed = False

    async def once_away(asked: Append) -> Appended:
        nonlocal failed
        if "SessionCreated" in map(wire_name, asked.events) and not failed:
            failed = True
            raise ServiceUnreachable("database", Cause.SERVICE_UNAVAILABLE, "the connection was lost")
        return await append(asked)

    record_once_back = recorder.record_once_back
    monkeypatch.setattr(recorder, "record_once_back", lambda *given: [record_once_back(*given) for _ in range(2)])
    monkeypatch.setattr(ledger._adapters.store, "append", once_away)
    with pytest.raises(ServiceUnreachable):
        await ledger.open_session(request())
    async with asyncio.timeout(30):
        while recorder._unrecorded:
            await asyncio.sleep(0.01)

    [row] = [row async for row in ledger.sessions()]
    assert row.status is Status.ACTIVE
    assert not caplog.records
