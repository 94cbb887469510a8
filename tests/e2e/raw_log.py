"""The log as PostgreSQL has it, read by SQL (what is sealed: by the engine); and what must hold between it and the simulator."""

import hmac
from collections import Counter
from collections.abc import Mapping
from math import inf
from typing import Any
from uuid import UUID

import asyncpg

from guestledger.adapters.postgres.pool import close_engine, open_engine
from guestledger.adapters.simulator import Simulator
from guestledger.adapters.simulator.server import SentRequest
from guestledger.engine.domain.events import ConsentRecorded
from guestledger.engine.domain.personal import clear
from tests.event_stores import open_store
from tests.postgres import as_administrator
from tests.replaying import assert_what_if_is_the_log

SESSIONS_PATH = "/api/v1/chat/sessions"
ENDED = """
    event_type IN ('SessionCreated', 'ChannelRejected', 'SessionAbandoned')
    OR event_type IN ('CreationFailed', 'ChannelLookupFailed') AND data->>'retry_at' IS NULL"""


async def query(database_url: str, statement: str, *arguments: Any) -> list[asyncpg.Record]:
    """The rows of one statement; `events` and the other tables need no schema."""
    connection = await asyncpg.connect(
        as_administrator(database_url).replace("+asyncpg", ""), server_settings={"search_path": "guestledger"}
    )
    try:
        return await connection.fetch(statement, *arguments)
    finally:
        await connection.close()


async def counts(database_url: str) -> Counter[str]:
    """How many events of each type there are."""
    rows = await query(database_url, "SELECT event_type, count(*) FROM events GROUP BY event_type")
    return Counter(dict(map(tuple, rows)))


async def accepted(database_url: str) -> set[UUID]:
    """The streams for which consent was recorded."""
    rows = await query(database_url, "SELECT stream_id FROM events WHERE event_type = 'ConsentRecorded'")
    return {row[0] for row in rows}


async def open_ended(database_url: str) -> set[UUID]:
    """The streams for which consent was recorded, and nothing came of it so far."""
    rows = await query(database_url, f"SELECT stream_id FROM events WHERE {ENDED}")
    return await accepted(database_url) - {row[0] for row in rows}


async def known_sessions(database_url: str) -> set[tuple[str, str]]:
    """CXone's sessions that the ledger knows of, each with the key it was asked for under."""
    known = (
        "SELECT stream_id, data->>'session_id' FROM events WHERE event_type IN ('SessionCreated', 'DuplicateCreated')"
    )
    return {(str(stream_id), session_id) for stream_id, session_id in await query(database_url, known)}


def sessions_by_key(simulator: Simulator) -> dict[str, list[str]]:
    """The ids of the sessions that the simulator has made, by the key they were asked for under."""
    return {key: [made.session_id for made in sessions] for key, sessions in simulator.sessions_by_key.items()}


def remote_sessions(simulator: Simulator) -> set[tuple[str, str]]:
    """The sessions that the simulator has made, each with the key it was asked for under."""
    return {(key, made.session_id) for key, sessions in simulator.sessions_by_key.items() for made in sessions}


async def silent_sessions(database_url: str, sessions_by_key: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """By key, those of CXone's sessions that the ledger neither knows nor accounts for: there must be none.

    One that it does not know is accounted for by an attempt, under the same key, that it shows as in doubt to this day; each
    such attempt accounts for one session.
    """
    made = [(UUID(key), session_id) for key, session_ids in sessions_by_key.items() for session_id in session_ids]
    rows = await query(database_url, SILENT, [key for key, _ in made], [session_id for _, session_id in made])
    return {str(key): session_ids for key, session_ids in rows}


SILENT = """
    WITH made AS (SELECT * FROM unnest($1::uuid[], $2::text[]) AS made (stream_id, session_id)),
         known AS (SELECT stream_id, data->>'session_id' AS session_id, data->>'attempt' AS attempt FROM events
                    WHERE event_type IN ('SessionCreated', 'DuplicateCreated', 'SessionAdopted')),
         doubt AS (SELECT stream_id, data->>'attempt' AS attempt FROM events
                    WHERE event_type = 'CreationFailed' AND data->>'kind' = 'in_doubt'
                   EXCEPT SELECT stream_id, attempt FROM known
                   EXCEPT SELECT stream_id, data->>'attempt' FROM events WHERE event_type = 'DoubtLifted')
    SELECT stream_id, array_agg(session_id)
      FROM (SELECT stream_id, session_id FROM made EXCEPT SELECT stream_id, session_id FROM known) AS unknown
     GROUP BY stream_id
    HAVING count(*) > (SELECT count(*) FROM doubt WHERE doubt.stream_id = unknown.stream_id)"""


async def sent_unrecorded(database_url: str, simulator: Simulator) -> Counter[tuple[str | None, str]]:
    """The creation requests that came in at the simulator though no attempt with that key and digest was recorded."""
    keys = await hmac_keys(database_url)
    sent = Counter(told_by(simulator, request, keys) for request in sent_creations(simulator))
    return sent - Counter((await attempts(database_url)).values())


async def attempts(database_url: str) -> dict[tuple[UUID, int], tuple[str, str]]:
    """The recorded attempts, by stream and number: each with its key and the digest of its request."""
    rows = await query(
        database_url,
        """
        SELECT stream_id, (data->>'attempt')::int, data->>'request_hmac' FROM events
         WHERE event_type = 'CreationAttempted'""",
    )
    return {(stream_id, number): (str(stream_id), digest) for stream_id, number, digest in rows}


async def hmac_keys(database_url: str) -> dict[str, str]:
    """The keys of the requests' digests, by session. They are sealed."""
    statement = "SELECT DISTINCT stream_id FROM events WHERE event_type = 'ConsentRecorded'"
    streams = [stream_id for (stream_id,) in await query(database_url, statement)]
    engine = open_engine(as_administrator(database_url), "guestledger", pool_size=2)
    try:
        histories = await open_store(engine).read_streams(streams, reveal=True)
    finally:
        await close_engine(engine)
    return {
        str(stream_id): key
        for stream_id, history in histories.items()
        if isinstance(history[0].event, ConsentRecorded) and (key := clear(history[0].event.guest.hmac_key)) is not None
    }


async def assert_every_what_if_is_the_log(database_url: str) -> None:
    """Check the identity law of what-ifs for every session of the log."""
    engine = open_engine(as_administrator(database_url), "guestledger", pool_size=2)
    try:
        store = open_store(engine)
        policies = await store.policies()
        async for histories in store.read_sessions(since=None, until=None):
            for history in histories:
                assert_what_if_is_the_log(history, policies)
    finally:
        await close_engine(engine)


def sent_creations(simulator: Simulator) -> list[SentRequest]:
    """The creation requests that arrived at the simulator, in order."""
    sent = (request for request in simulator.requests if request.path == SESSIONS_PATH)
    return sorted(sent, key=lambda request: request.time)


def told_by(simulator: Simulator, request: SentRequest, keys: Mapping[str, str]) -> tuple[str | None, str]:
    """What `CreationAttempted` records of a creation request: its key, and a digest over method, URL and body."""
    text = f"{request.method} {simulator.url}{request.path}\n".encode() + request.body
    key = keys.get(request.key or "")
    return request.key, "" if key is None else hmac.digest(bytes.fromhex(key), text, "sha256").hex()


async def lapse_leases(database_url: str) -> None:
    """Let the leases of whoever was killed have lapsed, as they do by themselves after ten seconds."""
    await query(database_url, "UPDATE due_steps SET lease_until = now()")


async def sent_too_early(database_url: str, simulator: Simulator, retry_after_s: float) -> list[SentRequest]:
    """The creation requests that came in before the `Retry-After` of a 429 had passed, although the log had that 429 already
    when they were announced; those that were under way by then cannot be called back."""
    rows = await query(
        database_url,
        """
        SELECT attempt.stream_id, (attempt.data->>'attempt')::int, attempt.recorded_at, throttle.recorded_at
          FROM events AS attempt
          LEFT JOIN events AS throttle ON throttle.stream_id = attempt.stream_id
                AND throttle.event_type = 'CreationThrottled' AND throttle.data->>'attempt' = attempt.data->>'attempt'
         WHERE attempt.event_type = 'CreationAttempted'""",
    )
    known = await attempts(database_url)
    announced = {known[stream_id, number]: at.timestamp() for stream_id, number, at, _ in rows}
    learned = {known[stream_id, number]: at.timestamp() for stream_id, number, _, at in rows if at is not None}
    keys = await hmac_keys(database_url)
    early: list[SentRequest] = []
    until = since = 0.0
    for request in sent_creations(simulator):
        told_of = told_by(simulator, request, keys)
        if request.time < until and announced[told_of] > since:
            early.append(request)
        if request.status == 429:
            # A process that is killed leaves some unrecorded.
            until, since = request.time + retry_after_s, learned.get(told_of, inf)
    return early
