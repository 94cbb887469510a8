"""The read models computed from the rows of the log alone, without the engine's projections."""

import json
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from guestledger.engine.domain.evolve import fold
from guestledger.engine.log.codec import decode
from guestledger.engine.projections.metrics import COUNTS
from tests.integration.appends import rfc3339

ENDED_BY = {
    "ChannelRejected": "rejected",
    "ChannelLookupFailed": "rejected",
    "CreationFailed": "rejected",
    "SessionAbandoned": "abandoned",
    "SessionCreated": "verified",
}

METRICS = """
    SELECT count(*) FILTER (WHERE event_type = 'ConsentRecorded') AS accepted,
           count(*) FILTER (WHERE event_type = 'ConsentRefused') AS refused,
           count(*) FILTER (WHERE event_type = 'SessionCreated') AS created,
           count(*) FILTER (WHERE event_type = 'ChannelRejected'
                               OR event_type IN ('ChannelLookupFailed', 'CreationFailed')
                              AND data ->> 'retry_at' IS NULL) AS rejected,
           count(*) FILTER (WHERE event_type = 'SessionAbandoned') AS abandoned,
           count(*) FILTER (WHERE event_type = 'ConsentWithdrawn') AS withdrawn,
           count(*) FILTER (WHERE event_type = 'ConsentWithdrawn'
                              AND data ->> 'ended' IN ('pending', 'throttled', 'in_doubt', 'parked')) AS withdrawn_pending,
           count(*) FILTER (WHERE event_type = 'TokenExpired') AS expired,
           count(*) FILTER (WHERE event_type = 'CreationAttempted') AS attempts,
           count(*) FILTER (WHERE event_type = 'CreationThrottled') AS throttled,
           count(*) FILTER (WHERE event_type = 'CreationFailed') AS failed,
           count(*) FILTER (WHERE event_type = 'DuplicateCreated') AS duplicates,
           count(*) FILTER (WHERE event_type = 'WebhookSynced') AS webhooks_synced,
           count(*) FILTER (WHERE event_type = 'WebhookFailed') AS webhooks_failed,
           count(*) FILTER (WHERE event_type = 'WebhookAbandoned') AS webhooks_abandoned
      FROM events WHERE data ->> 'channel_id' = ANY($1::text[])"""

LATENCIES = """
    SELECT avg(ms) AS average,
           percentile_disc(0.50) WITHIN GROUP (ORDER BY ms) AS p50,
           percentile_disc(0.95) WITHIN GROUP (ORDER BY ms) AS p95,
           percentile_disc(0.99) WITHIN GROUP (ORDER BY ms) AS p99
      FROM (SELECT (data ->> 'latency_ms')::bigint AS ms FROM events
             WHERE event_type = 'SessionCreated' AND data ->> 'channel_id' = ANY($1::text[])) AS made"""


async def streams(log: asyncpg.Connection) -> dict[UUID, list[asyncpg.Record]]:
    """The sessions: looks at personal data are none."""
    found = defaultdict(list)
    statement = "SELECT *, data::text AS data FROM events WHERE event_type <> 'PersonalDataRevealed' ORDER BY position"
    for row in await log.fetch(statement):
        found[row["stream_id"]].append(row)
    return found


async def audit(log: asyncpg.Connection) -> dict[UUID, dict[str, Any]]:
    """The entries in the contract's shape, as plain JSON."""
    return {stream_id: {"id": str(stream_id), **_entry(rows)} for stream_id, rows in (await streams(log)).items()}


def _entry(rows: list[asyncpg.Record]) -> dict[str, Any]:
    opened, accepted = json.loads(rows[0]["data"]), rows[0]["event_type"] == "ConsentRecorded"
    ends = [row for row in rows if row["event_type"] in ENDED_BY and json.loads(row["data"]).get("retry_at") is None]
    assert len(ends) <= 1
    status = ("pending" if accepted else "refused") if not ends else ENDED_BY[ends[0]["event_type"]]
    made = json.loads(ends[0]["data"]) if status == "verified" else {}
    withdrawn = [row for row in rows if row["event_type"] == "ConsentWithdrawn"]
    status = "withdrawn" if withdrawn else status
    return {
        "auditType": "guest_session_initialization",
        "timestamp": rfc3339((withdrawn or ends or rows[:1])[0]["recorded_at"]),
        "sessionId": made.get("session_id"),
        "channelId": opened["channel_id"],
        "visitorFingerprint": None,
        "ipAddress": None,
        "consentRecorded": accepted,
        "gdprCompliant": accepted or "gdprCompliant" not in opened["failed"],
        "tokenExpiry": made.get("expires_at"),
        "initializationLatencyMs": made.get("latency_ms"),
        "complianceStatus": status,
        "openedAt": rfc3339(rows[0]["recorded_at"]),
        "notice": (opened["consent"] if accepted else opened)["notice"],
        "refusedFlags": [] if accepted else opened["failed"],
        "webhook": _webhook(made, rows),
        "doubtedAt": _first(rows, lambda row: json.loads(row["data"]).get("kind") == "in_doubt", "CreationFailed"),
        "parkedAt": _first(rows[::-1], lambda _row: True, "SessionParked"),
        **dict.fromkeys(("decision", "decidedAt", "decidedBy", "decisionReason")),
        "erasedAt": _erased_at(rows),
    }


def _erased_at(rows: list[asyncpg.Record]) -> str | None:
    return next((json.loads(row["data"])["at"] for row in rows if row["event_type"] == "GuestErased"), None)


def _webhook(made: dict[str, Any], rows: list[asyncpg.Record]) -> str:
    if not made.get("webhook_owed"):
        return "not_owed"
    of_start = {row["event_type"] for row in rows if json.loads(row["data"]).get("notice") in ("session_started", None)}
    if "WebhookSynced" in of_start:
        return "delivered"
    return "failed" if of_start & {"WebhookAbandoned", "ConsentWithdrawn"} else "owed"


def _first(rows: list[asyncpg.Record], fits: Callable[[asyncpg.Record], bool], event_type: str) -> str | None:
    found = [row["recorded_at"] for row in rows if row["event_type"] == event_type and fits(row)]
    return rfc3339(found[0]) if found else None


async def sessions(log: asyncpg.Connection) -> dict[UUID, dict[str, Any]]:
    """Each stream folded from its first event to its last."""
    rows = {}
    for stream_id, history in (await streams(log)).items():
        state = fold(stream_id, (decode(row["event_type"], row["schema_version"], row["data"]) for row in history))
        assert state.guest is not None
        rows[stream_id] = {
            "id": stream_id,
            "channel_id": state.channel_id,
            "status": state.status,
            "version": len(history),
            "opened_at": history[0]["recorded_at"],
            "updated_at": history[-1]["recorded_at"],
            "session_id": state.session_id,
            "accepted_at": state.accepted_at,
            "created_at": state.created_at,
            "expires_at": state.expires_at,
            "retry_at": state.retry_at,
            "attempts": state.attempts,
            "in_doubt": state.in_doubt,
            "latency_ms": state.latency_ms,
            "cause": state.cause,
            "detail": state.detail,
            "webhook_owed": state.webhook_owed,
            "ended_at": state.ended_at,
            "contact_erased_at": state.contact_erased_at,
            "held_since": state.held_since,
        }
    return rows


async def metrics(log: asyncpg.Connection, *channels: str) -> dict[str, Any]:
    """The metrics over these channels, by SQL over the log."""
    (counted,) = await log.fetch(METRICS, channels)
    (latency,) = await log.fetch(LATENCIES, channels)
    ended = counted["rejected"] + counted["abandoned"] + counted["withdrawn_pending"]
    tracked = counted["created"] + ended + counted["refused"]
    assert set(counted.keys()) == set(COUNTS)
    rows = [row for row in (await sessions(log)).values() if row["channel_id"] in channels]
    return {
        "tracked": tracked,
        "success_rate": counted["created"] / tracked if tracked else 0.0,
        "latency": None if latency["p50"] is None else {**latency, "average": float(latency["average"])},
        "pending": counted["accepted"] + counted["refused"] - tracked,
        "in_doubt": sum(len(row["in_doubt"]) for row in rows),
        "possible_duplicates": sum(len(row["in_doubt"]) for row in rows if row["session_id"] is not None),
        "counts": dict(counted),
    }


def parsed(moment: str) -> datetime:
    return datetime.fromisoformat(moment)
