"""The engine's side of `store`: lifecycles of five appends, each with its expected version and due step.

python -m tests.bench.appending URL CONCURRENCY
"""

import asyncio
import sys
import time
from datetime import datetime
from uuid import UUID

from guestledger.adapters.clock import SystemClock
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.pool import open_engine
from guestledger.engine.domain.due import DueStep, StepName
from guestledger.engine.domain.events import CreationThrottled
from guestledger.engine.limits.retry import Wait, WaitBasis
from guestledger.engine.log.appends import Append, StepChanges
from tests.bench.peers.rounds import answer, at_once
from tests.event_stores import open_store

_clock = SystemClock()
_STEPS_DONE = StepChanges(done=frozenset({StepName.CREATE_SESSION}))


def event_of(at: datetime, attempt: int) -> CreationThrottled:
    """An event without personal data: the peers seal none. What sealing costs is measured by `sealing`."""
    wait = Wait(ms=1_250, basis=WaitBasis.RETRY_AFTER, basis_ms=1_000, extra_ms=250, given="1")
    return CreationThrottled(at=at, channel_id="ch_1", attempt=attempt, status=429, wait=wait, retry_at=at)


def append_of(stream_id: UUID, version: int) -> Append:
    """The append of one event to a stream at this version."""
    now = _clock.now()
    return Append(
        stream_id=stream_id,
        expected_version=version,
        events=(event_of(now, version + 1),),
        steps=_STEPS_DONE if version == 4 else StepChanges(due=(DueStep(StepName.CREATE_SESSION, now),)),
        actor="bench",
        causation_id=_clock.new_id(),
        correlation_id=str(stream_id),
    )


async def lifecycle(store: PostgresEventStore, appends: list[float]) -> None:
    """Five appends, one after the other; the seconds of each are noted."""
    stream_id = _clock.new_id()
    for version in range(5):
        append = append_of(stream_id, version)
        began = time.perf_counter()
        await store.append(append)
        appends.append(time.perf_counter() - began)


def main(url: str, concurrency: str) -> None:
    with asyncio.Runner() as runner:
        engine = open_engine(url, "guestledger")
        store = open_store(engine)

        async def one_round(lifecycles: int) -> list[float]:
            return await at_once(lambda appends: lifecycle(store, appends), lifecycles, int(concurrency))

        answer(lambda lifecycles: runner.run(one_round(lifecycles)))
        runner.run(store.close())
        runner.run(engine.dispose())


if __name__ == "__main__":
    main(*sys.argv[1:])
