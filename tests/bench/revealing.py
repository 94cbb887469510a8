"""The audit log of 10,000 sessions with personal data in clear, beside the same without.

Each session is a person of its own, so each has a key of its own. Every reading begins in a ledger just opened: no key is known.
Each look is recorded, page by page, before it is shown.
"""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median

from msgspec.structs import replace

from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.operations.reveal import Reveal
from guestledger.engine.projections.audit import contract_form
from tests.bench.figures import Figure
from tests.bench.opening import REQUEST, at_once
from tests.keys import KEY

ENTRIES = 10_000
ROUNDS = 3
REVEAL = Reveal(reason="benchmark", by="bench")


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """Seconds of the whole audit log in both ways; medians over the rounds."""
    settings = Settings(encryption_key=KEY, data_dir=data_dir)
    async with connect(settings, scheduler=False) as ledger:
        numbers = iter(range(ENTRIES))

        async def accept() -> None:
            await ledger.accept(replace(REQUEST, subject_id=f"person {next(numbers)}"))

        await at_once(accept, ENTRIES)
        await ledger.projections.catch_up()
    sealed, revealed = [], []
    for _ in range(ROUNDS):
        sealed.append(await _seconds(settings, None))
        revealed.append(await _seconds(settings, REVEAL))
    yield Figure(name=f"audit of {ENTRIES:,} entries", value=median(sealed), unit="s")
    yield Figure(
        name=f"audit of {ENTRIES:,} entries with reveal",
        value=median(revealed),
        unit="s",
        against="without",
        ratio=median(revealed) / median(sealed),
    )


async def _seconds(settings: Settings, reveal: Reveal | None) -> float:
    async with connect(settings, scheduler=False) as ledger:
        began = time.perf_counter()
        shown = [contract_form(entry)["ipAddress"] async for entry in ledger.audit(reveal=reveal)]
        seconds = time.perf_counter() - began
    assert shown == [REQUEST.ip_address if reveal else None] * ENTRIES
    return seconds
