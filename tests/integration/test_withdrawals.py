"""Withdrawals of consent in a running ledger: sessions end, attempts stop, the webhook's receiver gets a notice."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace
from standardwebhooks import Webhook

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import InvalidRequest, PartitionDetached, SessionNotFound
from guestledger.engine.domain.policy import DeliveryPolicy
from guestledger.engine.domain.session import Status, WebhookNotice
from guestledger.engine.ledger import Ledger
from guestledger.engine.log.codec import wire_name
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.operations.consent_record import ConsentState
from guestledger.engine.operations.consents import Withdrawal
from guestledger.engine.projections.audit import AuditFilter
from guestledger.engine.projections.sessions import SessionFilter
from tests.integration.conftest import AT_ONCE
from tests.replaying import assert_every_decision_is_reproduced
from tests.unit.samples import TERMS, consent, request

SECRET = "whsec_c2VjcmV0LW9mLW5vYm9keS1hdC1hbGw="
ASKED = {"requested_by": "guest"}


@pytest.fixture
def hooked(new_ledger: Any, simulator: Simulator) -> Any:
    """`hooked(…)`: a ledger whose notices go to the simulator, signed."""
    return lambda **given: new_ledger(
        **{"webhook_url": simulator.webhook_url, "webhook_secret": SECRET, **given},
    )


async def kinds(ledger: Ledger, session: Any) -> list[str]:
    return [wire_name(recorded.event) for recorded in await ledger.history(session)]


async def revealed(ledger: Ledger, session: Any) -> list[RecordedEvent]:
    return await ledger._adapters.store.read_stream(session, reveal=True)


async def until_attempted(sql: Any) -> Any:
    """The id of the first session whose attempt is on its way."""
    async with asyncio.timeout(10):
        while not (rows := await sql("SELECT stream_id FROM events WHERE event_type = 'CreationAttempted'")):
            await asyncio.sleep(0.01)
    return rows[0]["stream_id"]


async def test_a_withdrawal_ends_the_session_and_appears_in_every_read_model(hooked: Any, sql: Any) -> None:
    async with hooked() as ledger:
        session = await ledger.open_session(request())
        await ledger.scheduler.run_once()
        withdrawal = await ledger.withdraw(session.id, requested_by="guest", reason="by e-mail")
        assert withdrawal.recorded
        assert (withdrawal.session.status, withdrawal.session.guest_token) == (Status.WITHDRAWN, None)

        last = (await ledger.history(session.id))[-1]
        assert isinstance(last.event, e.ConsentWithdrawn)
        assert (last.actor, last.event.requested_by, last.event.reason) == ("guest", "guest", "by e-mail")
        assert last.event.ended is Status.ACTIVE
        [row] = [row async for row in ledger.sessions(SessionFilter(statuses=(Status.WITHDRAWN,)))]
        assert (row.id, row.cause) == (session.id, Cause.CONSENT_WITHDRAWN)
        [entry] = [entry async for entry in ledger.audit(AuditFilter(session=session.id))]
        assert (entry.compliance_status, entry.timestamp) == ("withdrawn", last.recorded_at)
        metrics = await ledger.metrics()
        assert (metrics.counts["withdrawn"], metrics.counts["withdrawn_pending"]) == (1, 0)
        assert (metrics.tracked, metrics.pending, metrics.success_rate) == (1, 0, 1.0)
        for name in ("sessions", "session_metrics", "audit_log"):
            assert (await ledger.projections.verify(name)).is_same
        assert_every_decision_is_reproduced(await revealed(ledger, session.id), AT_ONCE)


async def test_a_withdrawal_erases_the_guest_token_and_nothing_else(hooked: Any, sql: Any) -> None:
    async with hooked() as ledger:
        session = await ledger.open_session(request(idempotency_key="key-1"))
        before = {row["purpose"] for row in await sql("SELECT purpose FROM personal")}
        await ledger.withdraw(session.id, **ASKED)
        after = {row["purpose"] for row in await sql("SELECT purpose FROM personal")}
        assert before - after == {"access"}
        assert "contact" in after
        again = await ledger.open_session(request(idempotency_key="key-1"))
    assert (again.id, again.status, again.guest_token) == (session.id, Status.WITHDRAWN, None)


async def test_the_receiver_gets_one_signed_notice_of_the_withdrawal(hooked: Any, simulator: Simulator) -> None:
    async with hooked() as ledger:
        session = await ledger.open_session(request())
        await ledger.scheduler.run_once()
        await ledger.withdraw(session.id, **ASKED)
        assert await ledger.scheduler.run_until_idle() == {"WebhookSynced": 1}
        withdrawn_at = (await ledger.session(session.id)).withdrawn_at
        synced = (await ledger.history(session.id))[-1].event
    assert isinstance(synced, e.WebhookSynced)
    assert synced.notice is WebhookNotice.CONSENT_WITHDRAWN
    started, withdrawn = simulator.webhooks
    Webhook(SECRET).verify(withdrawn.body, withdrawn.headers)
    assert withdrawn.headers["webhook-id"] == f"msg_{session.id.hex}_withdrawn"
    assert withdrawn.headers["webhook-id"] != started.headers["webhook-id"]
    assert withdrawn_at is not None
    assert json.loads(withdrawn.body) == {
        "event": "consent_withdrawn",
        "sessionId": session.session_id,
        "channelId": session.channel_id,
        "consentTimestamp": json.loads(started.body)["consentTimestamp"],
        "timestamp": f"{withdrawn_at:%Y-%m-%dT%H:%M:%SZ}",
    }


async def test_the_notice_of_a_withdrawal_is_retried_until_it_is_accepted(hooked: Any, simulator: Simulator) -> None:
    async with hooked(policy=replace(AT_ONCE, webhook=DeliveryPolicy(waits_ms=(500,)))) as ledger:
        session = await ledger.open_session(request())
        await ledger.scheduler.run_once()
        simulator.config = SimulatorConfig(webhook_status=500)
        await ledger.withdraw(session.id, **ASKED)
        await ledger.scheduler.run_once()
        simulator.config = SimulatorConfig()
        await asyncio.sleep(0.6)
        await ledger.scheduler.run_until_idle()
        found = await kinds(ledger, session.id)
    assert found[-3:] == ["ConsentWithdrawn", "WebhookFailed", "WebhookSynced"]
    assert len({sent.headers["webhook-id"] for sent in list(simulator.webhooks)[1:]}) == 1


async def test_a_second_withdrawal_records_nothing(hooked: Any) -> None:
    async with hooked() as ledger:
        session = await ledger.open_session(request())
        first = await ledger.withdraw(session.id, **ASKED)
        head = await ledger.events.head()
        second = await ledger.withdraw(session.id, requested_by="somebody else")
        assert (first.recorded, second.recorded) == (True, False)
        assert second.session.status is Status.WITHDRAWN
        assert await ledger.events.head() == head


async def test_of_several_withdrawals_at_once_one_is_recorded(hooked: Any) -> None:
    async with hooked() as one, hooked() as other:
        session = await one.open_session(request())
        found = await asyncio.gather(*(ledger.withdraw(session.id, **ASKED) for ledger in (one, other) * 5))
        assert Counter(withdrawal.recorded for withdrawal in found) == {True: 1, False: 9}
        assert Counter(await kinds(one, session.id))["ConsentWithdrawn"] == 1


async def test_a_throttled_session_makes_no_attempt_after_a_withdrawal(
    hooked: Any, simulator: Simulator, sql: Any
) -> None:
    simulator.config = SimulatorConfig(throttle_share=1, retry_after_s=1)
    async with hooked() as ledger:
        session = await ledger.open_session(request())
        assert session.status is Status.THROTTLED
        withdrawal = await ledger.withdraw(session.id, **ASKED)
        assert await sql("SELECT * FROM due_steps") == []
        await asyncio.sleep(1.1)
        assert await ledger.scheduler.run_until_idle() == {}
        metrics = await ledger.metrics()
    assert not withdrawal.session.webhook_owed
    assert simulator.counts["session 201"] == 0
    assert list(simulator.webhooks) == []
    assert (metrics.tracked, metrics.pending, metrics.success_rate) == (1, 0, 0.0)
    assert metrics.counts["withdrawn_pending"] == 1


async def test_an_attempt_under_way_ends_as_a_duplicate_nobody_uses(
    hooked: Any, simulator: Simulator, sql: Any
) -> None:
    simulator.config = SimulatorConfig(slow_ms=400)
    async with hooked() as ledger, hooked() as other:
        opening = asyncio.create_task(ledger.open_session(request()))
        stream_id = await until_attempted(sql)
        withdrawal = await other.withdraw(stream_id, **ASKED)
        assert (withdrawal.session.status, withdrawal.session.in_doubt) == (Status.WITHDRAWN, (1,))
        session = await opening
        assert (session.status, session.session_id, session.guest_token) == (Status.WITHDRAWN, None, None)
        assert (len(session.duplicates), session.in_doubt) == (1, ())
        assert (await kinds(ledger, stream_id))[-3:] == ["CreationFailed", "ConsentWithdrawn", "DuplicateCreated"]
        assert await ledger.scheduler.run_until_idle() == {}
        assert_every_decision_is_reproduced(await revealed(ledger, stream_id), AT_ONCE)
    assert list(simulator.webhooks) == []


async def test_a_withdrawal_during_the_call_of_the_start_sends_its_notice_after(
    hooked: Any, simulator: Simulator
) -> None:
    simulator.config = SimulatorConfig(webhook_hang_s=0.5)
    async with hooked() as ledger, hooked() as other:
        session = await ledger.open_session(request())
        delivering = asyncio.create_task(ledger.scheduler.run_once())
        async with asyncio.timeout(10):
            while not simulator.webhooks:
                await asyncio.sleep(0.01)
        await other.withdraw(session.id, **ASKED)
        await delivering
        simulator.config = SimulatorConfig()
        await ledger.scheduler.run_until_idle()
        history = await ledger.history(session.id)
        assert_every_decision_is_reproduced(await revealed(ledger, session.id), AT_ONCE)
    notices = [recorded.event.notice for recorded in history if isinstance(recorded.event, e.WebhookSynced)]
    assert notices == [WebhookNotice.SESSION_STARTED, WebhookNotice.CONSENT_WITHDRAWN]
    assert [json.loads(sent.body)["event"] for sent in simulator.webhooks] == ["session_started", "consent_withdrawn"]


async def test_the_start_is_not_sent_any_more_after_a_withdrawal(hooked: Any, simulator: Simulator) -> None:
    async with hooked() as ledger:
        session = await ledger.open_session(request())
        await ledger.withdraw(session.id, **ASKED)
        await ledger.scheduler.run_until_idle()
        await ledger.webhooks.redeliver(session.id, requested_by="ops", reason="lost")
        await ledger.scheduler.run_until_idle()
    assert [json.loads(sent.body)["event"] for sent in simulator.webhooks] == ["consent_withdrawn"] * 2


async def test_a_withdrawal_replaces_the_dead_letter_of_the_start(hooked: Any, simulator: Simulator) -> None:
    simulator.config = SimulatorConfig(webhook_status=410)
    async with hooked() as ledger:
        session = await ledger.open_session(request())
        await ledger.scheduler.run_once()
        assert len(await ledger.webhooks.dead_letters()) == 1
        await ledger.withdraw(session.id, **ASKED)
        assert await ledger.webhooks.dead_letters() == []
        await ledger.scheduler.run_once()
        assert [letter.id for letter in await ledger.webhooks.dead_letters()] == [session.id]


async def withdraw_all(ledger: Ledger, subject_id: str, **asked: Any) -> list[Withdrawal]:
    return [found async for found in ledger.consents.withdraw_all(subject_id, **{**ASKED, **asked})]


async def test_all_sessions_of_a_person_are_withdrawn_and_no_others(hooked: Any) -> None:
    async with hooked() as ledger:
        mine = [await ledger.open_session(request(subject_id="person-1")) for _ in range(3)]
        refused = await ledger.open_session(request(subject_id="person-1", consent=consent(data_processing=False)))
        other = await ledger.open_session(request(subject_id="person-2"))
        nobody = await ledger.open_session(request())
        await ledger.withdraw(mine[1].id, **ASKED)

        found = await withdraw_all(ledger, "person-1")
        assert {withdrawal.session.id for withdrawal in found} == {*(session.id for session in mine), refused.id}
        assert [withdrawal.recorded for withdrawal in found] == [True, False, True, False]
        assert [found.recorded for found in await withdraw_all(ledger, "person-1")] == [False] * 4
        for session in (other, nobody):
            assert (await ledger.session(session.id)).status is Status.ACTIVE
        assert (await ledger.session(refused.id)).status is Status.REFUSED
        assert await withdraw_all(ledger, "person-3") == []


async def test_a_detached_session_is_named_after_the_others_are_withdrawn(
    hooked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hooked() as ledger:
        first, second = [await ledger.open_session(request(subject_id="person-1")) for _ in range(2)]
        whole = ledger.consents._histories.of_stream

        async def of_stream(stream_id: Any) -> Any:
            if stream_id == first.id:
                raise PartitionDetached(stream_id, first.accepted_at.date())
            return await whole(stream_id)

        monkeypatch.setattr(ledger.consents._histories, "of_stream", of_stream)
        with pytest.raises(PartitionDetached, match=str(first.id)):
            await withdraw_all(ledger, "person-1")
        monkeypatch.undo()
        assert (await ledger.session(second.id)).status is Status.WITHDRAWN


async def test_a_withdrawal_of_all_sessions_that_was_cut_off_is_finished_later(hooked: Any) -> None:
    async with hooked() as ledger:
        for _ in range(3):
            await ledger.open_session(request(subject_id="person-1"))
        withdrawals = ledger.consents.withdraw_all("person-1", **ASKED)
        await anext(withdrawals)
        await withdrawals.aclose()
        assert [found.recorded for found in await withdraw_all(ledger, "person-1")] == [False, True, True]


async def test_the_notice_needs_no_personal_data(hooked: Any, simulator: Simulator, sql: Any) -> None:
    """A person who withdraws and is erased at once: the receiver gets the notice all the same."""
    async with hooked() as ledger:
        session = await ledger.open_session(request())
        await ledger.scheduler.run_once()
        await ledger.withdraw(session.id, **ASKED)
        await sql("DELETE FROM personal")
        await sql("DELETE FROM personal_index")
        assert await ledger.scheduler.run_until_idle() == {"WebhookSynced": 1}
    assert json.loads(simulator.webhooks[-1].body)["event"] == "consent_withdrawn"


async def test_marketing_withdrawn_before_the_creation_is_sent_as_false(hooked: Any, simulator: Simulator) -> None:
    simulator.config = SimulatorConfig(throttle_share=1, retry_after_s=1)
    async with hooked() as ledger:
        session = await ledger.open_session(request(consent=consent(marketing=True)))
        assert session.status is Status.THROTTLED
        withdrawal = await ledger.withdraw(session.id, marketing_only=True, **ASKED)
        assert (withdrawal.recorded, withdrawal.session.status) == (True, Status.THROTTLED)
        again = await ledger.withdraw(session.id, marketing_only=True, **ASKED)
        assert not again.recorded
        await asyncio.sleep(1.1)
        await ledger.scheduler.run_until_idle()
        assert (await ledger.session(session.id)).status is Status.ACTIVE
        record = await ledger.consents.record(session.id)
    first, second = [json.loads(sent.body) for sent in simulator.requests if sent.path.endswith("/sessions")]
    assert [sent["guest"]["consent"]["marketing"] for sent in (first, second)] == [True, False]
    assert record.state is ConsentState.GIVEN
    assert [event.event_state for event in record.events] == [ConsentState.GIVEN, ConsentState.WITHDRAWN]


async def test_the_record_holds_the_terms_of_its_time_whatever_they_are_later(hooked: Any) -> None:
    async with hooked(policy=replace(AT_ONCE, consent_terms=TERMS)) as ledger:
        session = await ledger.open_session(request(subject_id="person-1", consent=consent(notice="privacy-1")))
    async with hooked(policy=replace(AT_ONCE, consent_terms=replace(TERMS, version="2031-01"))) as ledger:
        record = await ledger.consents.record(session.id)
        by_remote_id = await ledger.consents.record(str(session.session_id))
    assert record == by_remote_id
    assert (record.terms_version, record.state) == ("2024-05", ConsentState.GIVEN)
    assert record.not_stated == ("notice.language", "notice.sha256")
    assert record.pii_principal_id.startswith("sealed:")
    assert "person-1" not in record.pii_principal_id


async def test_wrong_withdrawals_record_nothing(hooked: Any) -> None:
    async with hooked() as ledger:
        session = await ledger.open_session(request())
        head = await ledger.events.head()
        with pytest.raises(SessionNotFound):
            await ledger.withdraw("sess_unknown", **ASKED)
        for texts in ({"requested_by": ""}, {"requested_by": "a\nb"}, {"requested_by": "guest", "reason": "\x00"}):
            with pytest.raises(InvalidRequest):
                await ledger.withdraw(session.id, **texts)
        assert await ledger.events.head() == head
