"""The questions of an engineer on call, in a log of 1,000,000 events: `why` and `find`, each against a limit of 50 ms.

The sessions are in the projections, the guest index and the due steps too, and 50,000 of them wait behind a closed limiter. What is
asked about is drawn from the whole log.
"""

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.guest_filter import GuestFilter
from guestledger.engine.ledger import Ledger
from guestledger.engine.ports.session_finder import FindFilter
from tests import logs
from tests.bench.figures import Figure
from tests.keys import KEY

EVENTS = 1_000_000
WAITING = 50_000
"""Sessions that wait, of four events each. The others are active, of five events each."""
ADDRESSES = 50_000
TIMES = 300
"""So many questions of each kind."""
LIMIT_MS = 50

# As if ten events were committed together, one event a millisecond: ten minutes before and after a time are the whole log.
_BATCHES = """
    INSERT INTO guestledger.batches SELECT position, recorded_at FROM guestledger.events WHERE position % 10 = 9
    ON CONFLICT DO NOTHING"""
_GUESTS = """
    INSERT INTO guestledger.personal_index
    SELECT id, uuid_send(id), ($1::bytea[])[number % cardinality($1::bytea[]) + 1], uuid_send(id)
      FROM (SELECT id, row_number() OVER () AS number FROM guestledger.sessions) AS numbered"""
_DUE = """
    INSERT INTO guestledger.due_steps (stream_id, step, due_at)
    SELECT id, step, CASE step WHEN 'create_session' THEN retry_at WHEN 'enforce_deadline' THEN retry_at + interval '1 h' ELSE expires_at END
      FROM guestledger.sessions,
           unnest(CASE status WHEN 'active' THEN ARRAY['expire_token'] ELSE ARRAY['create_session', 'enforce_deadline'] END) AS step
     WHERE status IN ('active', 'throttled')"""
# Each waits for its turn behind those before it.
_APART = """
    UPDATE guestledger.due_steps AS d SET due_at = due_at + number * interval '1 ms'
      FROM (SELECT id, row_number() OVER (ORDER BY id) AS number FROM guestledger.sessions WHERE status = 'throttled') AS n
     WHERE d.stream_id = n.id AND step = 'create_session'"""
_CLOSED = """
    INSERT INTO guestledger.limits (name, closed_at, closed_until, next_reservation, failures, breaks)
    VALUES ($1, now(), now() + interval '10 min', now() + interval '10 min', 0, 0)"""


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """p50 and p99 of each kind of question; the p99 against the limit."""
    url = await start_embedded(data_dir)
    await upgrade(url)
    await logs.write(url, EVENTS - 4 * WAITING)
    await logs.write_throttled(url, WAITING, after=EVENTS - 4 * WAITING - 1)
    settings = Settings(database_url=url, encryption_key=KEY, cxone_url="http://127.0.0.1:9", allow_owner=True)
    async with connect(settings, scheduler=False) as ledger:
        await ledger.projections.catch_up()
        for name, ask in questions(ledger, await fill(url, ledger)).items():
            for figure in await _figures(name, ask):
                yield figure


def questions(ledger: Ledger, sessions: Mapping[str, Sequence[UUID]]) -> dict[str, Callable[[], Awaitable[None]]]:
    """What is asked, each time about something else."""

    async def why_waiting() -> None:
        steps = (await ledger.why(random.choice(sessions["throttled"]))).steps
        assert [condition.name for condition in steps[0].unmet][-1:] == ["pause"]

    async def why_active() -> None:
        assert (await ledger.why(random.choice(sessions["active"]))).steps

    async def around() -> None:
        moment = logs.START + timedelta(milliseconds=random.randrange(EVENTS))
        wanted = FindFilter(around=moment, channel_id=random.choice(logs.CHANNELS))
        assert (await ledger.find(wanted)).found

    async def of_guest() -> None:
        wanted = FindFilter(guest=GuestFilter(ip_address=_address(random.randrange(ADDRESSES))))
        assert len((await ledger.find(wanted)).found) >= 4

    async def of_guest_around() -> None:
        moment = logs.START + timedelta(milliseconds=EVENTS // 2)
        guest = GuestFilter(ip_address=_address(random.randrange(ADDRESSES)))
        assert (await ledger.find(FindFilter(around=moment, within=timedelta(days=1), guest=guest))).found

    return {
        "why, of a session that waits": why_waiting,
        "why, of an active session": why_active,
        "find, around a time, on a channel": around,
        "find, by address": of_guest,
        "find, by address, around a time": of_guest_around,
    }


async def fill(url: str, ledger: Ledger) -> dict[str, list[UUID]]:
    """Add what appends would have written beside the events. Returns the sessions by status."""
    hashes = [await ledger._adapters.personal.hashed_address(_address(number)) for number in range(ADDRESSES)]  # type: ignore[attr-defined]
    connection = await logs.connect(url)
    await connection.execute(_BATCHES, timeout=600)
    await connection.execute(_GUESTS, hashes, timeout=600)
    await connection.execute(_DUE, timeout=600)
    await connection.execute(_APART, timeout=600)
    await connection.execute(_CLOSED, ledger._adapters.provider.creation_limiter)  # type: ignore[attr-defined]
    await connection.execute("VACUUM ANALYZE", timeout=600)
    rows = await connection.fetch("SELECT status, array_agg(id) FROM guestledger.sessions GROUP BY status")
    await connection.close()
    return dict(map(tuple, rows))


def _address(number: int) -> str:
    return f"10.0.{number // 256}.{number % 256}"


async def _figures(name: str, ask: Callable[[], Awaitable[None]]) -> list[Figure]:
    for _ in range(20):
        await ask()
    spent = []
    for _ in range(TIMES):
        began = time.perf_counter()
        await ask()
        spent.append((time.perf_counter() - began) * 1_000)
    spent.sort()
    p50, p99 = spent[TIMES // 2], spent[TIMES * 99 // 100]
    limit = f"limit {LIMIT_MS} ms"
    return [
        Figure(name=f"{name}, p50", value=p50, unit="ms", against=limit, ratio=p50 / LIMIT_MS),
        Figure(name=f"{name}, p99", value=p99, unit="ms", against=limit, ratio=p99 / LIMIT_MS),
    ]
