"""An attempt in doubt stays visible in lists and metrics after a later attempt opened the session."""

from typing import Any

from guestledger.adapters.postgres.projections.read_models import PostgresReadModels
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.outcomes import FailureKind
from guestledger.engine.domain.session import Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.projections.metrics import MetricsFilter
from guestledger.engine.projections.sessions import SessionFilter
from tests.integration.appends import an_append, new_id
from tests.unit import samples as s

ANSWERS_LOST = SimulatorConfig(drop_share=1.0, honour_idempotency_key=False)


async def doubtful(read_models: Any) -> list[Any]:
    return [row async for row in read_models.sessions(SessionFilter(in_doubt=True))]


async def test_a_doubt_that_was_retried_away_stays_in_lists_and_metrics(ledger: Ledger, simulator: Simulator) -> None:
    await ledger.open_session(s.request())
    simulator.config = ANSWERS_LOST
    opened = await ledger.open_session(s.request())
    assert opened.status is Status.ACTIVE
    assert len(simulator.sessions_by_key[str(opened.id)]) == 2  # the ledger knows one of them

    [row] = await doubtful(ledger)
    assert (row.id, row.status, row.in_doubt) == (opened.id, Status.ACTIVE, (1,))
    metrics = await ledger.metrics()
    assert (metrics.in_doubt, metrics.possible_duplicates) == (1, 1)
    assert (await ledger.metrics(MetricsFilter(channel_id="another"))).in_doubt == 0
    assert (await ledger.metrics(MetricsFilter(since=opened.accepted_at))).in_doubt is None


async def test_a_doubt_ends_with_the_answer_whatever_was_projected_before(
    store: Any, read_models: PostgresReadModels
) -> None:
    stream_id = new_id()
    lost = FailureKind.IN_DOUBT
    history: list[tuple[Event, ...]] = [
        (s.was_recorded(), s.was_validated(), s.was_attempted(1), s.has_failed(1, lost)),
        (s.was_attempted(2), s.has_failed(2, lost)),
        (s.doubt_lifted(2),),
        (s.doubt_lifted(1),),
    ]
    found, version = [], 0
    for events in history:
        await store.append(an_append(stream_id, version, events))
        version += len(events)
        await read_models.catch_up()
        found.append([row.in_doubt for row in await doubtful(read_models)])
    assert found == [[(1,)], [(1, 2)], [(1,)], []]
