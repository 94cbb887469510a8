"""The store against a model: several writers, any appends in any batches, races and claims."""

import asyncio
import math
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from guestledger.adapters.postgres.limits.rate_limiter import PostgresRateLimiter
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.postgres.work.due_steps import PostgresDueSteps
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.errors import LogSetBack, WrongExpectedVersion
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.policy import Policy
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.log.appends import Append, Appended, KeyTaken, Lease, StepChanges
from guestledger.engine.log.codec import encode
from guestledger.engine.log.personal_fields import personal_values, with_values
from tests.integration.appends import HOUR_MS, an_append, new_id, some_events
from tests.integration.plain_sql import EMPTY, SCHEMA, connect_plainly
from tests.keys import personal_data
from tests.property.table import step_changes
from tests.unit.samples import START

Result = TypeVar("Result")

STORES = range(3)
OWNERS = [uuid4() for _ in range(2)]
STREAMS = range(4)
FAR = datetime(2124, 1, 1, tzinfo=UTC)


Key = tuple[UUID, StepName]


class Proposal(NamedTuple):
    """An append on the present version of its stream, or beside it."""

    stream: int
    beside: int
    events: int
    key: str | None
    steps: StepChanges


class Row(NamedTuple):
    """A due step. `leased` is whether the owner's lease is still valid."""

    due_at: datetime
    owner: UUID | None
    leased: bool


due_times = st.integers(0, 5).map(lambda seconds: START + timedelta(seconds=seconds)) | st.just(FAR)
proposals = st.builds(
    Proposal,
    stream=st.sampled_from(STREAMS),
    beside=st.sampled_from([0, 0, 0, 0, -1, 1]),
    events=st.integers(1, 3),
    key=st.sampled_from([None, None, None, "order-1", "order-2"]),
    steps=step_changes(due_times, st.sampled_from(OWNERS).map(lambda owner: Lease(owner=owner, ms=HOUR_MS))),
)
batches = st.lists(proposals, min_size=1, max_size=6)


def unsealed(event: Event) -> str:
    """The event's text without its personal values, of which the log holds commitments."""
    return encode(with_values(event, dict.fromkeys(personal_values(event), "")))


class Model:
    """The expected log, keys and due steps."""

    def __init__(self) -> None:
        self.ids = [new_id() for _ in STREAMS]
        self.log: list[tuple[UUID, int, str]] = []
        self.versions: dict[UUID, int] = dict.fromkeys(self.ids, 0)
        self.keys: dict[str, UUID] = {}
        self.due: dict[Key, Row] = {}

    def append_for(self, proposal: Proposal) -> Append:
        stream_id = self.ids[proposal.stream]
        return an_append(
            stream_id,
            max(0, self.versions[stream_id] + proposal.beside),
            some_events(proposal.events),
            steps=proposal.steps,
            key=proposal.key,
        )

    def take(self, append: Append) -> tuple[Any, ...]:
        """Record the append or reject it. Returns the outcome in comparable form."""
        actual = self.versions.setdefault(append.stream_id, 0)
        if append.expected_version != actual:
            return "wrong version", append.stream_id, append.expected_version, actual
        if append.idempotency_key in self.keys:
            return "key taken", self.keys[append.idempotency_key]
        if append.idempotency_key is not None:
            self.keys[append.idempotency_key] = append.stream_id
        for event in append.events:
            self.versions[append.stream_id] += 1
            self.log.append((append.stream_id, self.versions[append.stream_id], unsealed(event)))
        self._take_steps(append.stream_id, append.steps)
        return "appended", self.versions[append.stream_id], len(self.log) - 1

    def _take_steps(self, stream_id: UUID, changes: StepChanges) -> None:
        owner = changes.lease.owner if changes.lease else None
        for due in changes.due:
            before = self.due.get((stream_id, due.step), Row(due.due_at, None, leased=False))
            mine = due.step in changes.mine
            self.due[stream_id, due.step] = (
                Row(due.due_at, owner, owner is not None) if mine else before._replace(due_at=due.due_at)
            )
        for step in changes.done:
            self.due.pop((stream_id, step), None)

    def owned(self, owner: UUID, stream_ids: set[UUID]) -> list[Key]:
        """The steps of these streams that `owner` holds, by leases that may have lapsed."""
        return [key for key, row in self.due.items() if key[0] in stream_ids and row.owner == owner]


def comparable(outcome: Any) -> tuple[Any, ...]:
    match outcome:
        case Appended():
            return "appended", outcome.version, outcome.position
        case WrongExpectedVersion():
            return "wrong version", outcome.stream_id, outcome.expected, outcome.actual
        case KeyTaken():
            return "key taken", outcome.stream_id
        case _:
            raise outcome


class StoreMachine(RuleBasedStateMachine):
    """Rules run one after another; the appends of one rule run concurrently."""

    def __init__(
        self,
        runner: asyncio.Runner,
        stores: list[PostgresEventStore],
        due_steps: PostgresDueSteps,
        sql: asyncpg.Connection,
    ) -> None:
        super().__init__()
        self.stores, self.due_steps, self.sql = stores, due_steps, sql
        self._runner = runner

    def run(self, step: Coroutine[Any, Any, Result]) -> Result:
        return self._runner.run(step)

    @initialize()
    def begin_empty(self) -> None:
        self.model = Model()
        self.run(self.sql.execute(EMPTY))

    @rule(store=st.sampled_from(STORES), batch=batches)
    def a_batch_is_taken_append_by_append(self, store: int, batch: list[Proposal]) -> None:
        appends, expected = self._expected(store, batch)

        outcomes = self.run(self._concurrently([(store, append) for append in appends]))

        assert [comparable(outcome) for outcome in outcomes] == expected
        times = {outcome.recorded_at for outcome in outcomes if isinstance(outcome, Appended)}
        assert len(times) <= 1, "it was one batch"

    def _expected(self, store: int, batch: list[Proposal]) -> tuple[list[Append], list[tuple[Any, ...]]]:
        """Appends of which each builds on those before it, and their outcomes if the store takes them in this order."""
        appends, expected = [], []
        for proposal in batch:
            appends.append(self.model.append_for(proposal))
            expected.append(self.model.take(appends[-1]))
            # So that none has to wait for its keys: the others would overtake it.
            self.run(self.stores[store]._personal.seal(appends[-1]))
        return appends, expected

    @rule(stream=st.sampled_from(STREAMS), numbers=st.lists(st.integers(1, 3), min_size=2, max_size=3))
    def one_of_racing_writers_gets_a_version(self, stream: int, numbers: list[int]) -> None:
        appends = [self.model.append_for(Proposal(stream, 0, number, None, StepChanges())) for number in numbers]
        self._race(appends)

    @rule(writers=st.integers(2, 3), key=st.sampled_from(["order-1", "order-2", "order-3"]))
    def one_of_racing_writers_gets_a_key(self, writers: int, key: str) -> None:
        self._race([an_append(key=key) for _ in range(writers)])

    def _race(self, appends: list[Append]) -> None:
        outcomes = self.run(self._concurrently(list(zip(STORES, appends, strict=False))))
        # The winner came first. The model then rejects the others as the store did.
        order = sorted(range(len(appends)), key=lambda one: not isinstance(outcomes[one], Appended))
        assert [comparable(outcomes[one]) for one in order] == [self.model.take(appends[one]) for one in order]

    @rule(store=st.sampled_from(STORES), batch=batches, which=st.integers(0, 5))
    def a_cancelled_caller_affects_no_other(self, store: int, batch: list[Proposal], which: int) -> None:
        appends, expected = self._expected(store, batch)
        gone = which % len(batch)

        outcomes = self.run(self._with_one_cancelled(self.stores[store], appends, gone))

        if isinstance(outcomes[gone], asyncio.CancelledError):  # else its batch was faster
            del outcomes[gone], expected[gone]
        assert [comparable(outcome) for outcome in outcomes] == expected

    async def _concurrently(self, appends: list[tuple[int, Append]]) -> list[Any]:
        running = (self.stores[store].append(append) for store, append in appends)
        return await asyncio.gather(*running, return_exceptions=True)

    async def _with_one_cancelled(self, store: PostgresEventStore, appends: list[Append], gone: int) -> list[Any]:
        running = [asyncio.create_task(store.append(append)) for append in appends]
        await asyncio.sleep(0)
        while store._queue:  # a caller that is cancelled before its batch is taken withdraws its append
            await asyncio.sleep(0)
        running[gone].cancel()
        outcomes = await asyncio.gather(*running, return_exceptions=True)
        if store._committing is not None:  # a batch that a caller has left
            await asyncio.wait((store._committing,))
        return outcomes

    @rule(store=st.sampled_from(STORES), after=st.integers(-1, 12), batch=st.integers(1, 5))
    def a_reader_gets_the_log_in_order(self, store: int, after: int, batch: int) -> None:
        async def read() -> list[list[Any]]:
            return [found async for found in self.stores[store].read_all(after=after, batch=batch)]

        if after >= len(self.model.log):
            with pytest.raises(LogSetBack):
                self.run(read())
            return
        found = self.run(read())
        assert all(len(some) == batch for some in found[:-1])
        seen = [
            (recorded.position, recorded.stream_id, recorded.version, unsealed(recorded.event))
            for some in found
            for recorded in some
        ]
        assert seen == [(position, *entry) for position, entry in enumerate(self.model.log) if position > after]

    @rule(store=st.sampled_from(STORES))
    def a_reader_gets_each_stream_in_order(self, store: int) -> None:
        streams = self.run(self.stores[store].read_streams(list(self.model.versions)))

        for stream_id, version in self.model.versions.items():
            texts = [text for one, _, text in self.model.log if one == stream_id]
            history = streams.get(stream_id, [])
            assert [recorded.version for recorded in history] == list(range(1, version + 1))
            assert [unsealed(recorded.event) for recorded in history] == texts

    @rule(owner=st.sampled_from(OWNERS), steps=st.sets(st.sampled_from(StepName)), limit=st.integers(1, 4))
    def a_claim_leases_what_has_been_due_longest(self, owner: UUID, steps: set[StepName], limit: int) -> None:
        free = {
            key: row
            for key, row in self.model.due.items()
            if row.due_at < FAR and key[1] in steps and row.owner is None
        }

        wanted = dict.fromkeys(steps)
        claims = self.run(self.due_steps.claim(Lease(owner=owner, ms=HOUR_MS), wanted, limit)).claims

        assert [claim.due_at for claim in claims] == sorted(row.due_at for row in free.values())[:limit]
        for claim in claims:
            key = (claim.stream_id, claim.step)
            assert claim.due_at == free.pop(key).due_at
            self.model.due[key] = Row(claim.due_at, owner, leased=True)

    @precondition(lambda self: self.model.due)
    @rule(data=st.data())
    def a_lease_lapses(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.model.due)))
        self.run(self.sql.execute("UPDATE due_steps SET lease_until = now() WHERE stream_id = $1 AND step = $2", *key))
        self.model.due[key] = self.model.due[key]._replace(leased=False)

    @rule()
    def lapsed_leases_are_freed(self) -> None:
        self.run(self.due_steps.free_lapsed())
        for key, row in self.model.due.items():
            if not row.leased:
                self.model.due[key] = row._replace(owner=None)

    @rule(owner=st.sampled_from(OWNERS), streams=st.sets(st.sampled_from(STREAMS)))
    def a_heartbeat_renews_its_owners_leases(self, owner: UUID, streams: set[int]) -> None:
        ids = {self.model.ids[stream] for stream in streams}
        renewed = self.run(self.due_steps.heartbeat(Lease(owner=owner, ms=HOUR_MS), list(ids)))
        keys = self.model.owned(owner, ids)
        assert renewed == {stream_id for stream_id, _ in keys}
        for key in keys:
            self.model.due[key] = self.model.due[key]._replace(leased=True)

    @rule(owner=st.sampled_from(OWNERS), stream=st.sampled_from(STREAMS), delay_ms=st.sampled_from([0, HOUR_MS]))
    def a_release_frees_what_its_owner_holds(self, owner: UUID, stream: int, delay_ms: int) -> None:
        stream_id = self.model.ids[stream]
        self.run(self.due_steps.release(owner, stream_id, delay_ms))
        for key in self.model.owned(owner, {stream_id}):
            before = self.model.due[key].due_at
            statement = "SELECT due_at, due_at > now() AS ahead FROM due_steps WHERE stream_id = $1 AND step = $2"
            found = self.run(self.sql.fetchrow(statement, *key))
            assert found["due_at"] >= before
            assert found["ahead"] == (delay_ms > 0 or before == FAR)
            # It is due now, or in an hour. For the model that is after everything that was due, or never.
            due_at = FAR if found["ahead"] else found["due_at"]
            statement = "UPDATE due_steps SET due_at = $3 WHERE stream_id = $1 AND step = $2"
            self.run(self.sql.execute(statement, *key, due_at))
            self.model.due[key] = Row(due_at, None, leased=False)

    @invariant()
    def the_log_ends_where_it_should(self) -> None:
        assert self.run(self.stores[0].head()) == len(self.model.log) - 1

    @invariant()
    def the_keys_are_those_that_opened_streams(self) -> None:
        rows = self.run(self.sql.fetch("SELECT * FROM request_keys"))
        hashed = self.stores[0]._personal.hashed
        expected = {self.run(hashed("key", key)).hex(): stream_id for key, stream_id in self.model.keys.items()}
        assert {row["idempotency_key"]: row["stream_id"] for row in rows} == expected

    @invariant()
    def the_due_steps_are_what_the_appends_left(self) -> None:
        statement = "SELECT *, coalesce(lease_until > now(), false) AS leased FROM due_steps"
        rows = self.run(self.sql.fetch(statement))
        found = {
            (row["stream_id"], StepName(row["step"])): Row(row["due_at"], row["owner"], row["leased"]) for row in rows
        }
        assert found == self.model.due

    @invariant()
    def unfinished_sessions_are_counted(self) -> None:
        for wanted in ({}, {StepName.DELIVER_WEBHOOK: None}):
            later = {StepName.EXPIRE_TOKEN, StepName.PURGE_TOKEN, *wanted}
            ignored = {StepName.ENFORCE_DEADLINE, StepName.DELIVER_WEBHOOK, StepName.ERASE_CONTACT} - wanted.keys()
            unfinished = {
                stream_id
                for (stream_id, step), row in self.model.due.items()
                if step not in ignored and (step not in later or row.due_at < FAR)
            }
            assert self.run(self.due_steps.unfinished(wanted)) == len(unfinished)
            assert self.run(self.due_steps.is_idle(wanted)) == (not unfinished)


def test_the_store_behaves_like_its_model(database_url: str) -> None:
    with asyncio.Runner() as runner:
        engines = [open_engine(database_url, SCHEMA, pool_size=2) for _ in STORES]
        limiters = [PostgresRateLimiter(engine, SCHEMA, LimiterPolicy()) for engine in engines]
        stores = [
            PostgresEventStore(engine, SCHEMA, limiter, personal_data(engine, SCHEMA), Policy())
            for engine, limiter in zip(engines, limiters, strict=True)
        ]
        due_steps = PostgresDueSteps(engines[-1], SCHEMA, limiters[-1])
        due_steps._freed_at = math.inf  # claims free nothing by the clock: only the rule does
        for store in stores:  # from here on all keys are at hand: an append is sealed at once
            runner.run(store.append(an_append(events=some_events(3))))
        sql = runner.run(connect_plainly(database_url))
        try:
            run_state_machine_as_test(
                lambda: StoreMachine(runner, stores, due_steps, sql),
                settings=settings(
                    max_examples=30,
                    stateful_step_count=25,
                    deadline=None,
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
        finally:
            runner.run(sql.close())
            for store in stores:
                runner.run(store.close())
            for engine in engines:
                runner.run(engine.dispose())
