"""Erasing the personal data of a subject or a session: what is left, what is refused meanwhile, and who comes back."""

import asyncio
from uuid import UUID, uuid4

import msgspec
import pytest

from guestledger.adapters.postgres.log.reader import leaf_hash_of
from guestledger.adapters.postgres.personal.erasures import PostgresErasures
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain import events as e
from guestledger.engine.domain.errors import (
    ErasureNotFound,
    InvalidRequest,
    NothingToErase,
    RedeliveryRefused,
    ResolutionRefused,
    ServiceUnreachable,
    SubjectErased,
)
from guestledger.engine.domain.outcomes import Verdict
from guestledger.engine.domain.personal import Sealed
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import InDoubt
from guestledger.engine.operations.erase import ErasureCertificate
from guestledger.engine.ports.erasures import ErasureTarget
from guestledger.engine.projections.audit import AuditFilter
from tests.integration.conftest import NewLedger, Sql
from tests.unit.samples import IP, request

ASKED = {"reason": "asked by mail", "requested_by": "ops-jane"}


async def erase(ledger: Ledger, subject: str = "anna") -> ErasureCertificate:
    return await ledger.erase(subject_id=subject, **ASKED)


async def open_for(ledger: Ledger, subject: str | None = "anna", times: int = 1) -> list[Session]:
    return [await ledger.open_session(request(subject_id=subject)) for _ in range(times)]


async def revealed(ledger: Ledger, session: UUID) -> list[e.Event]:
    return [recorded.event for recorded in await ledger._adapters.store.read_stream(session, reveal=True)]


async def is_readable(ledger: Ledger, session: UUID) -> bool:
    opened = (await revealed(ledger, session))[0]
    assert isinstance(opened, e.ConsentRecorded | e.ConsentRefused)
    assert isinstance(opened.guest.ip_address, Sealed) or opened.guest.ip_address == IP
    return not isinstance(opened.guest.ip_address, Sealed)


async def assert_hashes_fit(sql: Sql) -> None:
    rows = await sql("SELECT * FROM events ORDER BY position")
    assert rows
    for row in rows:
        assert leaf_hash_of(row) == row["leaf_hash"], row["position"]


async def test_all_sessions_of_a_subject_are_erased_and_no_other(ledger: Ledger, sql: Sql) -> None:
    first, second = await open_for(ledger, times=2)
    [other] = await open_for(ledger, "bert")
    [nobody] = await open_for(ledger, None)
    held = await sql("SELECT stream_id FROM personal")

    certificate = await erase(ledger)

    left = await sql("SELECT stream_id FROM personal")
    assert {row[0] for row in left} == {other.id, nobody.id}
    assert {row[0] for row in await sql("SELECT stream_id FROM personal_index")} == {other.id, nobody.id}
    assert (certificate.sessions, certificate.rows, certificate.keys) == (2, len(held) - len(left), 2)
    assert {event.session for event in certificate.events} == {first.id, second.id}
    assert [await is_readable(ledger, one.id) for one in (first, second, other, nobody)] == [False, False, True, True]
    await assert_hashes_fit(sql)


async def test_the_certificate_names_the_events_and_not_the_subject(ledger: Ledger, sql: Sql) -> None:
    [session] = await open_for(ledger)

    certificate = await erase(ledger)

    [event] = certificate.events
    [row] = await sql("SELECT * FROM events WHERE position = $1", event.position)
    assert (row["stream_id"], row["event_type"], row["leaf_hash"].hex()) == (session.id, "GuestErased", event.leaf_hash)
    assert (certificate.reason, certificate.requested_by) == ("asked by mail", "ops-jane")
    assert "anna" not in repr(certificate)
    assert await ledger.erasures.certificate(certificate.id) == certificate
    recorded = (await ledger.history(session.id))[-1]
    assert recorded.actor == "ops-jane"
    assert isinstance(recorded.event, e.GuestErased)
    assert recorded.event.erasure == certificate.id


async def test_a_session_is_erased_alone_and_the_last_one_with_the_keys_of_its_subject(
    ledger: Ledger, sql: Sql
) -> None:
    first, second = await open_for(ledger, times=2)

    certificate = await ledger.erase(session=first.session_id or "", **ASKED)
    assert (certificate.session, certificate.sessions, certificate.rows, certificate.keys) == (first.id, 1, 2, 0)
    assert [await is_readable(ledger, one.id) for one in (first, second)] == [False, True]

    certificate = await ledger.erase(session=second.id, **ASKED)
    assert (certificate.sessions, certificate.keys) == (1, 2)
    assert not await sql("SELECT FROM data_keys WHERE purpose <> 'index'")


async def test_a_session_without_a_subject_is_erased_with_its_keys(ledger: Ledger, sql: Sql) -> None:
    [session] = await open_for(ledger, None)
    certificate = await ledger.erase(session=session.id, **ASKED)
    assert (certificate.sessions, certificate.rows, certificate.keys) == (1, 2, 2)
    assert not await sql("SELECT FROM personal")


async def test_erasing_again_changes_nothing_and_returns_the_certificate(ledger: Ledger) -> None:
    [session] = await open_for(ledger)
    certificate = await erase(ledger)
    assert await erase(ledger) == certificate
    assert await ledger.erase(session=session.id, **ASKED) == certificate


async def test_an_unknown_subject_and_an_unknown_erasure_are_said(ledger: Ledger) -> None:
    with pytest.raises(NothingToErase) as caught:
        await erase(ledger, "carla")
    assert "carla" not in str(caught.value)
    with pytest.raises(ErasureNotFound):
        await ledger.erasures.certificate(UUID(int=1))
    with pytest.raises(InvalidRequest):
        await ledger.erase(**ASKED)
    with pytest.raises(InvalidRequest):
        await ledger.erase(subject_id="anna", reason="\x00", requested_by="ops")


async def test_a_pending_session_ends_and_its_due_steps_with_it(ledger: Ledger, sql: Sql) -> None:
    session = await ledger.accept(request(subject_id="anna"))
    await erase(ledger)
    found = await ledger.session(session.id)
    assert (found.status, found.cause) == (Status.ABANDONED, "guest_erased")
    assert not await sql("SELECT FROM due_steps")


async def test_an_owed_notice_is_never_sent(new_ledger: NewLedger, simulator: Simulator) -> None:
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        [session] = await open_for(ledger)
        await erase(ledger)
        await ledger.scheduler.run_until_idle()
        assert not simulator.webhooks
        assert not await ledger.webhooks.dead_letters()
        with pytest.raises(RedeliveryRefused, match="erased"):
            await ledger.webhooks.redeliver(session.id, requested_by="ops", reason="repaired")


@pytest.mark.parametrize(("status", "outcome"), [(200, "accepted"), (503, "refused")])
async def test_a_notice_that_an_erasure_overtook_is_a_disclosure(
    new_ledger: NewLedger, simulator: Simulator, status: int, outcome: str
) -> None:
    simulator.config = SimulatorConfig(webhook_hang_s=0.5, webhook_status=status)
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        [session] = await open_for(ledger)
        delivering = asyncio.create_task(ledger.scheduler.run_until_idle())
        while not simulator.webhooks:
            await asyncio.sleep(0.01)
        await erase(ledger)
        await delivering
        held = await ledger.export(session=session.id, reason="asked by mail", by="ops-jane")
        assert [sent.outcome for sent in held.sessions[0].disclosures if sent.recipient == "webhook"] == [outcome]
        assert not await ledger.webhooks.dead_letters()

        simulator.config = SimulatorConfig()
        await ledger.withdraw(session.id, requested_by="ops-jane", reason="asked by mail")
        await ledger.scheduler.run_until_idle()
        assert [msgspec.json.decode(sent.body)["event"] for sent in simulator.webhooks] == [
            "session_started",
            "consent_withdrawn",
        ]


async def test_a_dead_letter_of_an_erased_guest_is_none_any_more(new_ledger: NewLedger, simulator: Simulator) -> None:
    simulator.config = SimulatorConfig(webhook_status=410)
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        await open_for(ledger)
        await ledger.scheduler.run_until_idle()
        assert len(await ledger.webhooks.dead_letters()) == 1
        await erase(ledger)
        assert not await ledger.webhooks.dead_letters()


async def test_a_parked_session_of_an_erased_guest_cannot_be_adopted(
    new_ledger: NewLedger, simulator: Simulator
) -> None:
    simulator.config = SimulatorConfig(drop_share=1.0)
    async with new_ledger(cxone_in_doubt=InDoubt.PARK) as ledger:
        [session] = await open_for(ledger)
        assert session.status is Status.PARKED
        await erase(ledger)
        with pytest.raises(ResolutionRefused):
            await ledger.resolve(session.id, Verdict.RETRY, decided_by="ops", reason="looked up")


async def test_a_person_who_comes_back_gets_another_key_in_every_process(new_ledger: NewLedger, sql: Sql) -> None:
    async with new_ledger() as here, new_ledger() as elsewhere:
        [before] = await open_for(elsewhere)
        old = {row[0] for row in await sql("SELECT key_id FROM personal")}
        await erase(here)

        [after] = await open_for(elsewhere)

        assert [await is_readable(here, one.id) for one in (before, after)] == [False, True]
        assert not old & {row[0] for row in await sql("SELECT key_id FROM personal")}
        certificate = await erase(here)
        assert [event.session for event in certificate.events] == [after.id]


async def test_a_request_of_a_subject_that_is_being_erased_is_refused(
    new_ledger: NewLedger, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger() as ledger, new_ledger() as elsewhere:
        await open_for(elsewhere)
        with pytest.raises(ServiceUnreachable):
            await interrupted(ledger, monkeypatch, "complete")

        for other in (ledger, elsewhere):
            with pytest.raises(SubjectErased):
                await open_for(other)
        await open_for(elsewhere, "bert")
        assert not await sql("SELECT FROM events WHERE event_type = 'ConsentRecorded' OFFSET 2")

        await erase(ledger)
        await open_for(elsewhere)


async def interrupted(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Erase, and lose the database at this call."""

    async def fail(*_: object) -> None:
        raise ServiceUnreachable("database", "connection_lost")  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(PostgresErasures, method, fail)
        await erase(ledger)


@pytest.mark.parametrize("method", ["begin", "destroy_keys", "complete", "events"])
async def test_an_interrupted_erasure_is_finished_by_running_it_again(
    ledger: Ledger, sql: Sql, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    await open_for(ledger, times=2)
    with pytest.raises(ServiceUnreachable):
        await interrupted(ledger, monkeypatch, method)
    begun = {row[0] for row in await sql("SELECT id FROM erasures")}

    certificate = await erase(ledger)

    assert begun <= {certificate.id}
    assert (certificate.sessions, certificate.rows, certificate.keys, len(certificate.events)) == (2, 4, 2, 2)
    assert not await sql("SELECT FROM personal UNION ALL SELECT FROM personal_index")


@pytest.mark.parametrize("sessions", [1, 2])
async def test_the_erasure_of_a_subject_finishes_those_of_its_sessions(ledger: Ledger, sessions: int) -> None:
    session, *others = await open_for(ledger, times=sessions)
    subject = await ledger._adapters.personal.subject_of("anna")
    target = ErasureTarget(id=uuid4(), subject=subject, session=session.id, **ASKED)
    await ledger.erasures._erasures.begin(target)  # and it is interrupted

    certificate = await erase(ledger)

    assert (certificate.id == target.id) == (not others)
    assert not await ledger.erasures.finish()
    assert not any([await is_readable(ledger, one.id) for one in (session, *others)])
    [back] = await open_for(ledger)
    assert await is_readable(ledger, back.id)


async def test_unfinished_erasures_are_finished_without_their_subject(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_for(ledger)
    with pytest.raises(ServiceUnreachable):
        await interrupted(ledger, monkeypatch, "destroy_keys")
    [erasure] = await ledger.erasures._erasures.unfinished()
    with pytest.raises(ErasureNotFound):
        await ledger.erasures.certificate(erasure.id)

    [certificate] = await ledger.erasures.finish()

    assert (certificate.sessions, certificate.keys) == (1, 2)
    assert not await ledger.erasures.finish()


async def test_an_answer_that_arrives_during_the_erasure_is_recorded_without_the_token(
    new_ledger: NewLedger, simulator: Simulator, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(slow_ms=300)
    async with new_ledger() as ledger, new_ledger() as elsewhere:
        opening = asyncio.create_task(elsewhere.open_session(request(subject_id="anna")))
        while not await sql("SELECT FROM events WHERE event_type = 'CreationAttempted'"):
            await asyncio.sleep(0.01)
        with pytest.raises(ServiceUnreachable):
            await interrupted(ledger, monkeypatch, "destroy_keys")
        session = await opening
        assert session.status is Status.ATTEMPTING

        await erase(ledger)

        async with asyncio.timeout(30):
            while not (found := await ledger.session(session.id)).duplicates:
                await asyncio.sleep(0.05)
        assert (found.status, found.in_doubt, found.guest_token) == (Status.ABANDONED, (), None)
        assert not await sql("SELECT FROM personal")


async def test_a_repeated_request_of_an_erased_guest_gets_the_erased_session(ledger: Ledger) -> None:
    asked = request(subject_id="anna", idempotency_key="order-1")
    session = await ledger.open_session(asked)
    await erase(ledger)
    again = await ledger.open_session(asked)
    assert (again.id, again.guest_token) == (session.id, None)
    assert again.erased_at is not None


async def test_every_reading_of_an_erased_session_works_and_says_so(ledger: Ledger) -> None:
    [session] = await open_for(ledger)
    await erase(ledger)

    erased_at = (await ledger.session(session.id)).erased_at
    assert erased_at is not None
    assert (await ledger.why(session.id)).erased_at == erased_at
    assert (await ledger.replay.timeline(session.id))[-1].state.erased_at == erased_at
    assert [row.contact_erased_at async for row in ledger.sessions()] == [erased_at]
    assert [entry.erased_at async for entry in ledger.audit(AuditFilter(session=session.id))] == [erased_at]


async def test_projections_are_rebuilt_and_verified_over_erased_guests(ledger: Ledger, sql: Sql) -> None:
    await open_for(ledger, times=3)
    await ledger.accept(request(subject_id="anna"))
    await ledger.projections.catch_up()
    await erase(ledger)
    await ledger.projections.catch_up()
    for name in ("sessions", "session_metrics", "audit_log"):
        assert (await ledger.projections.verify(name)).is_same
        await ledger.projections.rebuild(name)
        assert (await ledger.projections.verify(name)).is_same
    await assert_hashes_fit(sql)


async def test_two_processes_that_erase_one_subject_at_once_share_the_erasure(new_ledger: NewLedger) -> None:
    async with new_ledger() as here, new_ledger() as there:
        await open_for(here, times=5)
        first, second = await asyncio.gather(erase(here), erase(there))
        assert len(first.events) == 5
        assert {event.session for event in first.events} >= {event.session for event in second.events}


async def test_the_data_of_a_session_in_a_detached_partition_is_erased_too(ledger: Ledger, sql: Sql) -> None:
    await open_for(ledger)
    gone = UUID("018f96c2-7a60-7000-8000-0000000000a1")
    await sql("INSERT INTO personal_index SELECT $1, subject, ip_address, fingerprint FROM personal_index", gone)
    await sql("INSERT INTO personal SELECT $1, version, purpose, key_id, sealed FROM personal WHERE version = 1", gone)
    certificate = await erase(ledger)
    assert (certificate.sessions, certificate.detached, len(certificate.events)) == (2, 1, 1)
    assert not await sql("SELECT FROM personal UNION ALL SELECT FROM personal_index")
