"""The projections: exact under concurrency and crashes, and equal to a count over the raw log."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from msgspec.structs import replace

from guestledger.adapters.postgres.projections import projector
from guestledger.adapters.postgres.projections.read_models import PostgresReadModels
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.outcomes import FailureKind
from guestledger.engine.domain.session import Status
from guestledger.engine.projections.audit import AuditFilter, ComplianceStatus, Decision, WebhookState, contract_form
from guestledger.engine.projections.metrics import Latency, Metrics, MetricsFilter
from guestledger.engine.projections.sessions import SessionFilter
from tests.integration import by_hand
from tests.integration.appends import an_append, new_id, rfc3339
from tests.integration.lives import CHANNELS, Life, lives
from tests.integration.plain_sql import EMPTY
from tests.unit import samples as s

READ_MODEL_TABLES = ("sessions", "session_metrics", "session_latencies", "audit_log", "checkpoints")


async def gathered(found: AsyncIterator[Any]) -> list[Any]:
    return [one async for one in found]


async def as_json(read_models: PostgresReadModels, wanted: AuditFilter = AuditFilter()) -> dict[UUID, dict[str, Any]]:
    """The audit log as it is printed: through JSON, by the session's own id."""
    found = await gathered(read_models.audit(wanted))
    assert len({entry.id for entry in found}) == len(found)
    return {entry.id: json.loads(msgspec.json.encode(contract_form(entry))) for entry in found}


async def session_rows(read_models: PostgresReadModels) -> dict[UUID, dict[str, Any]]:
    found = await gathered(read_models.sessions(SessionFilter()))
    assert len({row.id for row in found}) == len(found)
    return {row.id: msgspec.structs.asdict(row) for row in found}


def plain(metrics: Metrics) -> dict[str, Any]:
    return msgspec.to_builtins(metrics)


async def agree_with_the_log(read_models: PostgresReadModels, log: asyncpg.Connection) -> None:
    assert await session_rows(read_models) == await by_hand.sessions(log)
    assert await as_json(read_models) == await by_hand.audit(log)
    for channels in (CHANNELS, CHANNELS[:1], CHANNELS[1:]):
        wanted = MetricsFilter(channel_id=channels[0] if len(channels) == 1 else None)
        assert plain(await read_models.metrics(wanted)) == await by_hand.metrics(log, *channels)


async def put(store: Any, *events: Event) -> UUID:
    """A session with this history, each event appended by itself."""
    stream_id = new_id()
    for version, event in enumerate(events):
        await store.append(an_append(stream_id, version, (event,)))
    return stream_id


async def put_all(store: Any, *histories: tuple[Event, ...]) -> list[UUID]:
    """Sessions with these histories, each appended as a whole."""
    ids = [new_id() for _ in histories]
    appends = (an_append(one, 0, events) for one, events in zip(ids, histories, strict=True))
    await asyncio.gather(*map(store.append, appends))
    return ids


async def everything(log: asyncpg.Connection) -> dict[str, Any]:
    return {table: sorted(await log.fetch(f"SELECT * FROM {table}"), key=repr) for table in READ_MODEL_TABLES}


# Agreement with the log


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), drawn=st.lists(lives, min_size=1, max_size=6))
async def test_projections_agree_with_a_count_over_the_raw_log(
    store: Any, read_models: PostgresReadModels, outsider: asyncpg.Connection, data: st.DataObject, drawn: list[Life]
) -> None:
    await outsider.execute(EMPTY)
    left = {new_id(): list(life) for life in drawn}
    versions = dict.fromkeys(left, 0)
    looks = 0
    while left:
        stream_id = data.draw(st.sampled_from(list(left)))
        events = left[stream_id].pop(0)
        done = await store.append(an_append(stream_id, versions[stream_id], events))
        versions[stream_id] = done.version
        left = {one: life for one, life in left.items() if life}
        if data.draw(st.sampled_from([False, False, False, True])):
            await read_models.catch_up()
        if data.draw(st.sampled_from([False, False, True])):  # somebody looks at personal data: no session changes
            await store.append(an_append(new_id(), 0, (s.was_revealed(sessions=tuple(versions)),)))
            looks += 1

    await read_models.catch_up()

    assert sum(versions.values()) + looks == await store.head() + 1
    await agree_with_the_log(read_models, outsider)


@pytest.mark.parametrize("sessions", [1, 20, 137])
async def test_percentiles_agree_with_postgresqls_over_the_raw_log(
    sessions: int, store: Any, read_models: PostgresReadModels, outsider: asyncpg.Connection
) -> None:
    latencies = [(number * 7919) % 1_000 * (number % 3) for number in range(sessions)]
    await put_all(store, *((*s.ATTEMPTING, s.was_created(latency_ms=ms)) for ms in latencies))
    await read_models.catch_up()

    found = plain(await read_models.metrics(MetricsFilter()))

    assert found == await by_hand.metrics(outsider, s.CHANNEL)
    assert found["latency"]["average"] == sum(latencies) / sessions


async def test_an_empty_log_has_empty_projections(read_models: PostgresReadModels) -> None:
    assert await read_models.catch_up() == 0
    assert await as_json(read_models) == {}
    assert await session_rows(read_models) == {}
    metrics = await read_models.metrics(MetricsFilter())
    assert (metrics.tracked, metrics.success_rate, metrics.latency, metrics.pending) == (0, 0.0, None, 0)
    assert set(metrics.counts.values()) == {0}


# Exactly once


async def test_concurrent_projectors_count_every_event_once(
    store: Any,
    new_read_models: Callable[[], PostgresReadModels],
    outsider: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(projector, "BATCH", 7)
    projectors = [new_read_models() for _ in range(4)]
    writing = True

    async def write(number: int) -> None:
        channel = {"channel_id": CHANNELS[number % 2]}
        opened, made = s.was_recorded(**channel), s.was_created(latency_ms=number, **channel)
        await put(store, opened, s.was_validated(**channel), s.was_attempted(**channel), made)

    async def keep_up(projecting: PostgresReadModels) -> int:
        read = 0
        while writing:
            read += await projecting.catch_up()
        return read

    keeping_up = [asyncio.create_task(keep_up(one)) for one in projectors]
    await asyncio.gather(*map(write, range(40)))
    writing = False
    read = sum(await asyncio.gather(*keeping_up)) + await projectors[0].catch_up()

    assert read == await store.head() + 1
    await agree_with_the_log(projectors[1], outsider)


async def test_after_a_catch_up_a_caller_reads_its_own_writes(
    store: Any, new_read_models: Callable[[], PostgresReadModels]
) -> None:
    async def write_and_read(read_models: PostgresReadModels) -> None:
        for _ in range(10):
            stream_id = await put(store, s.was_recorded())
            await read_models.catch_up()
            (row,) = await gathered(read_models.sessions(SessionFilter(ids=(stream_id,))))
            (entry,) = await gathered(read_models.audit(AuditFilter(session=stream_id)))
            assert (row.id, row.version, entry.id) == (stream_id, 1, stream_id)

    await asyncio.gather(*(write_and_read(new_read_models()) for _ in range(3)))


async def test_an_idle_projector_loses_its_locks(
    store: Any, read_models: PostgresReadModels, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put_all(store, s.ACTIVE)
    seen: list[str] = []
    whole = projector.PROJECTIONS["sessions"]

    async def look(rows: Any, events: Any) -> None:
        seen.append(await rows._driver.fetchval("SHOW idle_in_transaction_session_timeout"))
        await whole.apply(rows, events)

    monkeypatch.setitem(projector.PROJECTIONS, "sessions", whole._replace(apply=look))
    await read_models.catch_up()

    assert seen == ["10s"]


@pytest.mark.parametrize("name", ["sessions", "session_metrics", "audit_log"])
@pytest.mark.parametrize("how", ["a cancellation", "a lost connection", "one that was lost between two statements"])
async def test_a_crash_within_a_batch_changes_no_row_and_no_checkpoint(
    how: str,
    name: str,
    store: Any,
    read_models: PostgresReadModels,
    outsider: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await put_all(store, s.ACTIVE, s.REFUSED)
    await read_models.catch_up()
    await put_all(store, s.EXPIRED, s.REJECTED, s.ABANDONED)
    before = await everything(outsider)
    whole = projector.PROJECTIONS[name]

    async def crash(rows: Any, events: Any) -> None:
        await whole.apply(rows, events)
        if how == "a cancellation":
            raise asyncio.CancelledError
        if how != "a lost connection":
            raise asyncpg.InternalClientError("got result for unknown protocol state")
        await outsider.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND state = 'idle in transaction'"
        )

    monkeypatch.setitem(projector.PROJECTIONS, name, whole._replace(apply=crash))
    with pytest.raises((asyncio.CancelledError, ServiceUnreachable)):
        await read_models.catch_up()
    assert await everything(outsider) == before

    monkeypatch.setitem(projector.PROJECTIONS, name, whole)
    await read_models.catch_up()
    assert await by_hand.sessions(outsider) == await session_rows(read_models)
    assert await by_hand.audit(outsider) == await as_json(read_models)
    assert await by_hand.metrics(outsider, s.CHANNEL) == plain(await read_models.metrics(MetricsFilter()))


@pytest.mark.parametrize("behind", ["sessions", "audit_log"])
async def test_restarting_one_projection_makes_others_count_nothing_twice(
    behind: str,
    store: Any,
    read_models: PostgresReadModels,
    outsider: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(projector, "BATCH", 3)
    await put_all(store, s.ACTIVE, s.REFUSED, s.ABANDONED)
    await read_models.catch_up()
    before = await everything(outsider)

    await outsider.execute(f"DELETE FROM {behind}")
    await outsider.execute("UPDATE checkpoints SET position = -1 WHERE projection = $1", behind)
    await read_models.catch_up()
    assert await everything(outsider) == before

    await outsider.execute(f"DELETE FROM {behind}")
    await outsider.execute("UPDATE checkpoints SET position = -1 WHERE projection = $1", behind)
    await put_all(store, s.REJECTED, s.THROTTLED)
    await read_models.catch_up()
    assert await by_hand.sessions(outsider) == await session_rows(read_models)
    assert await by_hand.audit(outsider) == await as_json(read_models)
    assert await by_hand.metrics(outsider, s.CHANNEL) == plain(await read_models.metrics(MetricsFilter()))


# The audit entry


async def test_the_audit_entry_of_an_active_session_has_the_contracts_shape(
    store: Any, read_models: PostgresReadModels
) -> None:
    made = s.was_created(latency_ms=12)
    (stream_id,) = await put_all(store, (*s.ATTEMPTING, made, s.was_synced()))
    await read_models.catch_up()
    (entry,) = await gathered(read_models.audit(AuditFilter()))

    shown = json.loads(msgspec.json.encode(contract_form(entry)))

    history = await store.read_stream(stream_id)
    opened_at, recorded_at = history[0].recorded_at, history[3].recorded_at
    assert list(shown.items()) == [
        ("auditType", "guest_session_initialization"),
        ("id", str(stream_id)),
        ("timestamp", rfc3339(recorded_at)),
        ("sessionId", "sess_9d4e8f1a"),
        ("channelId", "ch_8f3a9b2c"),
        ("visitorFingerprint", None),
        ("ipAddress", None),
        ("consentRecorded", True),
        ("gdprCompliant", True),
        ("tokenExpiry", "2024-05-20T15:22:00Z"),
        ("initializationLatencyMs", 12),
        ("complianceStatus", "verified"),
        ("openedAt", rfc3339(opened_at)),
        ("notice", "privacy-2024-05"),
        ("refusedFlags", []),
        ("webhook", "delivered"),
        *dict.fromkeys(
            ("doubtedAt", "parkedAt", "decision", "decidedAt", "decidedBy", "decisionReason", "erasedAt")
        ).items(),
    ]
    assert shown["timestamp"].endswith("Z")
    assert datetime.fromisoformat(shown["timestamp"]) == recorded_at


NEVER = {"wait": None, "retry_at": None}
ENDS = {
    "pending": [s.OPEN, s.VALIDATED, s.ATTEMPTING, s.THROTTLED, s.IN_DOUBT, s.FAILED, (*s.OPEN, s.lookup_failed())],
    "refused": [s.REFUSED],
    "rejected": [
        s.REJECTED,
        (*s.OPEN, s.lookup_failed(kind=FailureKind.FINAL, **NEVER)),
        (*s.ATTEMPTING, s.has_failed(kind=FailureKind.FINAL)),
        (*s.ATTEMPTING, s.has_failed(kind=FailureKind.FINAL), s.was_duplicated()),
    ],
    "abandoned": [s.ABANDONED, (*s.ABANDONED, s.was_duplicated()), (*s.THROTTLED, s.was_abandoned())],
    "verified": [s.ACTIVE, s.EXPIRED, (*s.IN_DOUBT, s.was_created()), (*s.EXPIRED, s.was_duplicated())],
}


@pytest.mark.parametrize("status", ENDS)
async def test_the_audit_log_has_the_status_of_every_session(
    status: str, store: Any, read_models: PostgresReadModels
) -> None:
    ids = await put_all(store, *ENDS[status])
    await read_models.catch_up()

    entries = await as_json(read_models)

    assert {one: entries[one]["complianceStatus"] for one in ids} == dict.fromkeys(ids, status)
    made = status == "verified"
    for entry in entries.values():
        assert entry["auditType"] == "guest_session_initialization"
        assert entry["consentRecorded"] is (status != "refused")
        assert entry["gdprCompliant"] is (status != "refused")
        assert (entry["sessionId"] is not None) is made
        assert (entry["tokenExpiry"] is not None) is made
        assert (entry["initializationLatencyMs"] is not None) is made
        assert (entry["visitorFingerprint"], entry["ipAddress"]) == (None, None)


async def test_a_refusal_for_another_reason_than_gdpr_is_gdpr_compliant(
    store: Any, read_models: PostgresReadModels
) -> None:
    (stream_id,) = await put_all(store, (s.was_refused(failed=("dataProcessing",), given={"dataProcessing": "1"}),))
    await read_models.catch_up()

    entry = (await as_json(read_models))[stream_id]

    assert (entry["consentRecorded"], entry["gdprCompliant"], entry["complianceStatus"]) == (False, True, "refused")


# Asking


async def test_sessions_are_found_by_channel_status_and_id_oldest_first(
    store: Any, read_models: PostgresReadModels
) -> None:
    elsewhere = (s.was_recorded(channel_id="ch_other"),)
    active, refused, other, open_, rejected = [
        (await put_all(store, history))[0] for history in (s.ACTIVE, s.REFUSED, elsewhere, s.OPEN, s.REJECTED)
    ]
    await read_models.catch_up()

    async def found(**wanted: Any) -> list[UUID]:
        return [row.id async for row in read_models.sessions(SessionFilter(**wanted))]

    assert await found() == [active, refused, other, open_, rejected]
    assert await found(channel_id="ch_other") == [other]
    assert await found(channel_id="ch_") == []
    assert await found(statuses=(Status.PENDING,)) == [other, open_]
    assert await found(statuses=(Status.ACTIVE, Status.REJECTED)) == [active, rejected]
    assert await found(ids=(rejected, active, new_id())) == [active, rejected]
    assert await found(ids=()) == []
    assert await found(channel_id=s.CHANNEL, statuses=(Status.PENDING,), ids=(open_, other)) == [open_]


async def test_audit_entries_are_found_by_channel_time_status_and_id_oldest_first(
    store: Any, read_models: PostgresReadModels
) -> None:
    elsewhere = (s.was_recorded(channel_id="ch_other"),)
    histories = (s.ACTIVE, s.REFUSED, elsewhere, s.ABANDONED)
    active, refused, other, abandoned = [(await put_all(store, history))[0] for history in histories]
    await read_models.catch_up()
    at = {entry.id: entry.timestamp async for entry in read_models.audit(AuditFilter())}

    async def found(**wanted: Any) -> list[UUID]:
        return [entry.id async for entry in read_models.audit(AuditFilter(**wanted))]

    assert await found() == [active, refused, other, abandoned]
    assert await found(channel_id=s.CHANNEL) == [active, refused, abandoned]
    assert await found(status=ComplianceStatus.REFUSED) == [refused]
    assert await found(session=other) == [other]
    assert await found(since=at[refused]) == [refused, other, abandoned]
    assert await found(until=at[refused]) == [active]
    assert await found(since=at[refused], until=at[abandoned]) == [refused, other]
    assert await found(since=at[refused], channel_id=s.CHANNEL, status=ComplianceStatus.ABANDONED) == [abandoned]
    assert await found(since=at[abandoned] + timedelta(microseconds=1)) == []


async def test_audit_entries_are_found_by_consent_webhook_doubt_and_decision(
    store: Any, read_models: PostgresReadModels
) -> None:
    shown = s.was_refused(notice="2026-04", failed=("gdprCompliant",))
    redelivered = (*s.ACTIVE, s.webhook_abandoned(), s.redelivery_requested())
    histories = (
        (*s.ACTIVE, s.was_synced(), s.redelivery_requested(), s.webhook_abandoned()),
        (shown,),
        redelivered,
        (*redelivered, s.webhook_abandoned()),
        s.PARKED,
        (*s.PARKED, s.abandonment_decided(decided_by="ops-jane")),
        (*s.PARKED, s.retry_decided(decided_by="ops-jane"), s.was_attempted(2), s.was_throttled(2)),
    )
    taken, refused, owed, dead, parked, given_up, retried = [
        (await put_all(store, history))[0] for history in histories
    ]
    await read_models.catch_up()
    at = {entry.id: entry.opened_at async for entry in read_models.audit(AuditFilter())}

    async def found(**wanted: Any) -> list[UUID]:
        return [entry.id async for entry in read_models.audit(AuditFilter(**wanted))]

    assert await found(notice="2026-04") == await found(refused_flag="gdprCompliant") == [refused]
    assert await found(notice="2026-04", consent_recorded=True) == await found(refused_flag="dataProcessing") == []
    assert await found(consent_recorded=False) == [refused]
    assert await found(webhook=(WebhookState.DELIVERED,)) == [taken]
    assert await found(webhook=(WebhookState.OWED, WebhookState.FAILED)) == [owed, dead]
    assert await found(webhook=(WebhookState.FAILED,)) == [dead]
    assert await found(doubted=True) == await found(parked=True) == [parked, given_up, retried]
    assert await found(decided_by="ops-jane") == [given_up, retried]
    assert await found(opened_since=at[refused], opened_until=at[dead]) == [refused, owed]
    [entry] = await gathered(read_models.audit(AuditFilter(session=given_up)))
    assert (entry.decision, entry.decided_by) == (Decision.ABANDON, "ops-jane")
    assert entry.doubted_at == entry.parked_at == entry.decided_at == entry.timestamp


async def test_metrics_of_each_day_and_channel_are_those_of_its_minutes(
    store: Any, read_models: PostgresReadModels, outsider: asyncpg.Connection
) -> None:
    elsewhere = {"channel_id": "ch_other"}
    other = (s.was_recorded(**elsewhere), s.was_created(**elsewhere, latency_ms=90))
    slow = (*s.ATTEMPTING, s.was_created(latency_ms=30))
    await put_all(store, (*s.ATTEMPTING, s.was_created(latency_ms=10)), slow, s.REFUSED, other)
    await read_models.catch_up()
    last, first = datetime.fromisoformat("2024-05-20T23:59Z"), datetime.fromisoformat("2024-05-21T00:00Z")
    for table in ("session_metrics", "session_latencies"):
        await outsider.execute(f"UPDATE {table} SET minute = $1 WHERE channel_id <> 'ch_other'", last)
        await outsider.execute(f"UPDATE {table} SET minute = $1 WHERE channel_id = 'ch_other'", first)

    before, after = await read_models.metrics_by_day(MetricsFilter())

    assert (before.day, before.channel_id) == (last.date(), s.CHANNEL)
    assert before.metrics.latency == Latency(average=20.0, p50=10, p95=30, p99=30)
    assert before.metrics == replace(
        await read_models.metrics(MetricsFilter(until=first)), counts=before.metrics.counts
    )
    assert (before.metrics.counts["created"], before.metrics.counts["refused"]) == (2, 1)
    assert (after.day, after.channel_id, after.metrics.counts["created"]) == (first.date(), "ch_other", 1)
    assert await read_models.metrics_by_day(MetricsFilter(channel_id="ch_other")) == [after]
    assert await read_models.metrics_by_day(MetricsFilter(until=first)) == [before]


async def test_metrics_cover_the_wanted_channel_and_minutes(
    store: Any, read_models: PostgresReadModels, outsider: asyncpg.Connection
) -> None:
    elsewhere = {"channel_id": "ch_other"}
    other = (s.was_recorded(**elsewhere), s.was_created(**elsewhere, latency_ms=90))
    await put_all(store, (*s.ATTEMPTING, s.was_created(latency_ms=10)), s.REFUSED, other)
    await read_models.catch_up()
    early, late = datetime.fromisoformat("2024-05-20T14:05Z"), datetime.fromisoformat("2024-05-20T14:07Z")
    for table in ("session_metrics", "session_latencies"):
        await outsider.execute(f"UPDATE {table} SET minute = $1 WHERE channel_id = 'ch_other'", late)
        await outsider.execute(f"UPDATE {table} SET minute = $1 WHERE channel_id <> 'ch_other'", early)

    async def found(**wanted: Any) -> tuple[int, int, float | None]:
        metrics = await read_models.metrics(MetricsFilter(**wanted))
        return metrics.tracked, metrics.counts["created"], metrics.latency and metrics.latency.average

    assert await found() == (3, 2, 50.0)
    assert await found(channel_id=s.CHANNEL) == (2, 1, 10.0)
    assert await found(channel_id="ch_none") == (0, 0, None)
    assert await found(since=early) == (3, 2, 50.0)
    assert await found(since=early + timedelta(minutes=1)) == (1, 1, 90.0)
    assert await found(until=late) == (2, 1, 10.0)
    assert await found(since=early + timedelta(seconds=59), until=late + timedelta(seconds=1)) == (2, 1, 10.0)
    assert await found(since=early, until=late + timedelta(minutes=1)) == (3, 2, 50.0)
    assert await found(until=late, channel_id="ch_other") == (0, 0, None)


async def test_a_list_may_name_more_sessions_than_a_statement_has_parameters(
    store: Any, read_models: PostgresReadModels
) -> None:
    (stream_id,) = await put_all(store, s.ACTIVE)
    await read_models.catch_up()
    wanted = SessionFilter(ids=(stream_id, *(uuid4() for _ in range(40_000))))
    assert [row.id for row in await gathered(read_models.sessions(wanted))] == [stream_id]


async def test_a_session_is_found_by_the_providers_id(store: Any, read_models: PostgresReadModels) -> None:
    (stream_id,) = await put_all(store, s.ACTIVE)
    await read_models.catch_up()

    assert await read_models.streams_of("sess_9d4e8f1a") == [stream_id]
    assert await read_models.streams_of("sess_") == []
