"""A batch of appends merges step changes as if they were applied one after another. No database."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from hypothesis import given, strategies as st
from msgspec import json

from guestledger.adapters.postgres.limits.rate_limiter import LimiterTransaction
from guestledger.adapters.postgres.log.batch import BatchRows, LogEnd, Proposal
from guestledger.adapters.postgres.log.rows import EventRow, Leased, Moved, RequestKeyRow
from guestledger.adapters.postgres.personal.sealed_append import Sealing
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.errors import WrongExpectedVersion
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.log.appends import Append, Appended, KeyTaken, Lease, StepChanges
from guestledger.engine.log.codec import encode
from tests.integration.appends import an_append, some_events
from tests.property.strategies import START
from tests.property.table import Row, Table, step_changes

STREAMS = tuple(UUID(int=number) for number in range(1, 4))
OWNERS = tuple(UUID(int=number) for number in range(11, 13))
NOW = START + timedelta(minutes=1)
BEGUN_AT = 2  # the version of each stream before the batch
DAY = timedelta(days=1)

due_times = st.integers(0, 3).map(lambda seconds: START + timedelta(seconds=seconds))
leases = st.builds(Lease, owner=st.sampled_from(OWNERS), ms=st.sampled_from([1, 30_000]))
rows = st.builds(Row, due_times) | st.builds(
    Row, due_times, owner=st.sampled_from(OWNERS), lease_until=st.sampled_from([NOW - DAY, NOW + DAY])
)
tables = st.dictionaries(st.tuples(st.sampled_from(STREAMS), st.sampled_from(StepName)), rows)


class Planned(NamedTuple):
    """An append: on the present version of its stream, or beside it."""

    stream_id: UUID
    beside: int
    events: int
    key: str | None
    steps: StepChanges


planned = st.builds(
    Planned,
    st.sampled_from(STREAMS),
    beside=st.sampled_from([0, 0, 0, 0, 1, -1]),
    events=st.integers(1, 3),
    key=st.sampled_from([None, None, None, "order-1"]),
    steps=step_changes(due_times, leases),
)


def written(table: Table, parameters: Sequence[Any]) -> Table:
    """The table after the append statement, whose parts all see it as it was before."""
    after = Table()
    after.rows = dict(table.rows)
    leased, moved = json.decode(parameters[3], type=list[Leased]), json.decode(parameters[4], type=list[Moved])
    done = list(zip(*parameters[5:7], strict=True))
    for row in leased:
        after.rows[row.stream_id, row.step] = Row(row.due_at, owner=row.owner, lease_until=row.lease_until)
    for row in moved:
        key = row.stream_id, row.step
        after.rows[key] = table.rows.get(key, Row(row.due_at))._replace(due_at=row.due_at)
    for key in done:
        after.rows.pop(key, None)
    touched = [*((row.stream_id, row.step) for row in (*leased, *moved)), *done]
    assert len(set(touched)) == len(touched), "one statement cannot change a row twice"
    return after


@given(table=tables, plans=st.lists(planned, max_size=8))
def test_a_batch_merges_step_changes_as_if_applied_one_by_one(
    table: dict[tuple[UUID, StepName], Row], plans: list[Planned]
) -> None:
    before, expected = Table(), Table()
    before.rows, expected.rows = dict(table), dict(table)
    versions, key_owner, accepted = dict.fromkeys(STREAMS, BEGUN_AT), dict[str, UUID](), list[Append]()
    log = LogEnd(
        position=9,
        now=NOW,
        recorded_at=NOW,
        versions=dict(versions),
        keys={},
        destroyed=frozenset(),
        fenced=frozenset(),
        kek=None,
        known={},
        limiters=frozenset(),
        asked=(),
        states={},
    )
    batch = BatchRows(log, LimiterTransaction({}, NOW, LimiterPolicy()))
    for plan in plans:
        append = an_append(
            plan.stream_id,
            versions[plan.stream_id] + plan.beside,
            some_events(plan.events),
            steps=plan.steps,
            key=plan.key,
        )
        outcome = batch.take(Proposal(append, tuple(map(encode, append.events)), Sealing(append.events, key=plan.key)))
        if plan.beside:
            assert isinstance(outcome, WrongExpectedVersion)
        elif plan.key in key_owner:
            assert isinstance(outcome, KeyTaken)
        else:
            accepted.append(append)
            versions[plan.stream_id] += plan.events
            expected.apply(plan.stream_id, plan.steps, NOW)
            if plan.key is not None:
                key_owner[plan.key] = plan.stream_id
            assert isinstance(outcome, Appended)
            assert outcome.version == versions[plan.stream_id]
    parameters = batch.parameters()
    assert written(before, parameters).rows == expected.rows
    events = json.decode(parameters[1], type=list[EventRow])
    assert [(event.stream_id, event.version, event.causation_id) for event in events] == [
        (append.stream_id, append.expected_version + number, append.causation_id)
        for append in accepted
        for number in range(1, len(append.events) + 1)
    ]
    assert [event.position for event in events] == list(range(10, 10 + len(events))), "they follow the log's last one"
    keys = json.decode(parameters[2], type=list[RequestKeyRow])
    assert {row.idempotency_key: row.stream_id for row in keys} == key_owner
