"""Tokens are purged once they have expired; contact data is erased when its retention is over, unless it is held."""

import asyncio
from collections import Counter
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.consent import Guest
from guestledger.engine.domain.errors import (
    HoldRefused,
    InvalidRequest,
    RedeliveryRefusal,
    RedeliveryRefused,
    SessionNotFound,
    UnderLegalHold,
)
from guestledger.engine.domain.events import LegalHoldPlaced, SessionCreated
from guestledger.engine.domain.personal import Sealed, personal_fields
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.log.codec import wire_name
from guestledger.engine.ports.erasures import ErasureTarget
from guestledger.engine.projections.audit import AuditFilter
from guestledger.engine.projections.sessions import SessionFilter
from tests.integration.conftest import AT_ONCE, NewLedger
from tests.unit.samples import consent, request

AT_THE_END = replace(AT_ONCE, retention_days=0)
MONTH = replace(AT_ONCE, retention_days=30)
MATTER = {"reason": "matter 17", "placed_by": "counsel"}
CLOSED = {"reason": "matter 17 is closed", "released_by": "counsel"}


@pytest.fixture
def expiring(simulator: Simulator) -> None:
    """Sessions whose tokens have expired when they are made."""
    simulator.config = SimulatorConfig(session_lifetime_s=0)


@pytest.fixture
def hooked(new_ledger: NewLedger, simulator: Simulator) -> Any:
    """`hooked(policy)`: a ledger whose notices go to the simulator."""

    def new(policy: Any = AT_THE_END) -> AbstractAsyncContextManager[Ledger]:
        return new_ledger(policy=policy, webhook_url=simulator.webhook_url)

    return new


async def kinds(ledger: Ledger, session: Session) -> list[str]:
    return [wire_name(recorded.event) for recorded in await ledger.history(session.id)]


async def readable(ledger: Ledger, session: Session) -> Guest | None:
    """The guest's contact data, if it can still be read."""
    [opened, *_] = await ledger._adapters.store.read_stream(session.id, reveal=True)
    guest: Guest = opened.event.guest  # type: ignore[attr-defined]
    sealed = {isinstance(getattr(guest, name), Sealed) for name in personal_fields(Guest)} - {None}
    return None if isinstance(guest.ip_address, Sealed) and sealed else guest


async def rows_of(sql: Any, session: Session) -> Counter[str]:
    found = await sql("SELECT purpose, count(*) FROM personal WHERE stream_id = $1 GROUP BY 1", session.id)
    return Counter(dict(map(tuple, found)))


# The guest token


@pytest.mark.usefixtures("expiring")
async def test_the_sealed_token_and_its_own_key_are_deleted_after_the_expiry(ledger: Ledger, sql: Any) -> None:
    session = await ledger.open_session(request(subject_id=None))
    assert (await rows_of(sql, session))["access"] == 1

    assert await ledger.scheduler.run_until_idle() == {"TokenExpired": 1, "TokenPurged": 1}

    assert await rows_of(sql, session) == {"contact": 1}
    assert await sql("SELECT purpose FROM data_keys WHERE subject = $1", session.id.bytes) == [("contact",)]
    now = await ledger.session(session.id)
    assert (now.status, now.guest_token) == (Status.EXPIRED, None)
    assert now.token_purged_at is not None
    assert await readable(ledger, session)


@pytest.mark.usefixtures("expiring")
async def test_a_named_subject_keeps_its_keys_for_its_other_sessions(ledger: Ledger, simulator: Simulator) -> None:
    await ledger.open_session(request(subject_id="person-17"))
    await ledger.scheduler.run_until_idle()
    simulator.config = SimulatorConfig()

    again = await ledger.open_session(request(subject_id="person-17"))

    opened = await ledger._adapters.store.read_stream(again.id, reveal=True)
    assert again.guest_token in [one.event.guest_token for one in opened if isinstance(one.event, SessionCreated)]


# Retention


async def test_by_default_contact_data_is_kept(ledger: Ledger, sql: Any) -> None:
    session = await ledger.open_session(request(consent=consent(data_processing=False)))
    await ledger.scheduler.run_until_idle()
    assert not await sql("SELECT FROM due_steps")
    assert await readable(ledger, session)


@pytest.mark.usefixtures("expiring")
async def test_contact_data_and_its_keys_are_erased_at_the_end_of_retention(hooked: Any, sql: Any) -> None:
    async with hooked() as ledger:
        session = await ledger.open_session(request(subject_id=None))
        other = await ledger.open_session(request(subject_id="person-17", consent=consent(data_processing=False)))
        await ledger.scheduler.run_until_idle()

        assert not await sql("SELECT FROM personal")
        assert not await sql("SELECT FROM personal_index")
        assert not await sql("SELECT FROM data_keys WHERE subject = $1", session.id.bytes)
        assert len(await sql("SELECT FROM destroyed_keys")) == 2
        assert await kinds(ledger, other) == ["ConsentRefused", "ContactErased"]
        for one in (session, other):
            assert await readable(ledger, one) is None
            erased_at = (await ledger.session(one.id)).contact_erased_at
            assert erased_at is not None
            assert [entry.erased_at async for entry in ledger.audit(AuditFilter(session=one.id))] == [erased_at]
        for projection in ("sessions", "session_metrics", "audit_log"):
            assert (await ledger.projections.verify(projection)).is_same


@pytest.mark.usefixtures("expiring")
async def test_contact_data_is_kept_until_the_webhook_is_settled(hooked: Any, simulator: Simulator) -> None:
    async with hooked(replace(AT_THE_END, webhook=replace(AT_ONCE.webhook, waits_ms=(400,)))) as ledger:
        simulator.config = SimulatorConfig(session_lifetime_s=0, webhook_status=500)
        session = await ledger.open_session(request())
        await ledger.scheduler.run_once()
        assert await readable(ledger, session)
        simulator.config = SimulatorConfig(session_lifetime_s=0)
        await ledger.scheduler.run_until_idle()
        assert (await kinds(ledger, session))[-2:] == ["WebhookSynced", "ContactErased"]
    assert session.guest is not None
    assert session.guest.fingerprint.encode() in simulator.webhooks[-1].body


@pytest.mark.usefixtures("expiring")
async def test_a_notice_cannot_be_sent_again_without_contact_data(hooked: Any) -> None:
    async with hooked() as ledger:
        session = await ledger.open_session(request())
        await ledger.scheduler.run_until_idle()
        with pytest.raises(RedeliveryRefused) as refused:
            await ledger.webhooks.redeliver(session.id, requested_by="ops", reason="lost")
        assert refused.value.why is RedeliveryRefusal.ERASED


async def test_sessions_that_ended_under_another_policy_follow_the_present_one(new_ledger: NewLedger, sql: Any) -> None:
    refused = request(consent=consent(data_processing=False))
    async with new_ledger() as keeping, new_ledger(policy=MONTH) as monthly:
        sessions = [await keeping.open_session(refused), await monthly.open_session(refused)]
        assert len(await sql("SELECT FROM due_steps WHERE due_at > now() + interval '29 days'")) == 1

        async with new_ledger(policy=AT_THE_END) as strict:
            assert (await strict.retention.status()).due == 2
            assert await strict.scheduler.run_until_idle() == {"ContactErased": 2}
            for session in sessions:
                assert await readable(strict, session) is None
    assert not await sql("SELECT FROM due_steps")


async def test_a_longer_policy_puts_off_what_a_shorter_one_planned(new_ledger: NewLedger, sql: Any) -> None:
    async with new_ledger(policy=AT_THE_END) as strict:
        session = await strict.open_session(request(consent=consent(data_processing=False)))
    async with new_ledger(policy=MONTH) as monthly:
        assert await monthly.scheduler.run_until_idle() == {}
        assert await readable(monthly, session)
    assert len(await sql("SELECT FROM due_steps WHERE due_at > now() + interval '29 days'")) == 1


async def test_a_process_without_a_policy_leaves_erasures_to_the_others(new_ledger: NewLedger) -> None:
    async with new_ledger(policy=AT_THE_END) as strict, new_ledger() as keeping:
        session = await strict.open_session(request(consent=consent(data_processing=False)))
        assert await keeping.scheduler.run_until_idle() == {}
        assert await readable(keeping, session)
        assert await strict.scheduler.run_until_idle() == {"ContactErased": 1}


async def test_an_erasure_without_a_policy_leaves_nothing_planned(new_ledger: NewLedger, sql: Any) -> None:
    async with new_ledger(policy=MONTH) as monthly, new_ledger() as keeping:
        session = await monthly.open_session(request(consent=consent(data_processing=False)))
        await keeping.erase(session=session.id, reason="asked for it", requested_by="privacy")
    assert not await sql("SELECT FROM due_steps")


async def test_a_row_planned_for_an_erased_session_is_refused(new_ledger: NewLedger, sql: Any) -> None:
    async with new_ledger(policy=AT_THE_END) as ledger:
        session = await ledger.open_session(request(consent=consent(data_processing=False)))
        await ledger.scheduler.run_until_idle()
        row = (await ledger.session(session.id)).ended_at
        assert await ledger._adapters.due_steps.plan("erase_contact", {session.id: row}) == 0  # type: ignore[arg-type, dict-item]
    assert not await sql("SELECT FROM due_steps")


@pytest.mark.usefixtures("expiring")
async def test_workers_side_by_side_erase_each_session_once(new_ledger: NewLedger, sql: Any) -> None:
    async with new_ledger(policy=AT_THE_END) as one, new_ledger(policy=AT_THE_END) as other:
        await asyncio.gather(*(one.open_session(request(subject_id=None)) for _ in range(30)))
        await asyncio.gather(one.scheduler.run_until_idle(), other.scheduler.run_until_idle())
    assert (await sql("SELECT count(*) FROM events WHERE event_type = 'ContactErased'"))[0][0] == 30
    assert not await sql("SELECT FROM personal")
    assert not await sql("SELECT FROM due_steps")


async def test_the_retention_status_counts_sessions(new_ledger: NewLedger) -> None:
    refused = request(consent=consent(data_processing=False))
    async with new_ledger(policy=AT_THE_END) as ledger:
        first = await ledger.open_session(refused)
        await ledger.retention.hold(session=first.id, **MATTER)
        await ledger.open_session(request())
        await ledger.open_session(refused)
        await ledger.scheduler.run_until_idle()
        await ledger.open_session(refused)

        found = await ledger.retention.status()
        rows = [row async for row in ledger.sessions()]
    assert (found.kept, found.open, found.held, found.due, found.erased) == (3, 1, 1, 1, 1)
    assert (found.retention_days, found.oldest) == (0, rows[0].opened_at)


# Legal holds


async def test_a_held_session_is_kept_and_its_release_erases_it(new_ledger: NewLedger) -> None:
    async with new_ledger(policy=AT_THE_END) as ledger:
        session = await ledger.open_session(request(consent=consent(data_processing=False)))
        assert (await ledger.retention.hold(session=session.id, **MATTER)).changed == (session.id,)
        assert await ledger.scheduler.run_until_idle() == {}
        assert [row.id async for row in ledger.sessions(SessionFilter(held=True))] == [session.id]
        with pytest.raises(HoldRefused, match="is held since"):
            await ledger.retention.hold(session=session.id, **MATTER)

        await ledger.retention.release(session=session.id, **CLOSED)
        assert await ledger.scheduler.run_until_idle() == {"ContactErased": 1}
        with pytest.raises(HoldRefused, match="is under no legal hold"):
            await ledger.retention.release(session=session.id, **CLOSED)
        with pytest.raises(HoldRefused, match="nothing to keep"):
            await ledger.retention.hold(session=session.id, **MATTER)


async def test_a_held_subject_keeps_all_its_sessions_also_later_ones(new_ledger: NewLedger) -> None:
    refused = consent(data_processing=False)
    async with new_ledger(policy=AT_THE_END) as ledger:
        before = [await ledger.open_session(request(subject_id="person-17", consent=refused)) for _ in range(2)]
        other = await ledger.open_session(request(subject_id="person-18", consent=refused))
        held = await ledger.retention.hold(subject_id="person-17", **MATTER)
        assert held.changed == tuple(session.id for session in before)
        later = await ledger.open_session(request(subject_id="person-17", consent=refused))

        assert await ledger.scheduler.run_until_idle() == {"ContactErased": 1, "LegalHoldPlaced": 1}
        assert await readable(ledger, other) is None
        placed = (await ledger.history(later.id))[-1].event
        assert isinstance(placed, LegalHoldPlaced)
        assert (placed.placed_by, placed.reason) == ("counsel", "matter 17")
        again = await ledger.retention.hold(subject_id="person-17", **MATTER)
        assert (len(again.changed), len(again.unchanged)) == (0, 3)
        with pytest.raises(HoldRefused, match="release that hold"):
            await ledger.retention.release(session=later.id, **CLOSED)

        assert len((await ledger.retention.release(subject_id="person-17", **CLOSED)).changed) == 3
        assert await ledger.scheduler.run_until_idle() == {"ContactErased": 3}
        with pytest.raises(HoldRefused, match="this subject is under no legal hold"):
            await ledger.retention.release(subject_id="person-17", **CLOSED)


async def test_a_subject_can_be_held_before_its_first_session(new_ledger: NewLedger) -> None:
    async with new_ledger(policy=AT_THE_END) as ledger:
        assert (await ledger.retention.hold(subject_id="person-17", **MATTER)).changed == ()
        assert [(hold.placed_by, hold.reason) for hold in await ledger.retention.holds()] == [("counsel", "matter 17")]
        session = await ledger.open_session(request(subject_id="person-17", consent=consent(data_processing=False)))
        assert await ledger.scheduler.run_until_idle() == {"LegalHoldPlaced": 1}
        assert (await ledger.session(session.id)).held


async def test_a_hold_that_was_interrupted_is_finished_by_another_call(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = [await ledger.open_session(request(subject_id="person-17")) for _ in range(3)]
    read, reads = ledger._adapters.store.read_stream, 0

    async def interrupted(*given: Any, **more: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads == 2:
            raise asyncio.CancelledError
        return await read(*given, **more)

    monkeypatch.setattr(ledger._adapters.store, "read_stream", interrupted)
    with pytest.raises(asyncio.CancelledError):
        await ledger.retention.hold(subject_id="person-17", **MATTER)
    done = await ledger.retention.hold(subject_id="person-17", **MATTER)
    assert (len(done.changed), len(done.unchanged)) == (2, 1)
    assert all([(await ledger.session(session.id)).held for session in sessions])


async def test_erasure_is_refused_under_a_hold(ledger: Ledger) -> None:
    asked = {"reason": "a request", "requested_by": "dpo"}
    session = await ledger.open_session(request(subject_id="person-17"))
    await ledger.retention.hold(session=session.id, **MATTER)
    for whose in ({"session": session.id}, {"subject_id": "person-17"}):
        with pytest.raises(UnderLegalHold, match=f"a legal hold keeps the data of session {session.id}"):
            await ledger.erase(**whose, **asked)
    await ledger.retention.release(session=session.id, reason="settled", released_by="counsel")
    await ledger.retention.hold(subject_id="person-17", **MATTER)
    other = await ledger.open_session(request(subject_id="person-17"))
    for whose in ({"session": other.id}, {"subject_id": "person-17"}):
        with pytest.raises(UnderLegalHold):
            await ledger.erase(**whose, **asked)
    await ledger.retention.release(subject_id="person-17", reason="settled", released_by="counsel")
    assert (await ledger.erase(subject_id="person-17", **asked)).sessions == 2


async def test_a_hold_and_an_erasure_of_one_subject_exclude_each_other(ledger: Ledger) -> None:
    for subject in ("person-17", "person-18"):
        await ledger.open_session(request(subject_id=subject))
    erasures = ledger.erasures._erasures
    first, second = [await ledger._adapters.personal.subject_of(subject) for subject in ("person-17", "person-18")]

    def target(subject: bytes) -> ErasureTarget:
        return ErasureTarget(id=uuid4(), subject=subject, requested_by="dpo", reason="a request")

    assert await erasures.begin(target(first)) is not None
    with pytest.raises(HoldRefused, match="is being erased"):
        await ledger.retention.hold(subject_id="person-17", **MATTER)
    await ledger.retention.hold(subject_id="person-18", **MATTER)
    with pytest.raises(UnderLegalHold):
        await erasures.begin(target(second))


async def test_a_hold_on_a_session_is_seen_also_where_projections_lag(ledger: Ledger, monkeypatch: Any) -> None:
    session = await ledger.open_session(request(subject_id="person-17"))
    await ledger.retention.status()  # the projections know the session, and will know no more

    async def stop_here() -> None:
        pass

    monkeypatch.setattr(ledger._adapters.read_models, "catch_up", stop_here)
    await ledger.retention.hold(session=session.id, **MATTER)
    for whose in ({"session": session.id}, {"subject_id": "person-17"}):
        with pytest.raises(UnderLegalHold, match=f"a legal hold keeps the data of session {session.id}"):
            await ledger.erase(**whose, reason="a request", requested_by="dpo")
    assert not await ledger.erasures.finish()


@pytest.mark.parametrize("begins", ["before", "meanwhile"])
async def test_a_session_whose_erasure_has_begun_cannot_be_held(ledger: Ledger, monkeypatch: Any, begins: str) -> None:
    session = await ledger.open_session(request(subject_id="person-17"))
    subject = await ledger._adapters.personal.subject_of("person-17")
    target = ErasureTarget(id=uuid4(), subject=subject, session=session.id, requested_by="dpo", reason="a request")
    record = ledger.retention._decisions.record

    async def recorded_late(*given: Any, **named: Any) -> Any:
        await ledger.erasures._erasures.begin(target)
        return await record(*given, **named)

    if begins == "before":
        await ledger.erasures._erasures.begin(target)
    else:
        monkeypatch.setattr(ledger.retention._decisions, "record", recorded_late)
    with pytest.raises(HoldRefused, match="is being erased"):
        await ledger.retention.hold(session=session.id, **MATTER)
    with pytest.raises(HoldRefused, match="is being erased"):
        await ledger.retention.hold(subject_id="person-17", **MATTER)
    monkeypatch.undo()
    [certificate] = await ledger.erasures.finish()
    assert certificate.id == target.id


async def test_holds_are_checked_before_anything_is_recorded(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="either subject_id or session"):
        await ledger.retention.hold(**MATTER)
    with pytest.raises(SessionNotFound):
        await ledger.retention.hold(session="sess_none", **MATTER)
    with pytest.raises(InvalidRequest, match="reason"):
        await ledger.retention.hold(subject_id="person-17", reason="", placed_by="counsel")
