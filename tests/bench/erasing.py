"""The erasure of a subject with 1,000 sessions, in a log of 1,000,000 events over three years.

Each session has its five events and two sealed rows. The time includes fence, keys, the append to each session, and the
certificate.
"""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median

from msgspec.structs import replace

from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.wiring import connect
from guestledger.engine.ledger import Ledger
from tests.bench.figures import Figure
from tests.bench.growth import Log
from tests.bench.opening import REQUEST, at_once, settings_at, simulator

EVENTS = 1_000_000
SESSIONS = 1_000
ROUNDS = 3
LIMIT_SECONDS = 2.0


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """The seconds of an erasure, median of the rounds; a subject for each."""
    url = await start_embedded(data_dir)
    log = await Log.filled(url, EVENTS, months=36)
    await log.close()
    async with simulator() as place:
        settings = replace(settings_at(place, database_url=url), schema=f"of_{EVENTS}", allow_owner=True)
        async with connect(settings, scheduler=False) as ledger:
            seconds = [await _erased(ledger, f"subject {number}") for number in range(ROUNDS)]
    yield Figure(
        name=f"erasure of {SESSIONS:,} sessions, log of {EVENTS:,} events",
        value=median(seconds),
        unit="s",
        against=f"{LIMIT_SECONDS:g} s, at most 1",
        ratio=median(seconds) / LIMIT_SECONDS,
    )


async def _erased(ledger: Ledger, subject: str) -> float:
    async def open_one() -> None:
        await ledger.open_session(replace(REQUEST, subject_id=subject))

    await at_once(open_one, SESSIONS)
    began = time.perf_counter()
    certificate = await ledger.erase(subject_id=subject, reason="bench", requested_by="bench")
    seconds = time.perf_counter() - began
    assert (certificate.sessions, len(certificate.events)) == (SESSIONS, SESSIONS)
    assert certificate.rows == 2 * SESSIONS
    return seconds
