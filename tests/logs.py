"""Logs for tests and benchmarks of readers: whole lifecycles, copied in as rows, which is fast."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from msgspec.structs import replace
from sqlalchemy import make_url
from uuid_utils.compat import uuid7

from guestledger.adapters.postgres.tables import events as events_table
from guestledger.engine.domain import events as e
from guestledger.engine.domain.consent import Consent, Evidence, Guest
from guestledger.engine.domain.session import WebhookNotice
from guestledger.engine.log.codec import encode, wire_name
from guestledger.engine.log.merkle import leaf_hash
from guestledger.engine.log.recorded import RecordedEvent
from tests.postgres import as_administrator
from tests.unit import samples

CHANNELS = tuple(f"ch_{number:02}" for number in range(20))
START = datetime(2024, 5, 20, 14, 22, tzinfo=UTC)
AT_ONCE = 64
"""How many sessions are in progress at any time: their events are interleaved, as when many guests arrive together."""

END = """
    INSERT INTO guestledger.batches SELECT position, recorded_at FROM guestledger.events ORDER BY position DESC LIMIT 1
    ON CONFLICT DO NOTHING"""
"""Records the end of the log, as an append does."""

COLUMNS = [column.name for column in events_table.columns]


async def connect(url: str) -> Any:
    """An asyncpg connection as the administrator, to the database of a SQLAlchemy URL."""
    plain = make_url(as_administrator(url))
    host = plain.query.get("host", plain.host)
    port = int(str(plain.query.get("port", plain.port or 5432)))
    return await asyncpg.connect(
        user=plain.username, password=plain.password, host=host, port=port, database=plain.database
    )


async def write(url: str, events: int, *, after: int = -1, began: datetime | None = None) -> None:
    """Write this many events behind position `after`: sessions of five events each, one event a millisecond.

    The session ids are of the time `began` (default: now).
    """
    await _copy(url, _rows(after + 1, itertools.islice(_mixed(began), events)))


async def write_events(url: str, events: Iterable[e.Event], *, after: int, event_type: str | None = None) -> UUID:
    """Write one stream behind position `after`, under `event_type` if given. Returns the id of the stream."""
    stream_id = uuid7()
    numbered = ((stream_id, version, event) for version, event in enumerate(events, 1))
    await _copy(url, _rows(after + 1, numbered, event_type))
    return stream_id


async def write_throttled(url: str, sessions: int, *, after: int) -> None:
    """Write so many sessions of four events each behind position `after`: each was throttled now, and waits."""
    now, numbers = datetime.now(UTC), range(sessions)
    streams = ((new_stream(), throttled(number, now)) for number in numbers)
    numbered = ((stream_id, version, event) for stream_id, events in streams for version, event in enumerate(events, 1))
    await _copy(url, _rows(after + 1, numbered))


async def write_recorded(url: str, histories: Iterable[Sequence[RecordedEvent]]) -> None:
    """Write these sessions."""
    await _copy(url, (_row(recorded) for history in histories for recorded in history))


def _row(recorded: RecordedEvent) -> list[Any]:
    of_event = {"event_type": wire_name(recorded.event)}
    return [of_event.get(column) or getattr(recorded, column) for column in COLUMNS]


async def _copy(url: str, rows: Iterable[list[Any]]) -> None:
    connection = await connect(url)
    try:
        await connection.copy_records_to_table("events", schema_name="guestledger", columns=COLUMNS, records=rows)
        if await connection.fetchval("SELECT to_regclass('guestledger.batches') IS NOT NULL"):
            await connection.execute(END)
        await connection.execute("ANALYZE guestledger.events")
    finally:
        await connection.close()


def lifecycle(number: int) -> tuple[e.Event, ...]:
    """The five events of a session without trouble. `number` is part of some values."""
    channel, at = CHANNELS[number % len(CHANNELS)], START + timedelta(milliseconds=number)
    guest = Guest(
        source="web",
        campaign="organic",
        device_type="desktop",
        fingerprint=samples.FINGERPRINT,
        ip_address=f"203.0.113.{number % 254 + 1}",
        user_agent=samples.USER_AGENT,
        timestamp="2024-05-20T14:21:59Z",
        subject_id=None,
        idempotency_key=None,
        hmac_key=samples.HMAC_KEY,
    )
    common: dict[str, Any] = {"at": at, "channel_id": channel}
    return (
        e.ConsentRecorded(
            **common,
            guest=guest,
            consent=Consent(
                data_processing=True,
                gdpr_compliant=True,
                marketing=False,
                notice=None,
                timestamp=at,
                evidence=Evidence(record_version=1),
            ),
        ),
        e.ChannelValidated(**common, status="active", protocols=("web_chat",), looked_up_at=at, cached=True),
        e.CreationAttempted(**common, attempt=1, idempotency_key=f"{number}-1", request_hmac="0" * 64),
        e.SessionCreated(
            **common,
            attempt=1,
            session_id=f"sess_{number:08}",
            guest_token=samples.TOKEN,
            expires_at=at + timedelta(hours=1),
            status="active",
            attempt_latency_ms=100 + number % 400,
            latency_ms=120 + number % 400,
            webhook_owed=True,
        ),
        e.WebhookSynced(**common, notice=WebhookNotice.SESSION_STARTED, attempt=1, status=200, latency_ms=30),
    )


def throttled(number: int, at: datetime) -> tuple[e.Event, ...]:
    """The four events of a session that was answered 429 at this time."""
    accepted, *looked_up = lifecycle(number)[:3]
    known = (replace(event, at=at) for event in (accepted, *looked_up))
    return (*known, samples.was_throttled(at=at, channel_id=accepted.channel_id, retry_at=at))


def new_stream(began: datetime | None = None) -> UUID:
    """A stream id of the time `began` (default: now)."""
    now = uuid7()
    return now if began is None else UUID(int=(int(began.timestamp() * 1_000) << 80) | now.int & (1 << 80) - 1)


def _mixed(began: datetime | None) -> Iterator[tuple[UUID, int, e.Event]]:
    """Endless sessions, `AT_ONCE` of them in turn, each one event further than the next."""
    under_way: deque[tuple[UUID, tuple[e.Event, ...], int]] = deque()
    number = 0
    while True:
        if len(under_way) < AT_ONCE:
            under_way.append((new_stream(began), lifecycle(number), 0))
            number += 1
        stream_id, events, done = under_way.popleft()
        yield stream_id, done + 1, events[done]
        if done + 1 < len(events):
            under_way.append((stream_id, events, done + 1))


def _rows(
    first: int, events: Iterable[tuple[UUID, int, e.Event]], event_type: str | None = None
) -> Iterator[list[Any]]:
    for position, (stream_id, version, event) in enumerate(events, first):
        row: dict[str, Any] = {
            "stream_id": stream_id,
            "version": version,
            "event_type": event_type or wire_name(event),
            "schema_version": event.schema_version,
            "recorded_at": START + timedelta(milliseconds=position),
            "correlation_id": str(stream_id),
            "causation_id": stream_id,
            "actor": "tests",
            "data": encode(event),
        }
        whole = {**row, "position": position, "leaf_hash": leaf_hash(**row)}
        yield [whole[column] for column in COLUMNS]
