"""The rate limiter, shared by two ledgers on one database, as by two processes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace

from guestledger.adapters.postgres.limits.rate_limiter import PostgresRateLimiter
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.postgres.transactions import short_transaction
from guestledger.adapters.settings import InvalidSettings, Settings
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.admission import AdmissionRequest, DenialReason
from guestledger.engine.limits.feedback import Feedback, Observation
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import RetryPolicy, WaitBasis
from guestledger.engine.log.appends import Append, AppendDenied, Appended
from guestledger.engine.worker.step import Lane
from guestledger.engine.worker.steps import create_session
from tests.event_stores import open_store
from tests.integration.appends import HOUR_MS, a_lease, new_id
from tests.integration.conftest import HeldLog
from tests.integration.plain_sql import SCHEMA
from tests.pacing import proposed
from tests.unit.samples import START, request

LONG = 60
"""Seconds; nothing takes this long unless it hangs."""
QUICK = LimiterPolicy(initial_rate=5_000.0, retries_per_second=1_000.0)
FAILING = SimulatorConfig(server_error_share=1.0, fault_times=1_000_000)


def policy(limiter: LimiterPolicy = QUICK, **creation: Any) -> Policy:
    return Policy(creation=RetryPolicy(**{"base_ms": 0, "max_failures": 1_000, **creation}), limiter=limiter)


@asynccontextmanager
async def two(new_ledger: Any, policy: Policy, **given: Any) -> AsyncIterator[tuple[Ledger, Ledger]]:
    """Two ledgers, with a time limit."""
    async with new_ledger(policy=policy, **given) as one, new_ledger(policy=policy, **given) as other:
        async with asyncio.timeout(LONG):
            yield one, other


async def unchecked() -> None: ...


async def all_done(*ledgers: Ledger) -> None:
    await asyncio.gather(*(ledger.scheduler.run_until_idle() for ledger in ledgers))


async def events(ledger: Ledger, session: Session | UUID) -> list[Event]:
    stream_id = session.id if isinstance(session, Session) else session
    return [recorded.event for recorded in await ledger.history(stream_id)]


def asked(simulator: Simulator) -> list[float]:
    """When each creation request came, in Unix seconds."""
    return [sent.time for sent in simulator.requests if sent.path.endswith("/sessions")]


async def attempts_while_closed(ledger: Ledger) -> list[Event]:
    """The attempts that were recorded after a throttle and before its `Retry-After` had passed."""
    early: list[Event] = []
    closed_until = None
    async for batch in ledger.events.read():
        for recorded in batch:
            match recorded.event:
                case e.CreationThrottled(wait=wait):
                    until = recorded.recorded_at + timedelta(milliseconds=wait.basis_ms)
                    closed_until = max(closed_until or until, until)
                case e.CreationAttempted() as attempt if closed_until and recorded.recorded_at < closed_until:
                    early.append(attempt)
                case _:
                    pass
    return early


# Closed


async def test_a_throttle_of_one_process_delays_the_other_until_retry_after(
    new_ledger: Any, simulator: Simulator
) -> None:
    async with two(new_ledger, policy()) as (one, other):
        simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=1)
        throttled = await one.open_session(request())
        (met,) = asked(simulator)
        simulator.config = SimulatorConfig()
        held_back = [await ledger.open_session(request()) for ledger in (one, other, other)]
        assert len(asked(simulator)) == 1

        await all_done(one, other)

        assert len(asked(simulator)) == 5
        assert min(asked(simulator)[1:]) >= met + 1
        assert await attempts_while_closed(one) == []
        for session in (throttled, *held_back):
            assert (await one.session(session.id)).status is Status.ACTIVE


async def test_the_log_has_no_attempt_between_a_throttle_and_its_retry_time(
    new_ledger: Any, simulator: Simulator
) -> None:
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=1)
    async with two(new_ledger, policy()) as (one, other):
        await one.open_session(request())
        simulator.config = SimulatorConfig(throttle_share=0.1, retry_after_s=1)
        accepted = await asyncio.gather(*(one.accept(request()) for _ in range(40)))
        opening = [ledger.open_session(request()) for ledger in (one, other) for _ in range(5)]

        opened, _ = await asyncio.gather(asyncio.gather(*opening), all_done(one, other))
        await all_done(one, other)

        assert await attempts_while_closed(one) == []
        for session in (*accepted, *opened):
            assert (await other.session(session.id)).status is Status.ACTIVE


async def test_a_session_opened_behind_a_closed_limiter_is_deferred_with_a_reason(
    new_ledger: Any, simulator: Simulator, sql: Any
) -> None:
    async with two(new_ledger, policy()) as (one, other):
        simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=600)
        await one.open_session(request())
        session = await other.open_session(request())

        ((name, until),) = await sql("SELECT name, closed_until FROM limits")
        assert (session.status, session.attempts, session.retry_at) == (Status.PENDING, 0, until)
        assert (session.cause, session.detail) == (Cause.RATE_LIMITED, name)
        deferred = (await events(other, session))[-1]
        assert isinstance(deferred, e.CreationDeferred)
        assert (deferred.limiter, deferred.denied_by, deferred.retry_at) == (name, DenialReason.CLOSED, until)
        assert name.endswith(" sessions")
        assert len(asked(simulator)) == 1


async def test_a_failure_with_retry_after_closes_the_limiter_for_all_processes(
    new_ledger: Any, simulator: Simulator
) -> None:
    simulator.config = SimulatorConfig(server_error_share=1.0, error_retry_after="1")
    async with two(new_ledger, policy()) as (one, other):
        failed = await one.open_session(request())
        (met,) = asked(simulator)
        last = (await events(one, failed))[-1]
        assert isinstance(last, e.CreationFailed)
        assert (last.wait.ms, last.wait.basis, last.wait.extra_ms) == (1_000, WaitBasis.RETRY_AFTER, 0)
        held_back = await other.open_session(request())
        assert (held_back.status, held_back.attempts) == (Status.PENDING, 0)
        assert held_back.cause is Cause.RATE_LIMITED

        simulator.config = SimulatorConfig()
        await all_done(one, other)

        assert min(asked(simulator)[1:]) >= met + 1
        for session in (failed, held_back):
            assert (await other.session(session.id)).status is Status.ACTIVE


async def test_a_closed_limiter_blocks_neither_webhooks_nor_other_hosts(
    new_ledger: Any, simulator: Simulator, sql: Any
) -> None:
    hooked = {"webhook_url": simulator.webhook_url}
    async with two(new_ledger, policy(), **hooked) as (one, other), Simulator() as elsewhere:
        made = await one.open_session(request())
        simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=600)
        deferred = [await ledger.open_session(request()) for ledger in (one, other, one)]
        await sql("UPDATE due_steps SET due_at = now() WHERE step = 'create_session'")
        before = [await events(one, session) for session in deferred]

        done = await other.scheduler.run_once()

        assert done == {"WebhookSynced": 1}
        assert isinstance((await events(one, made))[-1], e.WebhookSynced)
        assert [await events(one, session) for session in deferred] == before
        secret = {"cxone_client_secret": elsewhere.client_secret, "cxone_client_id": elsewhere.client_id}
        async with new_ledger(policy=policy(), cxone_url=elsewhere.url, **secret) as third:
            assert (await third.open_session(request())).status is Status.ACTIVE


async def test_a_closed_limiter_survives_the_process_that_closed_it(new_ledger: Any, simulator: Simulator) -> None:
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=1)
    async with new_ledger(policy=policy()) as one:
        throttled = await one.open_session(request())
    (met,) = asked(simulator)
    simulator.config = SimulatorConfig()
    async with new_ledger(policy=policy()) as another, asyncio.timeout(LONG):
        session = await another.open_session(request())
        assert (session.status, len(asked(simulator))) == (Status.PENDING, 1)
        await all_done(another)
        for stream_id in (throttled.id, session.id):
            assert (await another.session(stream_id)).status is Status.ACTIVE
    assert min(asked(simulator)[1:]) >= met + 1


async def test_an_exhausted_quota_closes_the_limiter_before_any_429(new_ledger: Any, simulator: Simulator) -> None:
    simulator.config = SimulatorConfig(quota=3, rate_limit_headers=True)
    async with two(new_ledger, policy()) as (one, other):
        for _ in range(3):
            assert (await one.open_session(request())).status is Status.ACTIVE
        last = asked(simulator)[-1]
        session = await other.open_session(request())
        assert session.cause is Cause.RATE_LIMITED
        [limiter] = (await other.limits.states()).values()
        assert limiter.closed_by is WaitBasis.QUOTA
        assert len(asked(simulator)) == 3

        await all_done(one, other)

        assert asked(simulator)[3] >= last + 1
        assert simulator.counts["session 429"] == 0
        assert (await one.session(session.id)).status is Status.ACTIVE


async def test_a_session_that_cannot_meet_its_deadline_is_abandoned_without_a_request(
    new_ledger: Any, simulator: Simulator
) -> None:
    async with two(new_ledger, policy(deadline_ms=60_000)) as (one, other):
        simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=600)
        assert (await one.open_session(request())).status is Status.ABANDONED
        session = await other.open_session(request())
        assert (session.status, session.attempts) == (Status.ABANDONED, 0)
        assert [type(event) for event in (await events(other, session))[-2:]] == [
            e.CreationDeferred,
            e.SessionAbandoned,
        ]
        assert len(asked(simulator)) == 1


async def test_a_session_is_abandoned_at_its_deadline_behind_a_closed_limiter(
    new_ledger: Any, simulator: Simulator
) -> None:
    async with two(new_ledger, policy(deadline_ms=1_000)) as (one, other):
        simulator.config = SimulatorConfig(channel_throttle_times=1, retry_after_s=600)
        await one.open_session(request())
        session = await other.accept(request())
        assert await other.scheduler.run_once() == {}, "it is skipped at first"

        while (session := await one.session(session.id)).status is Status.PENDING:
            await other.scheduler.run_once()
            await asyncio.sleep(0.05)

        assert session.status is Status.ABANDONED
        assert (simulator.counts["channel 429"], simulator.counts["channel 200"], asked(simulator)) == (1, 0, [])


async def test_a_limiter_row_is_deleted_when_it_restricts_nothing(
    new_ledger: Any, simulator: Simulator, sql: Any
) -> None:
    async with two(new_ledger, policy()) as (one, other):
        simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=0)
        await one.open_session(request())
        assert len(await sql("SELECT FROM limits")) == 1
        simulator.config = SimulatorConfig()
        await sql("UPDATE limits SET closed_until = now() - interval '1 day'")
        assert (await other.open_session(request())).status is Status.ACTIVE
        assert await sql("SELECT FROM limits") == []


async def test_an_admission_does_not_overwrite_concurrent_feedback(
    new_engine: Any, held_log: HeldLog, sql: Any
) -> None:
    """Nothing is known against the API yet, so there is no row to lock."""
    limiter = PostgresRateLimiter(new_engine(), SCHEMA, QUICK)
    async with held_log:
        admitted = asyncio.create_task(limiter.admit(AdmissionRequest(limiter="a", retry=True, reserved=False)))
        await held_log.waiting()
    await admitted
    # Not by `states`: the budget is full again after 0.2 s, and restricts nothing then.
    assert [row["retry_budget"] for row in await sql("SELECT retry_budget FROM limits WHERE name = 'a'")] == [99]


async def test_attempts_that_are_recorded_together_get_turns_one_by_one(ledger_url: str) -> None:
    engine = open_engine(ledger_url, SCHEMA)
    store = open_store(engine)
    throttled = Feedback(limiter="a", observation=Observation.THROTTLED, began_at=START, closed_ms=0)
    await store.append(proposed(feedback=throttled))
    await asyncio.sleep(1)  # the shortest pause, and the slow start after it
    early = AdmissionRequest(limiter="a", retry=False, reserved=True, early=True)
    together = [proposed(admission=early) for _ in range(8)]
    outcomes = await asyncio.gather(*map(store.append, together), return_exceptions=True)
    await store.close()
    await engine.dispose()

    waits = [outcome.wait.total_seconds() for outcome in outcomes if isinstance(outcome, Appended)]
    assert waits == [0, 0, 0, 0.1], "ten a second, after a burst of two"
    denied = [outcome.denied.by for outcome in outcomes if isinstance(outcome, AppendDenied)]
    assert denied == [DenialReason.RATE] * 4


async def test_an_attempt_is_sent_when_its_turn_has_come(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, waits = PostgresEventStore.append, []

    async def appended(self: PostgresEventStore, given: Append) -> Appended:
        found = await append(self, given)
        return found if given.admission is None else replace(found, wait=timedelta(seconds=60))

    async def noted(seconds: float) -> None:
        assert not asked(simulator)
        waits.append(seconds)

    monkeypatch.setattr(PostgresEventStore, "append", appended)
    monkeypatch.setattr(create_session, "asyncio", SimpleNamespace(sleep=noted))
    async with new_ledger() as ledger:
        await ledger.open_session(request())
    [wait] = waits
    assert 0 < wait <= 60
    assert len(asked(simulator)) == 1


# The circuit breaker


async def test_a_failing_server_gets_only_single_probes_until_it_recovers(
    new_ledger: Any, simulator: Simulator
) -> None:
    rests_ms = (500, 1_000, 1_000, 1_000)
    limiter = LimiterPolicy(failures_in_a_row=5, break_ms=500, max_break_ms=1_000, retries_per_second=1_000.0)
    async with two(new_ledger, policy(limiter)) as (one, other):
        await other.open_session(request())  # so that it has a token and the channel
        simulator.config = FAILING
        first = await one.open_session(request())
        assert (first.attempts, len(asked(simulator))) == (5, 6)
        second = await other.open_session(request())
        assert (second.attempts, second.status) == (0, Status.PENDING)
        deferred = (await events(other, second))[-1]
        assert isinstance(deferred, e.CreationDeferred)
        assert deferred.denied_by is DenialReason.CIRCUIT_OPEN
        more = [await other.accept(request()) for _ in range(20)]

        working = asyncio.create_task(all_done(one, other))
        while len(asked(simulator)) < 10:
            assert not working.done()
            await asyncio.sleep(0.01)
        simulator.config = SimulatorConfig()
        await working

        times = asked(simulator)[5:10]
        for rest_ms, earlier, later in zip(rests_ms, times, times[1:], strict=False):
            assert later - earlier >= rest_ms / 1_000
        for session in (first, second, *more):
            assert (await one.session(session.id)).status is Status.ACTIVE


async def test_a_claim_that_sends_nothing_reserves_the_probe_only_briefly(
    new_ledger: Any, simulator: Simulator, sql: Any
) -> None:
    simulator.config = FAILING
    patient = LimiterPolicy(failures_in_a_row=1, break_ms=1, max_break_ms=1, probe_ms=86_400_000)
    async with two(new_ledger, policy(patient, base_ms=1)) as (one, other):
        session = await one.open_session(request())
        simulator.config = SimulatorConfig()
        lost = a_lease(uuid4(), 1)
        wanted = one.scheduler._lanes.wanted(Lane.CREATION)
        while not (await one.scheduler._due_steps.claim(lost, wanted, 1)).claims:
            await asyncio.sleep(0.01)

        while (await other.session(session.id)).status is not Status.ACTIVE:
            await other.scheduler.run_once()
            await asyncio.sleep(0.05)

        assert await sql("SELECT FROM limits WHERE broken_at IS NOT NULL") == []


async def test_a_shared_lookup_that_fails_counts_as_one_failure(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(channel_errors=1)
    async with new_ledger(policy=policy(LimiterPolicy(failures_in_a_row=3), base_ms=600_000)) as ledger:
        provider, all_wait = ledger._adapters.provider, asyncio.Barrier(21)
        ask, answer = provider.look_up_channel, provider._look_up

        async def look_up_channel(channel_id: str, again: Any) -> Any:
            waiting = asyncio.create_task(all_wait.wait())
            outcome = await ask(channel_id, again)
            await waiting
            return outcome

        async def look_up(channel_id: str, again: Any) -> Any:
            await all_wait.wait()
            return await answer(channel_id, again)

        monkeypatch.setattr(provider, "look_up_channel", look_up_channel)
        monkeypatch.setattr(provider, "_look_up", look_up)
        async with asyncio.timeout(LONG):
            await asyncio.gather(*(ledger.open_session(request()) for _ in range(20)))

        assert simulator.counts["channel 500"] == 1
        ((failures, broken_at),) = await sql("SELECT failures, broken_at FROM limits")
        assert (failures, broken_at) == (1, None)


async def test_a_pause_asked_of_lookups_outlasts_an_outage_of_the_database(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(channel_throttle_times=1, retry_after_s=600)
    async with new_ledger(policy=policy()) as ledger:
        await ledger.checks.provider()  # the token request has a limiter of its own
        limiter = ledger.limits._limiter
        with monkeypatch.context() as patched:

            async def out_of_reach(_feedback: Any) -> None:
                raise ServiceUnreachable("database", Cause.CONNECTION_REFUSED)

            patched.setattr(limiter, "observe", out_of_reach)
            first = await ledger.open_session(request())
        second = await ledger.open_session(request())
        assert (first.status, second.status) == (Status.PENDING, Status.PENDING)
        closed = [state for state in (await limiter.states()).values() if state.closed_until is not None]
    assert len(closed) == 1
    assert (simulator.counts["channel 429"], simulator.counts["channel 200"], asked(simulator)) == (1, 0, [])


async def test_a_shared_lookup_result_is_observed_even_if_one_caller_is_cancelled(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(channel_throttle_times=1, retry_after_s=600)
    async with new_ledger(policy=policy()) as ledger:
        await ledger.checks.provider()  # the token request has a limiter of its own
        provider, all_ask, observed = ledger._adapters.provider, asyncio.Barrier(4), []
        ask, answer, observe = provider.look_up_channel, provider._look_up, ledger.limits._limiter.observe

        async def look_up_channel(channel_id: str, again: Any) -> Any:
            waiting = asyncio.create_task(all_ask.wait())
            outcome = await ask(channel_id, again)
            await waiting
            return outcome

        async def look_up(channel_id: str, again: Any) -> Any:
            await all_ask.wait()
            return await answer(channel_id, again)

        async def observe_but_first(feedback: Any) -> None:
            observed.append(feedback)
            if len(observed) == 1:
                raise asyncio.CancelledError
            await observe(feedback)

        monkeypatch.setattr(provider, "look_up_channel", look_up_channel)
        monkeypatch.setattr(provider, "_look_up", look_up)
        monkeypatch.setattr(ledger.limits._limiter, "observe", observe_but_first)
        async with asyncio.timeout(LONG):
            opening = [asyncio.create_task(ledger.open_session(request())) for _ in range(3)]
            opened = await asyncio.gather(*opening, return_exceptions=True)

        assert [type(session) for session in opened].count(asyncio.CancelledError) == 1
        assert len(observed) == 2
        assert len(await sql("SELECT FROM limits WHERE closed_until > now()")) == 1


async def test_a_caller_that_joins_a_shared_lookup_returns_its_probe(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = LimiterPolicy(failures_in_a_row=1, break_ms=1, max_break_ms=1, probe_ms=86_400_000)
    async with new_ledger(policy=policy(patient)) as ledger:
        await ledger.checks.provider()
        provider, asked, continues = ledger._adapters.provider, asyncio.Event(), asyncio.Event()
        answer, admit, joined = provider._look_up, ledger.limits._limiter.admit, asyncio.Event()

        async def look_up(channel_id: str, again: Any) -> Any:
            asked.set()
            await continues.wait()
            return await answer(channel_id, again)

        async def admit_and_note(admission: AdmissionRequest, *rest: Any) -> Any:
            admitted = await admit(admission, *rest)
            if asked.is_set():
                assert admitted.probes
                joined.set()
            return admitted

        monkeypatch.setattr(provider, "_look_up", look_up)
        monkeypatch.setattr(ledger.limits._limiter, "admit", admit_and_note)
        async with asyncio.timeout(LONG):
            first = asyncio.create_task(ledger.open_session(request()))
            await asked.wait()
            now = await sql("SELECT clock_timestamp()")
            failing = Feedback(limiter=provider.lookup_limiter, observation=Observation.FAILED, began_at=now[0][0])
            await ledger.limits._limiter.observe(failing)
            await sql("UPDATE limits SET broken_until = now()")
            second = asyncio.create_task(ledger.open_session(request()))
            await joined.wait()
            continues.set()
            await asyncio.gather(first, second)

        [limiter] = await sql("SELECT broken_at, probe_until FROM limits")
        assert (limiter["broken_at"] is None, limiter["probe_until"]) == (False, None)


# The budget


async def test_two_processes_share_one_retry_budget_that_spares_first_attempts(
    new_ledger: Any, simulator: Simulator
) -> None:
    limiter = LimiterPolicy(retry_budget=2, retries_per_request=0.0, retries_per_second=0.01, failures_in_a_row=1_000)
    simulator.config = FAILING
    async with two(new_ledger, policy(limiter)) as (one, other):
        opened = [await ledger.open_session(request()) for ledger in (one, other, one, other)]

        assert [session.attempts for session in opened] == [3, 1, 1, 1]
        assert len(asked(simulator)) == 6
        for session in opened:
            deferred = (await events(one, session))[-1]
            assert isinstance(deferred, e.CreationDeferred)
            assert deferred.denied_by is DenialReason.RETRY_BUDGET


@pytest.mark.parametrize("refused_to", ["itself", "another"])
async def test_a_creation_that_fails_for_lack_of_a_token_is_no_failure_of_the_api(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch, refused_to: str
) -> None:
    wary = LimiterPolicy(failures_in_a_row=1)
    async with new_ledger(policy=policy(wary, base_ms=600_000)) as ledger:
        await ledger.open_session(request())
        simulator.revoke_tokens()
        simulator.config = SimulatorConfig(token_errors=3)
        tokens, append = ledger._adapters.provider._tokens, ledger._adapters.store.append

        async def append_while_another_invalidates_the_token(given: Any) -> Any:
            appended = await append(given)
            if refused_to == "another" and isinstance(given.events[-1], e.CreationAttempted):
                tokens.invalidate(tokens._token)
            return appended

        monkeypatch.setattr(ledger._adapters.store, "append", append_while_another_invalidates_the_token)
        session = await ledger.open_session(request())

        assert simulator.counts["session 401"] == (refused_to == "itself")
        assert simulator.counts["token 503"] == 3
        failed = (await events(ledger, session))[-1]
        assert isinstance(failed, e.CreationFailed)
        assert (failed.kind, failed.wait is None) == (e.FailureKind.UNAVAILABLE, False)
        assert await sql("SELECT FROM limits WHERE broken_at IS NOT NULL OR failures > 0") == []


# Calls in flight


def counted(monkeypatch: pytest.MonkeyPatch, *ledgers: Ledger, calls: tuple[str, ...] = ("create",)) -> list[int]:
    """How many such calls were in flight as each began, over all these ledgers."""
    in_flight, seen = 0, []

    def count(ledger: Ledger, name: str) -> None:
        whole = getattr(ledger._adapters.provider, name)

        async def call(*given: Any) -> Any:
            nonlocal in_flight
            in_flight += 1
            seen.append(in_flight)
            try:
                return await whole(*given)
            finally:
                in_flight -= 1

        monkeypatch.setattr(ledger._adapters.provider, name, call)

    for ledger in ledgers:
        for name in calls:
            count(ledger, name)
    return seen


async def test_all_processes_together_respect_the_call_limit(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(slow_ms=50)
    async with two(new_ledger, policy(LimiterPolicy(calls=3))) as (one, other):
        seen = counted(monkeypatch, one, other)
        accepted = await asyncio.gather(*(one.accept(request()) for _ in range(15)))
        opening = [ledger.open_session(request()) for ledger in (one, other) for _ in range(5)]

        opened, _ = await asyncio.gather(asyncio.gather(*opening), all_done(one, other))
        await all_done(one, other)

        assert max(seen) == 3
        assert len(seen) == 25
        for session in (*accepted, *opened):
            assert (await one.session(session.id)).status is Status.ACTIVE


async def test_lookups_and_creations_share_the_call_limit(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(slow_ms=20)
    async with two(new_ledger, policy(LimiterPolicy(calls=3))) as (one, other):
        seen = counted(monkeypatch, one, other, calls=("look_up_channel", "create"))
        accepted = [await one.accept(request(channel_id=f"ch_{number}")) for number in range(12)]
        wanted = [request(channel_id=f"ch_other_{number}") for number in range(6)]
        opening = [(one, other)[number % 2].open_session(given) for number, given in enumerate(wanted)]

        opened, _ = await asyncio.gather(asyncio.gather(*opening), all_done(one, other))
        await all_done(one, other)

        assert max(seen) == 3
        assert len(seen) == 2 * 18
        for session in (*accepted, *opened):
            assert (await one.session(session.id)).status is Status.ACTIVE


async def test_concurrent_open_sessions_beyond_the_call_limit_are_deferred(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=policy(LimiterPolicy(calls=3))) as ledger, asyncio.timeout(LONG):
        hanging = Hanging(monkeypatch, ledger, "look_up_channel")
        opening = [asyncio.create_task(ledger.open_session(request(channel_id=f"ch_{n}"))) for n in range(5)]
        while sum(task.done() for task in opening) < 2:
            await asyncio.sleep(0.01)
        hanging.go.set()

        opened = await asyncio.gather(*opening)

        assert hanging.begun == 3
        assert [session.status for session in opened] == [Status.ACTIVE] * 3 + [Status.PENDING] * 2
        for session in opened[3:]:
            deferred = (await events(ledger, session))[-1]
            assert isinstance(deferred, e.CreationDeferred)
            assert deferred.denied_by is DenialReason.CONCURRENCY


@pytest.mark.parametrize("limit", ["calls", "calls_per_process"])
async def test_call_limit_settings_override_the_policy(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    simulator.config = SimulatorConfig(slow_ms=50)
    async with new_ledger(policy=policy(LimiterPolicy(calls=7, calls_per_process=7)), **{limit: 2}) as ledger:
        seen = counted(monkeypatch, ledger)
        await asyncio.gather(*(ledger.accept(request()) for _ in range(8)))
        await all_done(ledger)
        assert (max(seen), len(seen)) == (2, 8)


@pytest.mark.parametrize(
    "given", [{"calls_per_process": 257}, {"policy": policy(LimiterPolicy(calls_per_process=257))}]
)
async def test_every_allowed_call_and_the_token_request_have_a_connection(
    new_ledger: Any, simulator: Simulator, given: dict[str, Any]
) -> None:
    async with new_ledger(**given) as ledger, asyncio.timeout(LONG):
        provider = ledger._adapters.provider
        prepared = provider.prepare(await ledger.accept(request()))
        await provider.ready()
        simulator.config = SimulatorConfig(slow_ms=LONG * 1_000)
        creations = [asyncio.create_task(provider.create(prepared, str(n), unchecked)) for n in range(257)]
        while simulator.counts["session 201"] < len(creations):
            assert not any(creation.done() for creation in creations)
            await asyncio.sleep(0.01)
        provider._tokens.invalidate(provider._tokens._token)
        await provider.ready()
        for creation in creations:
            creation.cancel()


@pytest.mark.parametrize("name", ["GUESTLEDGER_CALLS", "GUESTLEDGER_CALLS_PER_PROCESS"])
@pytest.mark.parametrize("given", ["0", "-1", "some", "1.5"])
def test_an_invalid_call_limit_in_the_environment_is_rejected_and_named(name: str, given: str) -> None:
    with pytest.raises(InvalidSettings, match=f"{name} is invalid: it must be a whole number, 1 or more"):
        Settings.from_env({name: given})


@pytest.mark.parametrize("field", ["calls", "calls_per_process"])
@pytest.mark.parametrize("given", [0, -1])
def test_an_invalid_call_limit_set_in_code_is_rejected(field: str, given: int) -> None:
    with pytest.raises(InvalidSettings, match=f"GUESTLEDGER_{field.upper()} is invalid: it must be a whole number"):
        Settings(**{field: given})


async def test_a_lookup_is_admitted_only_when_the_process_has_capacity(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=policy(LimiterPolicy(calls_per_process=1))) as ledger, asyncio.timeout(LONG):
        await ledger.checks.provider()
        admit, admitted, places = (
            ledger.limits._limiter.admit,
            [],
            ledger._opener._executor.handlers[StepName.VALIDATE_CHANNEL]._services.calls._places,
        )

        async def admit_and_note(admission: AdmissionRequest, *rest: Any) -> Any:
            admitted.append(admission)
            return await admit(admission, *rest)

        monkeypatch.setattr(ledger.limits._limiter, "admit", admit_and_note)
        async with places:
            opening = asyncio.create_task(ledger.open_session(request()))
            while not (places._waiters or admitted):
                await asyncio.sleep(0.01)
            assert admitted == []
        assert (await opening).status is Status.ACTIVE
        assert len(admitted) == 1


class Hanging:
    """Provider calls of a ledger that hang until `go` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ledger: Ledger, name: str = "create") -> None:
        self.begun, self.go = 0, asyncio.Event()
        whole = getattr(ledger._adapters.provider, name)

        async def call(*given: Any) -> Any:
            self.begun += 1
            await self.go.wait()
            return await whole(*given)

        monkeypatch.setattr(ledger._adapters.provider, name, call)

    async def until(self, number: int) -> None:
        while self.begun < number:
            await asyncio.sleep(0.01)


async def test_a_process_without_capacity_leaves_steps_to_another(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, sql: Any
) -> None:
    async with two(new_ledger, policy(LimiterPolicy(calls_per_process=2))) as (one, other):
        accepted = [await one.accept(request()) for _ in range(6)]
        hanging = Hanging(monkeypatch, one)
        busy = asyncio.create_task(one.scheduler.run_once())
        await hanging.until(2)

        await other.scheduler.run_once()

        made = [await one.session(session.id) for session in accepted]
        assert sum(session.status is Status.ACTIVE for session in made) == 4
        hanging.go.set()
        await busy
        assert await one.scheduler.unfinished() == 0


async def test_open_session_calls_reduce_the_claim_limit_to_one_at_least(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=policy(LimiterPolicy(calls_per_process=3))) as ledger, asyncio.timeout(LONG):
        hanging = Hanging(monkeypatch, ledger)
        opening = []
        for number, left in ((1, 2), (2, 1), (3, 1), (4, 1)):
            opening.append(asyncio.create_task(ledger.open_session(request())))
            await hanging.until(min(number, 3))
            assert ledger.scheduler._lanes._calls.max_claimed == left
        hanging.go.set()
        await asyncio.gather(*opening)
        assert ledger.scheduler._lanes._calls.max_claimed == 3


async def test_a_session_that_waited_for_capacity_uses_the_cached_channel(
    new_ledger: Any, simulator: Simulator
) -> None:
    async with new_ledger(policy=policy(LimiterPolicy(calls_per_process=1))) as ledger, asyncio.timeout(LONG):
        opened = await asyncio.gather(*(ledger.open_session(request()) for _ in range(5)))
        assert {session.status for session in opened} == {Status.ACTIVE}
        assert simulator.counts["channel 200"] == 1


async def test_a_session_between_two_calls_uses_no_capacity(new_ledger: Any, simulator: Simulator) -> None:
    async with two(new_ledger, policy(LimiterPolicy(calls=1))) as (one, _):
        assert (await one.open_session(request())).status is Status.ACTIVE


async def test_concurrent_claims_never_exceed_the_call_limit(new_due_steps: Any, sql: Any) -> None:
    steps = {StepName.CREATE_SESSION: "a", StepName.VALIDATE_CHANNEL: "b"}
    claimers = [new_due_steps(LimiterPolicy(calls=3)) for _ in range(4)]
    for _ in range(10):
        await sql("DELETE FROM due_steps")
        for number in range(12):
            step = ["create_session", "validate_channel"][number % 2]
            await sql("INSERT INTO due_steps VALUES ($1, $2, now(), NULL, NULL)", new_id(), step)
        claimed = await asyncio.gather(*(claimer.claim(a_lease(uuid4(), HOUR_MS), steps, 12) for claimer in claimers))
        assert sum(len(found.claims) for found in claimed) == 3


async def test_a_token_expires_in_time_behind_a_closed_webhook_limiter(
    new_ledger: Any, simulator: Simulator, sql: Any
) -> None:
    simulator.config = SimulatorConfig(webhook_status=429, webhook_retry_after="3600", session_lifetime_s=0.2)
    async with new_ledger(policy=policy(), webhook_url=simulator.webhook_url) as ledger:
        first = await ledger.open_session(request())
        await ledger.scheduler.run_once()
        second = await ledger.open_session(request())
        async with asyncio.timeout(30):
            while {(await ledger.session(session.id)).status for session in (first, second)} != {Status.EXPIRED}:
                await ledger.scheduler.run_once()
        assert simulator.counts["webhook 429"] == 1, "the other notice waits for the limiter"
        assert await ledger.scheduler.unfinished() == 0, "nobody waits for a receiver that asked for a pause"
        simulator.config = SimulatorConfig()
        await sql("DELETE FROM limits")
        await ledger.scheduler.run_once()
        assert second.session_id in [json.loads(call.body)["sessionId"] for call in simulator.webhooks]


async def test_an_old_throttled_session_is_claimed_before_a_new_one(
    new_ledger: Any, simulator: Simulator, sql: Any
) -> None:
    async with new_ledger(policy=policy()) as ledger:
        simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=0)
        old = await ledger.open_session(request())
        await sql("UPDATE limits SET closed_until = now(), next_reservation = now(), next_admission = now()")
        await sql("UPDATE due_steps SET due_at = now() - interval '1 min'")
        for _ in range(3):
            await ledger.accept(request(channel_id="ch_new"))
        due_steps, wanted = ledger.scheduler._due_steps, ledger.scheduler._lanes.wanted()
        await due_steps.claim(a_lease(ms=1), wanted, 0)  # it finds out that there is a limiter

        [claim] = (await due_steps.claim(a_lease(), wanted, 1)).claims

        assert claim.stream_id == old.id


async def test_the_clock_of_a_limiter_is_read_once_its_lock_is_held(new_engine: Any, sql: Any, outsider: Any) -> None:
    engine = new_engine()
    limiter = PostgresRateLimiter(engine, SCHEMA, QUICK)
    [[now]] = await sql("SELECT clock_timestamp()")
    name = "api sessions"
    await limiter.observe(Feedback(limiter=name, observation=Observation.THROTTLED, began_at=now, closed_ms=60_000))

    async def read() -> Any:
        async with short_transaction(engine) as driver:
            return (await limiter.open(driver, [name])).now

    async with outsider.transaction():
        await sql("SELECT FROM limits FOR UPDATE")
        reading = asyncio.create_task(read())
        await asyncio.wait((reading,), timeout=0.5)
        [[freed_at]] = await sql("SELECT clock_timestamp()")
    assert await reading >= freed_at
