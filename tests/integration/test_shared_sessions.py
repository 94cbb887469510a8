"""A provider that gives two guests one session id."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.errors import ResolutionRefused, SessionIdShared
from guestledger.engine.domain.outcomes import Adoption
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import InDoubt
from guestledger.engine.log.appends import Append, Appended
from guestledger.engine.ports.session_finder import FindFilter
from guestledger.engine.projections.audit import AuditFilter
from tests.keys import revealed
from tests.scripted import created, reply, scripted_peer
from tests.unit.samples import request


def same(_: int) -> bytes:
    return reply(201, created(1))


async def creation_of(ledger: Ledger, session: Session) -> e.SessionCreated:
    [found] = [one.event for one in await ledger.history(session.id) if isinstance(one.event, e.SessionCreated)]
    return found


async def test_a_second_guest_with_a_session_id_is_recorded_and_logged(
    new_ledger: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted_peer(sessions=same) as peer, new_ledger(**peer.settings) as ledger:
        first, second = await ledger.open_session(request()), await ledger.open_session(request())

        assert (first.status, first.shared_with) == (Status.ACTIVE, None)
        assert (second.status, second.shared_with) == (Status.ACTIVE, first.id)
        assert (await creation_of(ledger, first)).shared_with is None
        assert (await creation_of(ledger, second)).shared_with == first.id
        assert await revealed(ledger, second.id) == second
    [logged] = [record for record in caplog.records if "'sess_1'" in record.getMessage()]
    assert logged.levelno == logging.WARNING
    assert str(first.id) in logged.getMessage()
    assert str(second.id) in logged.getMessage()


async def test_a_session_id_of_two_guests_names_neither_and_finds_both(new_ledger: Any) -> None:
    async with scripted_peer(sessions=same) as peer, new_ledger(**peer.settings) as ledger:
        ids = [(await ledger.open_session(request(subject_id=subject))).id for subject in ("first", "second")]

        with pytest.raises(SessionIdShared) as refused:
            await ledger.erase(session="sess_1", reason="asked for it", requested_by="privacy")
        assert sorted(refused.value.sessions) == sorted(ids)
        assert sorted(one.session.id for one in (await ledger.find(FindFilter(session="sess_1"))).found) == sorted(ids)
        assert [row.id async for row in ledger.audit(AuditFilter(session="sess_1"))] == ids

        await ledger.erase(session=ids[1], reason="asked for it", requested_by="privacy")
        assert [row.erased_at is None async for row in ledger.audit(AuditFilter(session="sess_1"))] == [True, False]


async def test_a_late_answer_with_a_session_recorded_meanwhile_is_no_shared_one(
    new_ledger: Any, sql: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        scripted_peer(sessions=same) as peer,
        new_ledger(cxone_in_doubt=InDoubt.RETRY_WITH_KEY, **peer.settings) as slow,
        new_ledger(cxone_in_doubt=InDoubt.RETRY_WITH_KEY, **peer.settings) as quick,
    ):
        whole = slow._adapters.store.append

        async def append(given: Append) -> Appended:
            if any(isinstance(event, e.SessionCreated) for event in given.events):
                monkeypatch.undo()
                await sql("UPDATE due_steps SET lease_until = now()")
                await quick.scheduler.run_until_idle()
            appended: Appended = await whole(given)
            return appended

        monkeypatch.setattr(slow._adapters.store, "append", append)
        session = await slow.open_session(request())

        assert (session.status, session.attempts, session.shared_with) == (Status.ACTIVE, 2, None)
        assert (await creation_of(slow, session)).shared_with is None
    assert "two guests" not in caplog.text


async def test_of_guests_who_get_one_session_id_at_once_one_is_first(new_ledger: Any) -> None:
    async with (
        scripted_peer(sessions=same) as peer,
        new_ledger(**peer.settings) as one,
        new_ledger(**peer.settings) as other,
    ):
        opened = await asyncio.gather(*(ledger.open_session(request()) for ledger in (one, other) * 4))
        firsts = [session for session in opened if session.shared_with is None]
        assert len(firsts) == 1
        assert {session.shared_with for session in opened} == {None, firsts[0].id}
        assert {session.status for session in opened} == {Status.ACTIVE}


async def test_a_remote_session_of_another_cannot_be_adopted_before_it_is_projected(
    new_ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(number: int) -> bytes:
        return reply(201, created(1, **({"token": None} if number == 2 else {})))

    async with scripted_peer(sessions=answer) as peer, new_ledger(**peer.settings) as ledger:
        first, parked = await ledger.open_session(request()), await ledger.open_session(request())

        async def nobody(_: str) -> list[UUID]:
            return []

        monkeypatch.setattr(ledger._resolver._read_models, "streams_of", nobody)
        found = Adoption(session_id="sess_1", expires_at=datetime(2099, 1, 1, tzinfo=UTC), guest_token="gt_found")
        with pytest.raises(ResolutionRefused) as refused:
            await ledger.resolve(parked.id, found, decided_by="ops", reason="found")
        assert refused.value.holder == first.id
