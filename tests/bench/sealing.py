"""What it costs to seal personal data: sessions opened per second, beside the same engine with sealing switched off.

One process opens both kinds in turns, round by round; the ratio is the median over the rounds. Without sealing, personal values
stay in the events; nothing is made, stored or checked of keys, hashes and the index of persons.
"""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from unittest.mock import patch

from guestledger.adapters.cli.running import collect_garbage_rarely
from guestledger.adapters.postgres.personal.personal_data import PersonalData
from guestledger.adapters.postgres.personal.sealed_append import Sealing
from guestledger.adapters.wiring import connect
from guestledger.engine.ledger import Ledger
from guestledger.engine.log.appends import Append
from tests.bench.figures import Figure
from tests.bench.opening import CONCURRENCY, engine_rate, settings_at, simulator

SESSIONS = 1_000
ROUNDS = 9


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """The rate with sealing beside the rate without it, and the processor time of sealing one session."""
    collect_garbage_rarely()  # as `guestledger open` and `guestledger worker` do
    sealed: list[tuple[float, float]] = []
    plain: list[tuple[float, float]] = []
    async with simulator() as place, connect(settings_at(place, data_dir=data_dir)) as ledger:
        await engine_rate(ledger, SESSIONS // 2, [])
        await _without_sealing(ledger)
        for number in range(ROUNDS):
            if number % 2:
                sealed.append(await _round(ledger))
                plain.append(await _without_sealing(ledger))
            else:
                plain.append(await _without_sealing(ledger))
                sealed.append(await _round(ledger))
    pairs = list(zip(sealed, plain, strict=True))
    yield Figure(
        name=f"open sessions, concurrency {CONCURRENCY}, personal data sealed",
        value=median(rate for rate, _ in sealed),
        unit="sessions/s",
        against="nothing sealed, at least 0.92",
        ratio=median(rate / plain_rate for (rate, _), (plain_rate, _) in pairs),
    )
    yield Figure(
        name="processor time of sealing, per session",
        value=median(spent - plain_spent for (_, spent), (_, plain_spent) in pairs) * 1_000,
        unit="us",
        against="all of a session's in this process",
        ratio=median(1 - plain_spent / spent for (_, spent), (_, plain_spent) in pairs),
    )


async def _round(ledger: Ledger) -> tuple[float, float]:
    """Sessions a second, and the processor time of each (ms)."""
    began = time.process_time()
    rate = await engine_rate(ledger, SESSIONS, [])
    return rate, (time.process_time() - began) / SESSIONS * 1_000


async def _without_sealing(ledger: Ledger) -> tuple[float, float]:
    with patch.object(PersonalData, "seal_now", _plain):
        return await _round(ledger)


def _plain(_personal: PersonalData, append: Append) -> Sealing:
    return Sealing(append.events, key=append.idempotency_key)
