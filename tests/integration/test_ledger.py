"""The ledger as an embedder uses it, between a simulator over HTTP and PostgreSQL."""

import asyncio
import socket
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from msgspec.structs import replace

from guestledger.adapters.postgres.errors import LedgerNotReady
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import (
    CredentialsRefused,
    IdempotencyConflict,
    InvalidRequest,
    ServiceError,
    ServiceUnreachable,
    SessionNotFound,
)
from guestledger.engine.domain.personal import Sealed
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import RetryPolicy, WaitBasis
from guestledger.engine.projections.audit import AuditFilter, ComplianceStatus
from guestledger.engine.projections.sessions import SessionFilter
from tests.integration.appends import new_id
from tests.keys import revealed
from tests.unit.samples import CHANNEL, consent, request

OPENED = ["ConsentRecorded", "ChannelValidated", "CreationAttempted", "SessionCreated"]


@pytest.fixture
def closed_port() -> Iterator[str]:
    """The URL of a port that refuses connections: it is bound, and nothing listens on it."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


async def kinds(ledger: Ledger, wanted: Session | UUID) -> list[str]:
    history = await ledger.history(wanted.id if isinstance(wanted, Session) else wanted)
    return [type(recorded.event).__name__ for recorded in history]


async def counts(sql: Any) -> tuple[int, int, int]:
    """How many events, keys of requests and due steps there are."""
    (row,) = await sql(
        r"""
        SELECT (SELECT count(*) FROM events),
               (SELECT count(*) FROM request_keys WHERE idempotency_key NOT LIKE E'remote\x1f%'),
               (SELECT count(*) FROM due_steps)"""
    )
    return tuple(row)


async def due_rows(sql: Any) -> dict[str, tuple[Any, ...]]:
    """Due time and owner, by step."""
    rows = await sql("SELECT step, due_at, owner FROM due_steps")
    return {row["step"]: (row["due_at"], row["owner"]) for row in rows}


def end_of(session: Session) -> datetime:
    """The time at which the deadline ends the session."""
    assert session.deadline_from is not None
    return session.deadline_from + timedelta(milliseconds=RetryPolicy().deadline_ms + 1)


# Opening


async def test_open_session_returns_an_active_session(ledger: Ledger, simulator: Simulator, sql: Any) -> None:
    session = await ledger.open_session(request())

    (made,) = simulator.sessions_by_key[str(session.id)]
    assert (session.status, session.session_id, session.attempts) == (Status.ACTIVE, made.session_id, 1)
    assert session == await revealed(ledger, session.id)
    assert await kinds(ledger, session) == OPENED
    assert await due_rows(sql) == {"expire_token": (session.expires_at, None)}


async def test_an_attempt_is_committed_before_its_request_is_sent(
    ledger: Ledger, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    whole = ledger._adapters.provider.create

    async def create(prepared: Any, key: str, check: Any) -> Any:
        rows = await sql("SELECT event_type FROM events ORDER BY version")
        seen.append([row["event_type"] for row in rows])
        return await whole(prepared, key, check)

    monkeypatch.setattr(ledger._adapters.provider, "create", create)

    await ledger.open_session(request())

    assert seen == [OPENED[:3]]


async def test_open_session_returns_a_throttled_session_with_its_retry_time(
    ledger: Ledger, simulator: Simulator, sql: Any
) -> None:
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=600)

    session = await ledger.open_session(request())

    assert session.status is Status.THROTTLED
    history = await ledger.history(session.id)
    throttled = history[-1].event
    assert isinstance(throttled, e.CreationThrottled)
    assert (throttled.wait.basis, throttled.wait.basis_ms) == (WaitBasis.RETRY_AFTER, 600_000)
    assert session.retry_at == throttled.retry_at == throttled.at + timedelta(minutes=10)
    assert await due_rows(sql) == {
        "create_session": (session.retry_at, None),
        "enforce_deadline": (end_of(session), None),
    }


async def test_a_request_without_consent_is_recorded_as_refused_and_not_sent(
    ledger: Ledger, simulator: Simulator, sql: Any
) -> None:
    session = await ledger.open_session(request(consent=consent(gdpr_compliant="true")))

    assert (session.status, session.cause, session.detail) == (
        Status.REFUSED,
        Cause.CONSENT_REFUSED,
        "gdprCompliant",
    )
    assert await kinds(ledger, session) == ["ConsentRefused"]
    assert list(simulator.requests) == []
    assert await counts(sql) == (1, 0, 0)
    (entry,) = [entry async for entry in ledger.audit()]
    assert (entry.id, entry.compliance_status) == (session.id, ComplianceStatus.REFUSED)


@pytest.mark.parametrize(
    ("channel_id", "cause", "detail"),
    [
        ("ch_inactive", Cause.CHANNEL_INACTIVE, "inactive"),
        ("ch_sms", Cause.CHANNEL_UNSUPPORTED, "web_chat"),
        ("ch_unknown_1", Cause.CHANNEL_UNKNOWN, "no such channel"),
    ],
)
async def test_an_unusable_channel_rejects_the_session_and_is_named(
    channel_id: str, cause: Cause, detail: str, ledger: Ledger, simulator: Simulator, sql: Any
) -> None:
    simulator.config = SimulatorConfig(
        inactive_channels=frozenset({"ch_inactive"}), channels_without_web_chat=frozenset({"ch_sms"})
    )

    session = await ledger.open_session(request(channel_id=channel_id))

    assert (session.status, session.cause, session.detail) == (Status.REJECTED, cause, detail)
    assert session.channel_id == channel_id
    assert await kinds(ledger, session) == ["ConsentRecorded", "ChannelRejected"]
    assert simulator.sessions_by_key == {}
    assert await counts(sql) == (2, 0, 0)


async def test_a_cached_channel_needs_no_lookup_and_no_extra_append(ledger: Ledger, simulator: Simulator) -> None:
    await ledger.open_session(request())
    session = await ledger.open_session(request())

    assert await kinds(ledger, session) == OPENED
    history = await ledger.history(session.id)
    assert len({recorded.causation_id for recorded in history[:3]}) == 1
    assert history[3].causation_id != history[2].causation_id
    assert isinstance(history[1].event, e.ChannelValidated)
    assert history[1].event.cached
    assert simulator.counts["channel 200"] == 1
    assert simulator.counts["token 200"] == 1


async def test_an_accepted_request_is_opened_by_a_scheduler(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any
) -> None:
    session = await ledger.accept(request())

    assert session.status is Status.PENDING
    assert await kinds(ledger, session) == ["ConsentRecorded"]
    assert list(simulator.requests) == []
    assert await due_rows(sql) == {
        "validate_channel": (session.accepted_at, None),
        "enforce_deadline": (end_of(session), None),
    }
    assert await ledger.scheduler.unfinished() == 1

    async with new_ledger() as elsewhere:
        done = await elsewhere.scheduler.run_once()
    assert done == {"ChannelValidated": 1, "CreationAttempted": 1, "SessionCreated": 1}
    assert (await ledger.session(session.id)).status is Status.ACTIVE
    assert await ledger.scheduler.unfinished() == 0


async def test_an_invalid_request_is_rejected_and_not_recorded(ledger: Ledger, simulator: Simulator, sql: Any) -> None:
    for bad, field in (
        (request(ip_address="nowhere"), "ipAddress"),
        (request(timestamp="yesterday"), "timestamp"),
        (request(channel_id="", idempotency_key="order-1"), "channelId"),
        (request(user_agent="x" * 2_000), "userAgent"),
    ):
        for opening in (ledger.open_session, ledger.accept):
            with pytest.raises(InvalidRequest) as raised:
                await opening(bad)
            assert raised.value.field == field

    assert await counts(sql) == (0, 0, 0)
    assert list(simulator.requests) == []


# Idempotency keys


def assert_repeated(found: Session, first: Session) -> None:
    """It is the first session, and shows nothing of what the first request said about the guest."""
    assert first.guest is not None
    assert found.guest is not None
    for name in ("ip_address", "user_agent", "fingerprint"):
        assert isinstance(getattr(found.guest, name), Sealed)
    assert found.guest_token == first.guest_token
    assert replace(found, guest=first.guest) == first


async def test_a_repeated_request_with_the_same_key_returns_the_same_session(
    ledger: Ledger, simulator: Simulator, sql: Any
) -> None:
    asked = request(idempotency_key="order-1")

    first, second = await ledger.open_session(asked), await ledger.open_session(asked)

    assert_repeated(second, first)
    assert await counts(sql) == (4, 1, 1)
    assert len(simulator.sessions_by_key) == 1
    assert await ledger.accept(asked) == second
    assert (await ledger.open_session(replace(asked, idempotency_key="order-2"))).id != first.id
    assert (await ledger.open_session(replace(asked, idempotency_key=None))).id != first.id


async def test_concurrent_requests_with_one_key_open_one_session(
    new_ledger: Any, simulator: Simulator, sql: Any
) -> None:
    async with new_ledger() as one, new_ledger() as other:
        for number in range(5):
            asked = request(idempotency_key=f"order-{number}")
            sessions = await asyncio.gather(*(ledger.open_session(asked) for ledger in (one, other, one, other)))
            (session_id,) = {session.id for session in sessions}
            assert len(simulator.sessions_by_key[str(session_id)]) == 1
            assert await kinds(one, session_id) == OPENED

    assert len(simulator.sessions_by_key) == 5
    assert (await counts(sql))[:2] == (20, 5)


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"channel_id": "ch_other"}, ("channelId",)),
        ({"subject_id": "another-person"}, ("subjectId",)),
        ({"consent": consent(marketing=True)}, ("consent.marketing",)),
        ({"consent": consent(notice="privacy-2025")}, ("consent.notice",)),
        ({"consent": consent(collection_method="by phone")}, ("consent.collectionMethod",)),
        ({"consent": consent(data_processing=1)}, ("consent.dataProcessing",)),
        ({"channel_id": "ch_other", "consent": consent(gdpr_compliant=False)}, ("channelId", "consent.gdprCompliant")),
    ],
)
async def test_a_key_used_for_something_else_is_a_conflict_that_names_the_fields(
    ledger: Ledger, sql: Any, given: dict[str, Any], fields: tuple[str, ...]
) -> None:
    first = await ledger.open_session(request(idempotency_key="order-1"))
    before = await counts(sql)

    with pytest.raises(IdempotencyConflict) as raised:
        await ledger.open_session(request(idempotency_key="order-1", **given))

    assert (raised.value.stream_id, raised.value.field, raised.value.fields) == (first.id, "idempotencyKey", fields)
    assert all(field in str(raised.value) for field in fields)
    assert await counts(sql) == before


@pytest.mark.parametrize(
    ("stated", "field"),
    [({"notice_language": "de"}, "consent.noticeLanguage"), ({"notice_sha256": "cd" * 32}, "consent.noticeSha256")],
)
async def test_a_key_used_under_another_text_of_a_notice_is_a_conflict(
    ledger: Ledger, stated: dict[str, str], field: str
) -> None:
    shown = {"notice": "n", "notice_language": "en", "notice_sha256": "ab" * 32}
    await ledger.open_session(request(idempotency_key="order-1", consent=consent(**shown)))
    with pytest.raises(IdempotencyConflict) as raised:
        await ledger.open_session(request(idempotency_key="order-1", consent=consent(**(shown | stated))))
    assert raised.value.fields == (field,)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"data_processing": "yes", "marketing": True, "notice": "n"},
        {"notice_language": "de", "notice_sha256": "ab" * 32},
    ],
)
async def test_a_repeated_request_may_come_from_another_time_address_and_browser(
    ledger: Ledger, flags: dict[str, Any]
) -> None:
    first = await ledger.open_session(request(idempotency_key="order-1", consent=consent(**flags)))
    again = request(
        idempotency_key="order-1",
        consent=consent(**flags),
        timestamp="2025-01-01T00:00:00+01:00",
        ip_address="2001:db8::1",
        user_agent="another browser",
        source="app",
        campaign="spring",
        device_type="phone",
    )
    assert_repeated(await ledger.open_session(again), first)


async def test_a_refused_request_keeps_its_key(ledger: Ledger) -> None:
    asked = request(idempotency_key="order-1", consent=consent(data_processing=None))

    first, second = await ledger.open_session(asked), await ledger.open_session(asked)

    assert_repeated(second, first)
    assert first.status is Status.REFUSED
    with pytest.raises(IdempotencyConflict) as raised:
        await ledger.open_session(request(idempotency_key="order-1"))
    assert raised.value.fields == ("consent.dataProcessing",)


# Actors


async def test_every_event_carries_the_correlation_id_and_its_actor(
    ledger: Ledger, new_ledger: Any, simulator: Simulator
) -> None:
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=0, session_lifetime_s=0)
    session = await ledger.accept(request(), correlation_id="visit 17")
    async with new_ledger() as elsewhere:
        await elsewhere.scheduler.run_until_idle()

    history = await ledger.history(session.id)

    assert [type(recorded.event).__name__ for recorded in history[-3:]] == [
        "SessionCreated",
        "TokenExpired",
        "TokenPurged",
    ]
    assert {recorded.correlation_id for recorded in history} == {"visit 17"}
    assert history[0].actor.startswith("open_session ")
    (actor,) = {recorded.actor for recorded in history[1:]}
    assert actor.startswith("scheduler ")
    assert actor.partition(" ")[2] != history[0].actor.partition(" ")[2]


async def test_the_session_id_is_the_default_correlation_id(ledger: Ledger) -> None:
    session = await ledger.open_session(request())

    assert {recorded.correlation_id for recorded in await ledger.history(session.id)} == {str(session.id)}


# A service cannot be used


async def test_a_session_accepted_without_the_provider_stays_pending_and_continues_later(
    new_ledger: Any, closed_port: str, sql: Any
) -> None:
    async with new_ledger(cxone_url=closed_port) as ledger:
        with pytest.raises(ServiceUnreachable, match="connection_refused") as raised:
            await ledger.open_session(request())
        accepted = raised.value.accepted
        assert accepted is not None
        assert (await ledger.session(accepted)).status is Status.PENDING
        assert await kinds(ledger, accepted) == ["ConsentRecorded"], "no attempt is used up"
        with pytest.raises(ServiceUnreachable):
            await ledger.checks.provider()
    (due,) = await sql("SELECT owner, due_at > now() AS rests FROM due_steps WHERE step = 'validate_channel'")
    assert tuple(due) == (None, True)

    await sql("UPDATE due_steps SET due_at = now() WHERE step = 'validate_channel'")
    async with new_ledger() as ledger:
        await ledger.checks.provider()
        await ledger.scheduler.run_once()
        assert (await ledger.session(accepted)).status is Status.ACTIVE


async def test_refused_credentials_raise_and_the_session_stays_pending(new_ledger: Any) -> None:
    async with new_ledger(cxone_client_secret="hush-hush") as ledger:
        with pytest.raises(CredentialsRefused, match="unauthorized") as raised:
            await ledger.open_session(request())
        assert "hush-hush" not in str(raised.value)
        assert (await ledger.session(raised.value.accepted)).status is Status.PENDING
        with pytest.raises(CredentialsRefused):
            await ledger.checks.provider()


async def test_each_of_many_failed_sessions_gets_its_own_id_in_the_error(new_ledger: Any, closed_port: str) -> None:
    async with new_ledger(cxone_url=closed_port) as ledger:
        asked = [request(user_agent=f"browser {number}") for number in range(8)]
        errors = await asyncio.gather(*map(ledger.open_session, asked), return_exceptions=True)

        assert all(isinstance(error, ServiceUnreachable) for error in errors)
        for one, error in zip(asked, errors, strict=True):
            guest = (await revealed(ledger, error.accepted)).guest
            assert guest is not None
            assert guest.user_agent == one.user_agent


async def test_a_request_that_is_not_recorded_is_not_accepted(
    ledger: Ledger, held_log: Any, outsider: asyncpg.Connection, sql: Any
) -> None:
    async with held_log:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(ledger._adapters.store, "_patience", 0.3)
            opening = asyncio.create_task(ledger.open_session(request(idempotency_key="order-1")))
            await outsider.execute("SELECT pg_terminate_backend($1)", await held_log.waiting())
            with pytest.raises(ServiceError) as raised:
                await opening

    assert raised.value.accepted is None
    assert await counts(sql) == (0, 0, 0)
    assert (await ledger.open_session(request(idempotency_key="order-1"))).status is Status.ACTIVE


async def test_connecting_to_a_database_without_a_ledger_fails(new_ledger: Any, empty_database_url: str) -> None:
    with pytest.raises(LedgerNotReady, match="there is no ledger in schema 'guestledger'"):
        async with new_ledger(database_url=empty_database_url):
            raise AssertionError("it was opened")


# Reading


async def test_a_session_is_found_by_its_own_id_and_by_the_providers_id(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = await ledger.open_session(request())
    whole = ledger._adapters.provider.create

    async def create_with_a_uuid(prepared: Any, key: str, check: Any) -> Any:
        return replace(await whole(prepared, key, check), session_id=str(alike))

    alike = new_id()
    monkeypatch.setattr(ledger._adapters.provider, "create", create_with_a_uuid)
    like_ours = await ledger.open_session(request())
    assert like_ours.session_id == str(alike)

    for session in (plain, like_ours):
        for wanted in (session.id, str(session.id), str(session.session_id)):
            assert (await ledger.session(wanted)).id == session.id
    for unknown in (new_id(), str(new_id()), "sess_unknown", ""):
        with pytest.raises(SessionNotFound):
            await ledger.session(unknown)


async def test_reads_include_everything_committed_before(ledger: Ledger) -> None:
    for number in range(1, 4):
        session = await ledger.open_session(request())
        assert [row.id async for row in ledger.sessions()][-1] == session.id
        (entry,) = [entry async for entry in ledger.audit(AuditFilter(session=session.id))]
        assert entry.session_id == session.session_id
        assert (await ledger.metrics()).counts["created"] == number
    assert len([row async for row in ledger.sessions(SessionFilter(channel_id=CHANNEL))]) == 3


# Beside the caller


async def test_a_ledger_with_a_scheduler_processes_accepted_sessions(new_ledger: Any, simulator: Simulator) -> None:
    async with new_ledger(scheduler=True, webhook_url=simulator.webhook_url) as ledger, asyncio.timeout(30):
        session = await ledger.accept(request())
        while await ledger.scheduler.unfinished():
            await asyncio.sleep(0.01)

        assert await kinds(ledger, session) == [*OPENED, "WebhookSynced"]


async def test_opening_a_session_sends_no_webhook(new_ledger: Any, simulator: Simulator) -> None:
    simulator.config = SimulatorConfig(webhook_hang_s=600)
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        session = await ledger.open_session(request())

        assert session.status is Status.ACTIVE
        assert list(simulator.webhooks) == []
        assert await ledger.scheduler.unfinished() == 1


async def test_closing_a_ledger_finishes_calls_in_flight(
    new_ledger: Any, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, answered = asyncio.Event(), asyncio.Event()

    async def close_while_in_flight() -> None:
        async with new_ledger(scheduler=True) as closing:
            whole = closing._adapters.provider.create

            async def create(prepared: Any, key: str, check: Any) -> Any:
                sent.set()
                await answered.wait()
                return await whole(prepared, key, check)

            monkeypatch.setattr(closing._adapters.provider, "create", create)
            await sent.wait()

    session = await ledger.accept(request())
    async with asyncio.timeout(30):
        closing = asyncio.create_task(close_while_in_flight())
        await sent.wait()
        await asyncio.sleep(0.05)
        assert not closing.done()
        answered.set()
        await closing

    assert (await ledger.session(session.id)).status is Status.ACTIVE
