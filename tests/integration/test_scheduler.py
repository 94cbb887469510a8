"""Schedulers on one ledger: each step is run by one worker at a time, also after crashes and hangs."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.commands import RecordAttempt, RecordDelivery
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.errors import ServiceUnreachable, WrongExpectedVersion
from guestledger.engine.domain.outcomes import Failed, feedback_of_delivery
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.domain.session import Session, Status, WebhookNotice
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import RetryPolicy
from guestledger.engine.log.appends import Append, Appended, Lease
from guestledger.engine.ports.due_steps import Claimed
from guestledger.engine.worker.session_work import SessionWork
from guestledger.engine.worker.step import Lane, StepResult
from tests.integration.conftest import AT_ONCE, webhook_of
from tests.keys import revealed
from tests.unit.samples import delivered, request

PATIENT = replace(AT_ONCE, creation=RetryPolicy(base_ms=600_000, cap_ms=600_000))
"""The next try is minutes away."""


async def kinds(ledger: Ledger, stream_id: UUID) -> list[str]:
    return [type(recorded.event).__name__ for recorded in await ledger.history(stream_id)]


async def event(ledger: Ledger, stream_id: UUID, kind: type[Any]) -> Any:
    (found,) = [recorded.event for recorded in await ledger.history(stream_id) if isinstance(recorded.event, kind)]
    return found


class DelayedAnswers:
    """Creation requests whose answers arrive and then wait until `released` is set."""

    def __init__(self, ledger: Ledger) -> None:
        self.answered = asyncio.Event()
        self.released = asyncio.Event()
        self.outcome: Any = None
        """Replaces the answer; `None`: the answer stays."""
        self._whole = ledger._adapters.provider.create
        self._ledger = ledger

    async def create(self, prepared: Any, key: str, check: Any) -> Any:
        outcome = await self._whole(prepared, key, check)
        self.answered.set()
        await self.released.wait()
        return self.outcome or outcome

    async def lose_the_lease(self, sql: Any) -> None:
        """Stop renewing leases, as if the machine stood still, and let them lapse."""
        beating = self._ledger._opener._leases._beating
        assert beating is not None
        beating.cancel()
        await sql("UPDATE due_steps SET lease_until = now() WHERE lease_until IS NOT NULL")


@contextlib.asynccontextmanager
async def hanging(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[DelayedAnswers, asyncio.Task[Session]]]:
    """A session that `ledger` is opening: the answer is delayed."""
    delayed = DelayedAnswers(ledger)
    monkeypatch.setattr(ledger._adapters.provider, "create", delayed.create)
    async with asyncio.timeout(60):
        opening = asyncio.create_task(ledger.open_session(request()))
        await delayed.answered.wait()
        yield delayed, opening


async def claims_no_more(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the running scheduler of `ledger` finds nothing to claim, not even steps that it lost itself."""
    asked: set[StepName] = set()

    async def claim(_lease: Lease, wanted: Any, _limit: int) -> Claimed:
        asked.update(wanted)
        return Claimed(claims=[])

    monkeypatch.setattr(ledger.scheduler._due_steps, "claim", claim)
    # No earlier claim is in flight then.
    while not asked >= {StepName.CREATE_SESSION, StepName.SETTLE_ATTEMPT}:
        await asyncio.sleep(0.01)


# Retries


async def test_a_throttled_session_is_retried_once_its_retry_time_has_come(
    ledger: Ledger, simulator: Simulator, sql: Any
) -> None:
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=1)
    session = await ledger.open_session(request())
    assert session.status is Status.THROTTLED
    assert session.retry_at is not None

    async with asyncio.timeout(60):
        done = await ledger.scheduler.run_until_idle()

    assert done == {"CreationAttempted": 1, "SessionCreated": 1}
    attempts = [
        recorded.event
        for recorded in await ledger.history(session.id)
        if isinstance(recorded.event, e.CreationAttempted)
    ]
    assert [attempt.attempt for attempt in attempts] == [1, 2]
    assert attempts[1].at >= session.retry_at
    bodies = [json.loads(sent.body) for sent in simulator.requests if sent.path.endswith("/sessions")]
    assert [body["attributes"]["retryCount"] for body in bodies] == [0, 1]
    assert {sent.key for sent in simulator.requests if sent.path.endswith("/sessions")} == {str(session.id)}


async def test_a_retry_after_in_the_log_overrides_an_earlier_due_time(
    ledger: Ledger, simulator: Simulator, sql: Any
) -> None:
    """Due steps can be rebuilt or tampered with; the log has what was decided."""
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=600)
    session = await ledger.open_session(request())
    await sql("UPDATE due_steps SET due_at = now()")
    await sql("DELETE FROM limits")

    assert await ledger.scheduler.run_once() == {}

    assert simulator.counts["session 429"] == 1
    (due,) = await sql("SELECT due_at, owner FROM due_steps WHERE step = 'create_session'")
    assert due["due_at"] >= session.retry_at
    assert due["owner"] is None


async def test_every_session_is_created_once_despite_temporary_faults(ledger: Ledger, simulator: Simulator) -> None:
    simulator.config = SimulatorConfig(
        throttle_share=0.3,
        throttle_times=2,
        retry_after_s=0,
        server_error_share=0.2,
        error_after_processing=True,
        drop_share=0.2,
        drop_before_share=0.2,
        channel_errors=1,
        channel_throttle_times=1,
        seed=7,
    )
    sessions = await asyncio.gather(*(ledger.accept(request()) for _ in range(40)))

    async with asyncio.timeout(60):
        done = await ledger.scheduler.run_until_idle()

    assert done["SessionCreated"] == 40
    assert min(done["CreationThrottled"], done["CreationFailed"], done["ChannelLookupFailed"]) > 0
    for session in sessions:
        (made,) = simulator.sessions_by_key[str(session.id)]
        assert (await ledger.session(session.id)).session_id == made.session_id
    assert len(simulator.sessions_by_key) == 40


# Several at once


async def test_two_schedulers_on_one_ledger_run_each_step_once(new_ledger: Any, simulator: Simulator) -> None:
    simulator.config = SimulatorConfig(throttle_share=0.3, retry_after_s=0, session_lifetime_s=0)
    given = {"webhook_url": simulator.webhook_url}
    async with new_ledger(**given) as one, new_ledger(**given) as other, asyncio.timeout(60):
        accepted = await asyncio.gather(*(one.accept(request()) for _ in range(50)))
        done = await asyncio.gather(one.scheduler.run_until_idle(), other.scheduler.run_until_idle())

        throttled = done[0]["CreationThrottled"] + done[1]["CreationThrottled"]
        assert 0 < throttled < 50
        together = done[0] + done[1]
        together.pop("CreationDeferred", None)
        assert together == {
            "ChannelValidated": 50,
            "CreationAttempted": 50 + throttled,
            "CreationThrottled": throttled,
            "SessionCreated": 50,
            "WebhookSynced": 50,
            "TokenExpired": 50,
            "TokenPurged": 50,
        }
        for session in accepted:
            assert (await one.session(session.id)).status is Status.EXPIRED
    asked = Counter(sent.key for sent in simulator.requests if sent.path.endswith("/sessions"))
    assert set(asked) == {str(session.id) for session in accepted}
    assert sum(asked.values()) == 50 + throttled
    notices = [json.loads(call.body)["sessionId"] for call in simulator.webhooks]
    assert sorted(notices) == sorted(made.session_id for (made,) in simulator.sessions_by_key.values())


async def test_no_scheduler_claims_a_session_that_is_being_opened(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger() as other, hanging(ledger, monkeypatch) as (delayed, opening):
        assert await other.scheduler.run_once() == {}
        delayed.released.set()
        session = await opening

    assert session.status is Status.ACTIVE
    assert simulator.counts["session 201"] == 1


async def test_a_released_session_is_not_continued_even_if_it_falls_due(
    ledger: Ledger, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its lease, a further step could run at the same time elsewhere."""
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=1)
    whole = ledger._adapters.store.append

    async def append(given: Append) -> Appended:
        appended = await whole(given)
        last = given.events[-1]
        if isinstance(last, e.CreationThrottled):
            monkeypatch.setattr(ledger._adapters.clock, "now", lambda: last.retry_at)
        return appended

    monkeypatch.setattr(ledger._adapters.store, "append", append)

    session = await ledger.open_session(request())

    assert (session.status, session.attempts) == (Status.THROTTLED, 1)
    assert (simulator.counts["session 429"], simulator.counts["session 201"]) == (1, 0)
    assert session == await revealed(ledger, session.id)


# Crashes and zombies


async def test_a_cut_off_attempt_is_recorded_in_doubt_and_the_session_continues(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hanging(ledger, monkeypatch) as (delayed, opening):
        opening.cancel()
        await asyncio.wait([opening])
        await delayed.lose_the_lease(sql)
    (stream_id,) = [row.id async for row in ledger.sessions()]

    async with new_ledger() as other:
        await other.scheduler.run_once()

    assert await kinds(ledger, stream_id) == [
        *("ConsentRecorded", "ChannelValidated"),
        *("CreationAttempted", "CreationFailed"),
        *("CreationAttempted", "SessionCreated"),
    ]
    failed = await event(ledger, stream_id, e.CreationFailed)
    assert (failed.kind, failed.attempt) == (e.FailureKind.IN_DOUBT, 1)
    (made,) = simulator.sessions_by_key[str(stream_id)]
    assert (await ledger.session(stream_id)).session_id == made.session_id


async def test_a_late_answer_with_the_known_session_lifts_its_doubt(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CXone honours the key here: the second attempt gets the first one's session."""
    async with new_ledger() as other, hanging(ledger, monkeypatch) as (delayed, opening):
        await delayed.lose_the_lease(sql)
        assert (await other.scheduler.run_once())["SessionCreated"] == 1
        (stream_id,) = [row.id async for row in other.sessions()]
        before = await other.history(stream_id)
        delayed.released.set()
        session = await opening

    *known, lifted = await ledger.history(stream_id)
    assert known == before
    assert isinstance(lifted.event, e.DoubtLifted)
    assert (lifted.event.attempt, lifted.event.cause) == (1, Cause.SESSION_KNOWN)
    assert (session.id, session.status, session.attempts) == (stream_id, Status.ACTIVE, 2)
    assert session == await revealed(ledger, stream_id)
    assert (await event(ledger, stream_id, e.SessionCreated)).attempt == 2
    assert len(simulator.sessions_by_key[str(stream_id)]) == 1


async def test_a_late_answer_with_another_session_is_recorded_as_a_duplicate(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(honour_idempotency_key=False)
    async with new_ledger() as other, hanging(ledger, monkeypatch) as (delayed, opening):
        await delayed.lose_the_lease(sql)
        assert (await other.scheduler.run_once())["SessionCreated"] == 1
        due = await sql("SELECT * FROM due_steps")
        delayed.released.set()
        session = await opening

    first, second = simulator.sessions_by_key[str(session.id)]
    assert (session.session_id, session.duplicates) == (second.session_id, (first.session_id,))
    assert session == await revealed(ledger, session.id)
    duplicate = await event(ledger, session.id, e.DuplicateCreated)
    assert (duplicate.attempt, duplicate.session_id) == (1, first.session_id)
    assert (await kinds(ledger, session.id))[-3:] == ["CreationAttempted", "SessionCreated", "DuplicateCreated"]
    assert await sql("SELECT * FROM due_steps") == due, "a late answer takes no lease and changes no due step"
    (entry,) = [entry async for entry in ledger.audit()]
    assert entry.session_id == second.session_id


async def test_a_late_answer_to_an_attempt_in_doubt_activates_the_session(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=PATIENT) as slow, new_ledger(policy=PATIENT) as other:
        monkeypatch.setattr(other._adapters.clock, "jitter", lambda: 0.5)
        async with hanging(slow, monkeypatch) as (delayed, opening):
            await delayed.lose_the_lease(sql)
            assert await other.scheduler.run_once() == {"CreationFailed": 1}
            delayed.released.set()
            session = await opening

        assert (session.status, session.attempts) == (Status.ACTIVE, 1)
        await sql("UPDATE due_steps SET due_at = now() WHERE step <> 'expire_token'")
        assert await other.scheduler.run_once() == {}

    (made,) = simulator.sessions_by_key[str(session.id)]
    assert session.session_id == made.session_id
    (due,) = await sql("SELECT step, due_at FROM due_steps")
    assert tuple(due) == ("expire_token", session.expires_at)


async def test_a_late_run_does_not_touch_the_lease_of_a_newer_run(
    ledger: Ledger, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await ledger.accept(request())
    older = DelayedAnswers(ledger)
    monkeypatch.setattr(ledger._adapters.provider, "create", older.create)
    older.outcome = Failed(kind=e.FailureKind.FINAL, cause=Cause.REJECTED, status=400)
    newer = DelayedAnswers(ledger)
    newer._whole = older._whole
    async with asyncio.timeout(30):
        running = asyncio.create_task(ledger.scheduler.run_once())
        await older.answered.wait()
        monkeypatch.setattr(ledger._adapters.provider, "create", newer.create)
        await older.lose_the_lease(sql)
        await newer.answered.wait()  # the same scheduler has claimed it again
    (before,) = await sql("SELECT owner, lease_until FROM due_steps")
    assert before["owner"] is not None
    await claims_no_more(ledger, monkeypatch)
    rejected = asyncio.Event()
    whole = ledger.scheduler._due_steps.release

    async def release(*given: Any) -> None:
        await whole(*given)
        rejected.set()

    monkeypatch.setattr(ledger.scheduler._due_steps, "release", release)
    async with asyncio.timeout(30):
        older.released.set()
        await rejected.wait()
        (after,) = await sql("SELECT owner, lease_until FROM due_steps")
        newer.released.set()
        await running

    assert after["owner"] == before["owner"]
    assert after["lease_until"] >= before["lease_until"]
    assert len(simulator.sessions_by_key[str(session.id)]) == 1


@pytest.mark.parametrize(("status", "described"), [(429, "status 429"), (None, "no answer")])
async def test_a_late_webhook_answer_is_logged_and_its_retry_after_is_observed(
    new_ledger: Any,
    simulator: Simulator,
    sql: Any,
    caplog: pytest.LogCaptureFixture,
    status: int | None,
    described: str,
) -> None:
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        session = await ledger.open_session(request())
        before = await ledger.history(session.id)
        await ledger.scheduler.run_once()
        settled = await ledger.history(session.id)
        assert isinstance(settled[-1].event, e.WebhookSynced)
        late = SessionWork.of(before, actor="late", lease=Lease(owner=session.id, ms=1), claim=None)
        outcome = delivered(status, None if status is None else 600_000)
        command = RecordDelivery(
            notice=WebhookNotice.SESSION_STARTED, outcome=outcome, now=before[-1].recorded_at, jitter=0
        )
        feedback = feedback_of_delivery("hooks", outcome, before[-1].recorded_at, 600_000)
        result = StepResult(commands=(command,), feedback=feedback)

        with pytest.raises(WrongExpectedVersion):
            await ledger._opener._executor._record(late, StepName.DELIVER_WEBHOOK, result, Lane.WEBHOOK)

        assert await ledger.history(session.id) == settled
        assert f"session {session.id}: the webhook's answer ({described}) is late and changes nothing" in caplog.text
        closed = await sql("SELECT name FROM limits WHERE closed_until > now()")
        assert [limiter["name"] for limiter in closed] == ([] if status is None else ["hooks"])


async def test_a_late_answer_lifts_the_doubt_and_a_redundant_one_is_logged(
    ledger: Ledger, new_ledger: Any, sql: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with new_ledger() as other, hanging(ledger, monkeypatch) as (delayed, opening):
        await delayed.lose_the_lease(sql)
        assert (await other.scheduler.run_once())["SessionCreated"] == 1
        [row] = [row async for row in other.sessions()]
        before = await sql("SELECT * FROM due_steps")
        delayed.released.set()
        await opening
        lifted = await event(ledger, row.id, e.DoubtLifted)
        assert await sql("SELECT * FROM due_steps") == before

        refused = Failed(kind=e.FailureKind.FINAL, cause=Cause.REJECTED, status=400)
        history = (await other.history(row.id))[:3]
        late = SessionWork.of(history, actor="late", lease=Lease(owner=row.id, ms=1), claim=None)
        command = RecordAttempt(attempt=1, outcome=refused, now=late.state.due_since, jitter=0)
        with pytest.raises(WrongExpectedVersion):
            await ledger._opener._executor._record(
                late, StepName.CREATE_SESSION, StepResult(commands=(command,)), Lane.CREATION
            )
        assert f"session {row.id}: the answer to attempt 1 (failed) is late" in caplog.text
    assert (lifted.attempt, lifted.cause, lifted.retry_at) == (1, Cause.SESSION_KNOWN, None)
    assert (await ledger.session(row.id)).session_id == row.session_id


async def test_steps_without_a_request_are_recorded_without_a_token(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a deadline has passed, before the look-up or after it, and that an attempt is lost."""
    unseen = await ledger.accept(request())
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=600)
    throttled = await ledger.open_session(request(idempotency_key="throttled"))
    await sql("DELETE FROM limits")
    simulator.config = SimulatorConfig()
    async with hanging(ledger, monkeypatch) as (delayed, opening):
        opening.cancel()
        await asyncio.wait([opening])
        await delayed.lose_the_lease(sql)
        await sql("UPDATE due_steps SET due_at = now(), lease_until = NULL, owner = NULL")
        overdue = replace(AT_ONCE, creation=replace(AT_ONCE.creation, deadline_ms=1))
        async with new_ledger(cxone_client_secret="wrong", policy=overdue) as other:
            done = await other.scheduler.run_once()
        assert done == {"SessionAbandoned": 3, "CreationFailed": 1}
        for session in (unseen, throttled):
            assert (await ledger.session(session.id)).status is Status.ABANDONED
    assert simulator.counts["token 401"] == 0, "nobody had to ask"


async def test_a_worker_with_a_stale_version_releases_its_claim_at_once(
    ledger: Ledger, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the steps that the other append left would wait for an unused lease."""
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=600)
    session = await ledger.open_session(request())
    await sql("UPDATE due_steps SET due_at = now()")
    await sql("DELETE FROM limits")
    whole = ledger._adapters.store.read_streams

    async def overtaken(stream_ids: Any, **given: Any) -> Any:
        found = await whole(stream_ids, **given)
        await sql("UPDATE due_steps SET due_at = now()")
        return {stream_id: history[:-1] for stream_id, history in found.items()}

    monkeypatch.setattr(ledger._adapters.store, "read_streams", overtaken)
    [task], _ = await ledger.scheduler._lanes._start(Lane.CREATION, 1)
    await task
    assert await sql("SELECT * FROM due_steps WHERE owner IS NOT NULL OR lease_until IS NOT NULL") == []
    assert [tuple(row) for row in await sql("SELECT count(*) FROM events")] == [(session.version,)]


async def test_a_late_answer_keeps_the_lease_of_the_current_worker(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger() as other, hanging(ledger, monkeypatch) as (delayed, opening):
        delayed.outcome = Failed(kind=e.FailureKind.FINAL, cause=Cause.REJECTED, status=400)
        await delayed.lose_the_lease(sql)
        delayed_too = DelayedAnswers(other)
        monkeypatch.setattr(other._adapters.provider, "create", delayed_too.create)
        running = asyncio.create_task(other.scheduler.run_once())
        await delayed_too.answered.wait()
        (before,) = await sql("SELECT * FROM due_steps")
        delayed.released.set()
        await opening
        (after,) = await sql("SELECT * FROM due_steps")
        delayed_too.released.set()
        await running

    session = await ledger.session(before["stream_id"])
    assert (before["step"], after["step"]) == ("settle_attempt", "settle_attempt")
    assert before["owner"] is not None
    assert after["owner"] == before["owner"]
    assert after["lease_until"] >= before["lease_until"]
    assert (session.status, session.attempts) == (Status.ACTIVE, 2)
    assert (await event(ledger, session.id, e.DoubtLifted)).attempt == 1


async def test_a_late_answer_ends_the_lease_on_a_later_attempt(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger() as other, hanging(ledger, monkeypatch) as (delayed, opening):
        await delayed.lose_the_lease(sql)
        delayed_too = DelayedAnswers(other)
        monkeypatch.setattr(other._adapters.provider, "create", delayed_too.create)
        running = asyncio.create_task(other.scheduler.run_once())
        await delayed_too.answered.wait()
        delayed.released.set()
        session = await opening
        (after,) = await sql("SELECT step, owner, lease_until FROM due_steps")
        delayed_too.released.set()
        await running

    assert tuple(after) == ("expire_token", None, None)
    assert (session.status, session.attempts) == (Status.ACTIVE, 2)
    assert (await event(ledger, session.id, e.SessionCreated)).attempt == 1
    assert (session.in_doubt, (await revealed(ledger, session.id)).in_doubt) == ((2,), ())
    assert len(simulator.sessions_by_key[str(session.id)]) == 1


async def test_answers_to_an_abandoned_session_are_recorded_as_duplicates(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(honour_idempotency_key=False)
    async with new_ledger() as second, new_ledger() as third, hanging(ledger, monkeypatch) as (delayed, opening):
        await delayed.lose_the_lease(sql)
        delayed_too = DelayedAnswers(second)
        monkeypatch.setattr(second._adapters.provider, "create", delayed_too.create)
        running = asyncio.create_task(second.scheduler.run_once())
        await delayed_too.answered.wait()
        await claims_no_more(second, monkeypatch)
        await delayed_too.lose_the_lease(sql)
        down = Failed(kind=e.FailureKind.UNAVAILABLE, cause=Cause.SERVER_ERROR, status=503)
        monkeypatch.setattr(third._adapters.provider, "create", lambda *_: asyncio.sleep(0, down))
        assert (await third.scheduler.run_once())["SessionAbandoned"] == 1
        delayed_too.released.set()
        delayed.released.set()
        await running
        session = await opening

    assert session.status is Status.ABANDONED
    made = {one.session_id for one in simulator.sessions_by_key[str(session.id)]}
    assert len(made) == 2
    assert set((await ledger.session(session.id)).duplicates) == made


async def test_a_short_database_outage_loses_no_attempt_in_flight(
    ledger: Ledger, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its answer would be lost, and the attempt in doubt."""
    session = await ledger.accept(request())
    delayed = DelayedAnswers(ledger)
    monkeypatch.setattr(ledger._adapters.provider, "create", delayed.create)
    running = asyncio.create_task(ledger.scheduler.run_once())
    async with asyncio.timeout(30):
        await delayed.answered.wait()
        asked = asyncio.Event()

        async def claim(*_: Any) -> Any:
            asked.set()
            raise ServiceUnreachable("database", Cause.CONNECTION_REFUSED)

        monkeypatch.setattr(ledger.scheduler._due_steps, "claim", claim)
        await asked.wait()
        delayed.released.set()
        with pytest.raises(ServiceUnreachable):
            await running

    assert (await ledger.session(session.id)).status is Status.ACTIVE
    assert simulator.counts["session 201"] == 1


# Tokens and webhooks


async def test_a_fault_in_a_claim_cuts_off_no_request_in_flight(
    ledger: Ledger, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await ledger.accept(request())
    delayed = DelayedAnswers(ledger)
    monkeypatch.setattr(ledger._adapters.provider, "create", delayed.create)
    claim = ledger._adapters.due_steps.claim

    async def faulty(*given: Any) -> Any:
        if delayed.answered.is_set():
            delayed.released.set()
            raise RuntimeError("a fault in a claim")
        return await claim(*given)

    monkeypatch.setattr(ledger._adapters.due_steps, "claim", faulty)
    async with asyncio.timeout(60):
        with pytest.raises(RuntimeError, match="a fault in a claim"):
            await ledger.scheduler.run_once()
    assert (await kinds(ledger, session.id))[-1] == "SessionCreated"


async def test_a_token_expiry_is_recorded_once_and_not_before_its_time(
    ledger: Ledger, simulator: Simulator, sql: Any
) -> None:
    lasting = await ledger.open_session(request())
    simulator.config = SimulatorConfig(session_lifetime_s=0)
    short = await ledger.open_session(request())
    await sql("UPDATE due_steps SET due_at = now()")

    assert await ledger.scheduler.run_once() == {"TokenExpired": 1, "TokenPurged": 1}

    assert (await ledger.session(lasting.id)).status is Status.ACTIVE
    assert (await ledger.session(short.id)).status is Status.EXPIRED
    expired = await event(ledger, short.id, e.TokenExpired)
    assert expired.expires_at == short.expires_at
    assert expired.at >= expired.expires_at
    assert expired.noticed_late_ms == round((expired.at - expired.expires_at).total_seconds() * 1_000)
    (due,) = await sql("SELECT stream_id, due_at FROM due_steps")
    assert due["stream_id"] == lasting.id
    assert due["due_at"] >= lasting.expires_at


async def test_a_webhook_is_sent_once_with_the_contracts_fields(new_ledger: Any, simulator: Simulator) -> None:
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        session = await ledger.open_session(request())
        assert await ledger.scheduler.run_once() == {"WebhookSynced": 1}
        assert await ledger.scheduler.run_once() == {}

    (call,) = simulator.webhooks
    notice = json.loads(call.body)
    assert (notice["event"], notice["sessionId"]) == ("session_started", session.session_id)


async def test_a_webhook_that_keeps_failing_becomes_a_dead_letter(
    new_ledger: Any, simulator: Simulator, sql: Any
) -> None:
    simulator.config = SimulatorConfig(webhook_status=503)
    given = {"webhook_url": simulator.webhook_url, "webhook_secret": "whsec_c2VjcmV0"}
    async with new_ledger(**given) as ledger:
        session = await ledger.open_session(request())
        done = await ledger.scheduler.run_until_idle()

        assert done == {"WebhookFailed": 2, "WebhookAbandoned": 1}
        after = await ledger.session(session.id)
        assert (after.status, after.webhook_attempts, after.webhook_owed) == (Status.ACTIVE, 3, False)
        assert (await event(ledger, session.id, e.WebhookAbandoned)).status == 503
    assert len(simulator.webhooks) == 3
    assert {call.headers["webhook-id"] for call in simulator.webhooks} == {f"msg_{session.id.hex}"}
    assert [row["step"] for row in await sql("SELECT step FROM due_steps")] == ["expire_token"]


async def test_a_webhook_that_fails_once_is_delivered_by_the_retry(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(webhook_status=500)
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        webhook = webhook_of(ledger)
        whole = webhook.send

        async def send(session: Session) -> Any:
            delivered = await whole(session)
            simulator.config = SimulatorConfig()
            return delivered

        monkeypatch.setattr(webhook, "send", send)
        session = await ledger.open_session(request())
        assert await ledger.scheduler.run_until_idle() == {"WebhookFailed": 1, "WebhookSynced": 1}

        assert (await ledger.session(session.id)).webhook_attempts == 2
        assert (await event(ledger, session.id, e.WebhookSynced)).attempt == 2


async def test_a_webhook_retry_time_in_the_log_overrides_an_earlier_due_time(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(webhook_status=500)
    policy = Policy(webhook=DeliveryPolicy(waits_ms=(600_000,)))
    async with new_ledger(webhook_url=simulator.webhook_url, policy=policy) as ledger:
        monkeypatch.setattr(ledger._adapters.clock, "jitter", lambda: 0.5)
        session = await ledger.open_session(request())
        assert await ledger.scheduler.run_once() == {"WebhookFailed": 1}
        await sql("UPDATE due_steps SET due_at = now()")
        assert await ledger.scheduler.run_once() == {}

        failed = await event(ledger, session.id, e.WebhookFailed)
    assert (failed.status, failed.wait.ms) == (500, 630_000)
    (due,) = await sql("SELECT due_at FROM due_steps WHERE step = 'deliver_webhook'")
    assert due["due_at"] >= failed.retry_at
    assert len(simulator.webhooks) == 1
