"""Schedulers on one ledger: every session is taken forward by one at a time, in order, whoever crashes or hangs."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from guestledger.engine.domain.feedback import heard_of_webhook
from msgspec.structs import replace

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain import events as e
from guestledger.engine.domain.commands import RecordAttempt, RecordDelivery
from guestledger.engine.domain.delivery import DeliveryPolicy
from guestledger.engine.domain.errors import ServiceUnreachable, WrongExpectedVersion
from guestledger.engine.domain.lifecycle import Policy
from guestledger.engine.domain.outcomes import Failed
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import RetryPolicy
from guestledger.engine.log.appends import Append, Appended, Lease
from guestledger.engine.ports.due_steps import Claimed
from guestledger.engine.worker.scheduler import LANES
from guestledger.engine.worker.session_work import TOWARDS_CREATION, Run
from tests.integration.conftest import AT_ONCE
from tests.unit.samples import delivered, request

PATIENT = replace(AT_ONCE, creation=RetryPolicy(base_ms=600_000, cap_ms=600_000))
"""The next try is minutes away."""


async def kinds(ledger: Ledger, stream_id: UUID) -> list[str]:
    return [type(recorded.event).__name__ for recorded in await ledger.history(stream_id)]


async def event(ledger: Ledger, stream_id: UUID, kind: type[Any]) -> Any:
    (found,) = [recorded.event for recorded in await ledger.history(stream_id) if isinstance(recorded.event, kind)]
    return found


class Denied:
    """Requests for a session whose answers are held back, once they have come."""

    def __init__(self, ledger: Ledger) -> None:
        self.answered = asyncio.Event()
        self.let_go = asyncio.Event()
        self._whole = ledger._provider.create
        self._ledger = ledger

    async def create(self, prepared: Any, key: str, check: Any) -> Any:
        outcome = await self._whole(prepared, key, check)
        self.answered.set()
        await self.let_go.wait()
        return outcome

    async def lose_the_lease(self, sql: Any) -> None:
        """The holder renews its lease no more, as if its machine stood still, and so the lease lapses."""
        await self._ledger._leases.close()
        await sql("UPDATE due_work SET lease_until = now() WHERE lease_until IS NOT NULL")


@contextlib.asynccontextmanager
async def hanging(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Denied, asyncio.Task[Session]]]:
    """A session that `ledger` is opening, its answer held back."""
    held = Denied(ledger)
    monkeypatch.setattr(ledger._provider, "create", held.create)
    async with asyncio.timeout(60):
        opening = asyncio.create_task(ledger.open_session(request()))
        await held.answered.wait()
        yield held, opening


async def claims_no_more(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the running scheduler of `ledger` finds nothing to claim, not even what it has lost itself."""
    asked = asyncio.Event()

    async def claim(*_: Any) -> Claimed:
        asked.set()
        return Claimed(claims=[])

    monkeypatch.setattr(ledger.scheduler._due_work, "claim", claim)
    await asked.wait()  # so no earlier claim is under way


async def claims_nothing_more(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the scheduler of `ledger` finds nothing to claim."""

    async def claim(*_: Any) -> Claimed:
        return Claimed(claims=[])

    monkeypatch.setattr(ledger.scheduler._due_work, "claim", claim)


# Replaying


async def test_a_throttled_session_is_tried_again_when_its_time_has_come_and_not_before(
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


async def test_a_wait_that_cxone_asked_for_is_kept_even_when_the_due_work_says_otherwise(
    ledger: Ledger, simulator: Simulator, sql: Any
) -> None:
    """Due work can be rebuilt or tampered with; what was decided stands in the log."""
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=600)
    session = await ledger.open_session(request())
    await sql("UPDATE due_work SET due_at = now()")
    await sql("DELETE FROM limiters")

    assert await ledger.scheduler.run_once() == {}

    assert simulator.counts["session 429"] == 1
    (due,) = await sql("SELECT due_at, owner FROM due_work")
    assert due["due_at"] >= session.retry_at
    assert due["owner"] is None


async def test_whatever_goes_wrong_for_a_while_every_session_is_made_in_the_end_and_once(
    ledger: Ledger, simulator: Simulator
) -> None:
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


async def test_two_schedulers_on_one_ledger_do_nothing_twice(new_ledger: Any, simulator: Simulator) -> None:
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
        }
        for session in accepted:
            assert (await one.session(session.id)).status is Status.EXPIRED
    asked = Counter(sent.key for sent in simulator.requests if sent.path.endswith("/sessions"))
    assert set(asked) == {str(session.id) for session in accepted}
    assert sum(asked.values()) == 50 + throttled
    notices = [json.loads(call.body)["sessionId"] for call in simulator.webhooks]
    assert sorted(notices) == sorted(made.session_id for (made,) in simulator.sessions_by_key.values())


async def test_while_a_session_is_being_opened_no_scheduler_touches_it(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger() as other, hanging(ledger, monkeypatch) as (held, opening):
        assert await other.scheduler.run_once() == {}
        held.let_go.set()
        session = await opening

    assert session.status is Status.ACTIVE
    assert simulator.counts["session 201"] == 1


async def test_a_session_that_was_given_back_is_left_to_whoever_claims_it_even_when_it_falls_due_meanwhile(
    ledger: Ledger, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its lease, a next step would be taken beside somebody else's."""
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=1)
    whole = ledger._store.append

    async def append(given: Append) -> Appended:
        appended = await whole(given)
        last = given.events[-1]
        if isinstance(last, e.CreationThrottled):
            monkeypatch.setattr(ledger._steps._clock, "now", lambda: last.retry_at)
        return appended

    monkeypatch.setattr(ledger._store, "append", append)

    session = await ledger.open_session(request())

    assert (session.status, session.attempts) == (Status.THROTTLED, 1)
    assert (simulator.counts["session 429"], simulator.counts["session 201"]) == (1, 0)
    assert session == await ledger.session(session.id)


# Crashes and zombies


async def test_a_session_whose_opener_died_is_taken_on_and_its_attempt_is_in_doubt(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hanging(ledger, monkeypatch) as (held, opening):
        opening.cancel()
        await asyncio.wait([opening])
        await held.lose_the_lease(sql)
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


async def test_a_late_answer_that_names_the_session_already_known_is_no_news(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CXone honours the key here: the second attempt is given the first one's session."""
    async with new_ledger() as other, hanging(ledger, monkeypatch) as (held, opening):
        await held.lose_the_lease(sql)
        assert (await other.scheduler.run_once())["SessionCreated"] == 1
        (stream_id,) = [row.id async for row in other.sessions()]
        before = await other.history(stream_id)
        held.let_go.set()
        session = await opening

    assert await ledger.history(stream_id) == before
    assert (session.id, session.status, session.attempts) == (stream_id, Status.ACTIVE, 2)
    assert session == await ledger.session(stream_id)
    assert (await event(ledger, stream_id, e.SessionCreated)).attempt == 2
    assert len(simulator.sessions_by_key[str(stream_id)]) == 1


async def test_a_late_answer_that_names_another_session_is_recorded_as_a_duplicate_and_never_put_first(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(honour_idempotency_key=False)
    async with new_ledger() as other, hanging(ledger, monkeypatch) as (held, opening):
        await held.lose_the_lease(sql)
        assert (await other.scheduler.run_once())["SessionCreated"] == 1
        due = await sql("SELECT * FROM due_work")
        held.let_go.set()
        session = await opening

    first, second = simulator.sessions_by_key[str(session.id)]
    assert (session.session_id, session.duplicates) == (second.session_id, (first.session_id,))
    assert session == await ledger.session(session.id)
    duplicate = await event(ledger, session.id, e.DuplicateCreated)
    assert (duplicate.attempt, duplicate.session_id) == (1, first.session_id)
    assert (await kinds(ledger, session.id))[-3:] == ["CreationAttempted", "SessionCreated", "DuplicateCreated"]
    assert await sql("SELECT * FROM due_work") == due, "a late answer takes no lease and moves no work"
    (entry,) = [entry async for entry in ledger.audit()]
    assert entry.session_id == second.session_id


async def test_a_late_answer_to_an_attempt_in_doubt_makes_the_session_and_nobody_tries_again(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=PATIENT) as slow, new_ledger(policy=PATIENT) as other:
        monkeypatch.setattr(other._steps._clock, "jitter", lambda: 0.5)
        async with hanging(slow, monkeypatch) as (held, opening):
            await held.lose_the_lease(sql)
            assert await other.scheduler.run_once() == {"CreationFailed": 1}
            held.let_go.set()
            session = await opening

        assert (session.status, session.attempts) == (Status.ACTIVE, 1)
        await sql("UPDATE due_work SET due_at = now() WHERE step <> 'ExpireToken'")
        assert await other.scheduler.run_once() == {}

    (made,) = simulator.sessions_by_key[str(session.id)]
    assert session.session_id == made.session_id
    (due,) = await sql("SELECT step, due_at FROM due_work")
    assert tuple(due) == ("ExpireToken", session.expires_at)


async def test_a_late_run_neither_renews_nor_gives_back_what_a_newer_run_of_the_same_process_holds(
    ledger: Ledger, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await ledger.accept(request())
    older = Denied(ledger)
    monkeypatch.setattr(ledger._provider, "create", older.create)
    newer = Denied(ledger)
    newer._whole = older._whole
    async with asyncio.timeout(30):
        running = asyncio.create_task(ledger.scheduler.run_once())
        await older.answered.wait()
        monkeypatch.setattr(ledger._provider, "create", newer.create)
        await older.lose_the_lease(sql)
        await newer.answered.wait()  # the same scheduler has claimed it anew
    (before,) = await sql("SELECT owner, lease_until FROM due_work")
    assert before["owner"] is not None
    await claims_nothing_more(ledger, monkeypatch)
    turned_away = asyncio.Event()
    whole = ledger._steps._recorder._due_work.release

    async def release(*given: Any) -> None:
        await whole(*given)
        turned_away.set()

    monkeypatch.setattr(ledger._steps._recorder._due_work, "release", release)
    async with asyncio.timeout(30):
        older.let_go.set()
        await turned_away.wait()
        (after,) = await sql("SELECT owner, lease_until FROM due_work")
        newer.let_go.set()
        await running

    assert after["owner"] == before["owner"]
    assert after["lease_until"] >= before["lease_until"]
    assert len(simulator.sessions_by_key[str(session.id)]) == 1


@pytest.mark.parametrize(("status", "told"), [(429, "HTTP 429"), (None, "no answer")])
async def test_a_webhooks_answer_that_is_no_news_leaves_a_trace_and_its_wish_for_peace_is_heard(
    new_ledger: Any, simulator: Simulator, sql: Any, caplog: pytest.LogCaptureFixture, status: int | None, told: str
) -> None:
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        session = await ledger.open_session(request())
        before = await ledger.history(session.id)
        await ledger.scheduler.run_once()
        settled = await ledger.history(session.id)
        assert isinstance(settled[-1].event, e.WebhookSynced)
        late = Run.of(before, TOWARDS_CREATION, "late", Lease(owner=session.id, ms=1))
        outcome = delivered(status, None if status is None else 600_000)
        hearing = heard_of_webhook("hooks", outcome, before[-1].recorded_at, 600_000)
        command = RecordDelivery(outcome=outcome, now=before[-1].recorded_at, jitter=0)

        with pytest.raises(WrongExpectedVersion):
            await ledger._steps._recorder.settle(late, command, hearing)

        assert await ledger.history(session.id) == settled
        assert f"session {session.id}: the webhook's answer ({told}) came late and tells nothing new" in caplog.text
        closed = await sql("SELECT name FROM limiters WHERE closed_until > now()")
        assert [limiter["name"] for limiter in closed] == ([] if status is None else ["hooks"])


async def test_a_late_answer_that_nothing_was_made_lifts_the_doubt_and_one_that_is_no_news_leaves_a_trace(
    ledger: Ledger, new_ledger: Any, sql: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with new_ledger() as other, hanging(ledger, monkeypatch) as (held, opening):
        await held.lose_the_lease(sql)
        assert (await other.scheduler.run_once())["SessionCreated"] == 1
        [row] = [row async for row in other.sessions()]
        before = await sql("SELECT * FROM due_work")
        held.let_go.set()
        await opening
        assert f"session {row.id}: the answer to attempt 1 (created {row.session_id}) came late" in caplog.text
        assert await sql("SELECT * FROM due_work") == before

        refused = Failed(kind=e.FailureKind.REJECTED, status=400, message="HTTP 400")
        late = Run.of((await other.history(row.id))[:3], TOWARDS_CREATION, "late", Lease(owner=row.id, ms=1))
        with pytest.raises(WrongExpectedVersion):
            await ledger._steps._recorder.settle(
                late, RecordAttempt(attempt=1, outcome=refused, now=late.state.due_since, jitter=0), None
            )
        lifted = await event(ledger, row.id, e.DoubtLifted)
    assert (lifted.attempt, lifted.kind, lifted.retry_at) == (1, e.FailureKind.REJECTED, None)
    assert (await ledger.session(row.id)).session_id == row.session_id


async def test_where_no_token_is_to_be_had_what_needs_no_request_is_recorded_all_the_same(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a deadline has passed, before the look-up or after it, and that an attempt is lost."""
    unseen = await ledger.accept(request())
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=600)
    throttled = await ledger.open_session(request(idempotency_key="throttled"))
    await sql("DELETE FROM limiters")
    simulator.config = SimulatorConfig()
    async with hanging(ledger, monkeypatch) as (held, opening):
        opening.cancel()
        await asyncio.wait([opening])
        await held.lose_the_lease(sql)
        await sql("UPDATE due_work SET due_at = now(), lease_until = NULL, owner = NULL")
        async with new_ledger(cxone_client_secret="wrong") as other:
            tomorrow = throttled.accepted_at + timedelta(days=1)
            monkeypatch.setattr(other._steps._clock, "now", lambda: tomorrow)
            done = await other.scheduler.run_once()
        assert done == {"SessionAbandoned": 3, "CreationFailed": 1}
        for session in (unseen, throttled):
            assert (await ledger.session(session.id)).status is Status.ABANDONED
    assert simulator.counts["token 401"] == 0, "nobody had to ask"


async def test_who_is_turned_away_gives_the_claim_up_at_once(
    ledger: Ledger, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whatever the other's append left due would wait for a lease that nobody has a use for."""
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=600)
    session = await ledger.open_session(request())
    await sql("UPDATE due_work SET due_at = now()")
    await sql("DELETE FROM limiters")
    whole = ledger._store.read_streams

    async def overtaken(stream_ids: Any) -> Any:
        found = await whole(stream_ids)
        await sql("UPDATE due_work SET due_at = now()")
        return {stream_id: history[:-1] for stream_id, history in found.items()}

    monkeypatch.setattr(ledger._store, "read_streams", overtaken)
    [task], _ = await ledger.scheduler._start(LANES[0], 1)
    await task
    (due,) = await sql("SELECT owner, lease_until FROM due_work")
    assert tuple(due) == (None, None)
    assert [tuple(row) for row in await sql("SELECT count(*) FROM events")] == [(session.version,)]


async def test_a_late_answer_leaves_the_lease_to_whoever_works_on_the_session_by_now(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger() as other, hanging(ledger, monkeypatch) as (held, opening):
        await held.lose_the_lease(sql)
        held_too = Denied(other)
        monkeypatch.setattr(other._provider, "create", held_too.create)
        running = asyncio.create_task(other.scheduler.run_once())
        await held_too.answered.wait()
        (before,) = await sql("SELECT * FROM due_work")
        held.let_go.set()
        session = await opening
        (after,) = await sql("SELECT * FROM due_work")
        held_too.let_go.set()
        await running

    assert (before["step"], after["step"]) == ("AttemptCreation", "ExpireToken")
    assert before["owner"] is not None
    assert after["owner"] == before["owner"]
    assert after["lease_until"] >= before["lease_until"]
    assert (session.status, session.attempts) == (Status.ACTIVE, 2)
    assert (await event(ledger, session.id, e.SessionCreated)).attempt == 1
    assert session == await ledger.session(session.id), "the second answer was no news"
    assert len(simulator.sessions_by_key[str(session.id)]) == 1


async def test_answers_that_come_when_the_session_has_been_given_up_are_recorded_as_duplicates(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(honour_idempotency_key=False)
    async with new_ledger() as second, new_ledger() as third, hanging(ledger, monkeypatch) as (held, opening):
        await held.lose_the_lease(sql)
        held_too = Denied(second)
        monkeypatch.setattr(second._provider, "create", held_too.create)
        running = asyncio.create_task(second.scheduler.run_once())
        await held_too.answered.wait()
        await claims_no_more(second, monkeypatch)
        await held_too.lose_the_lease(sql)
        down = Failed(kind=e.FailureKind.UNAVAILABLE, status=503, message="CXone is down")
        monkeypatch.setattr(third._provider, "create", lambda *_: asyncio.sleep(0, down))
        assert (await third.scheduler.run_once())["SessionAbandoned"] == 1
        held_too.let_go.set()
        held.let_go.set()
        await running
        session = await opening

    assert session.status is Status.ABANDONED
    made = {one.session_id for one in simulator.sessions_by_key[str(session.id)]}
    assert len(made) == 2
    assert set((await ledger.session(session.id)).duplicates) == made


async def test_a_database_that_is_away_for_a_moment_costs_no_attempt_in_flight(
    ledger: Ledger, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its answer would be lost, and the attempt in doubt."""
    session = await ledger.accept(request())
    held = Denied(ledger)
    monkeypatch.setattr(ledger._provider, "create", held.create)
    running = asyncio.create_task(ledger.scheduler.run_once())
    async with asyncio.timeout(30):
        await held.answered.wait()
        asked = asyncio.Event()

        async def claim(*_: Any) -> Any:
            asked.set()
            raise ServiceUnreachable("the database cannot be reached")

        monkeypatch.setattr(ledger.scheduler._due_work, "claim", claim)
        await asked.wait()
        held.let_go.set()
        with pytest.raises(ServiceUnreachable):
            await running

    assert (await ledger.session(session.id)).status is Status.ACTIVE
    assert simulator.counts["session 201"] == 1


# Tokens and webhooks


async def test_a_token_is_recorded_as_expired_once_its_time_has_passed_and_not_before(
    ledger: Ledger, simulator: Simulator, sql: Any
) -> None:
    lasting = await ledger.open_session(request())
    simulator.config = SimulatorConfig(session_lifetime_s=0)
    short = await ledger.open_session(request())
    await sql("UPDATE due_work SET due_at = now()")

    assert await ledger.scheduler.run_once() == {"TokenExpired": 1}

    assert (await ledger.session(lasting.id)).status is Status.ACTIVE
    assert (await ledger.session(short.id)).status is Status.EXPIRED
    expired = await event(ledger, short.id, e.TokenExpired)
    assert expired.expires_at == short.expires_at
    assert expired.at >= expired.expires_at
    assert expired.noticed_late_ms == round((expired.at - expired.expires_at).total_seconds() * 1_000)
    (due,) = await sql("SELECT stream_id, due_at FROM due_work")
    assert due["stream_id"] == lasting.id
    assert due["due_at"] >= lasting.expires_at


async def test_a_webhook_is_sent_once_and_says_what_the_contract_says(new_ledger: Any, simulator: Simulator) -> None:
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        session = await ledger.open_session(request())
        assert await ledger.scheduler.run_once() == {"WebhookSynced": 1}
        assert await ledger.scheduler.run_once() == {}

    (call,) = simulator.webhooks
    notice = json.loads(call.body)
    assert (notice["event"], notice["sessionId"]) == ("session_started", session.session_id)


async def test_a_webhook_that_nobody_takes_is_tried_again_and_then_kept_and_the_session_stays_active(
    new_ledger: Any, simulator: Simulator, sql: Any
) -> None:
    simulator.config = SimulatorConfig(webhook_status=503)
    given = {"webhook_url": simulator.webhook_url, "webhook_secret": "whsec_c2VjcmV0"}
    async with new_ledger(**given) as ledger:
        session = await ledger.open_session(request())
        done = await ledger.scheduler.run_until_idle()

        assert done == {"WebhookFailed": 2, "WebhookAbandoned": 1}
        after = await ledger.session(session.id)
        assert (after.status, after.webhook_attempts, after.webhook_settled) == (Status.ACTIVE, 3, True)
        assert (await event(ledger, session.id, e.WebhookAbandoned)).status == 503
    assert len(simulator.webhooks) == 3
    assert {call.headers["webhook-id"] for call in simulator.webhooks} == {f"msg_{session.id.hex}"}
    (due,) = await sql("SELECT step FROM due_work")
    assert due["step"] == "ExpireToken"


async def test_a_webhook_that_fails_once_is_taken_the_next_time(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(webhook_status=500)
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        whole = ledger._steps._webhook.send

        async def send(session: Session) -> Any:
            delivered = await whole(session)
            simulator.config = SimulatorConfig()
            return delivered

        monkeypatch.setattr(ledger._steps._webhook, "send", send)
        session = await ledger.open_session(request())
        assert await ledger.scheduler.run_until_idle() == {"WebhookFailed": 1, "WebhookSynced": 1}

        assert (await ledger.session(session.id)).webhook_attempts == 2
        assert (await event(ledger, session.id, e.WebhookSynced)).attempt == 2


async def test_a_webhook_waits_for_its_next_try_as_long_as_was_decided(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(webhook_status=500)
    policy = Policy(webhook=DeliveryPolicy(waits_ms=(600_000,)))
    async with new_ledger(webhook_url=simulator.webhook_url, policy=policy) as ledger:
        monkeypatch.setattr(ledger._steps._clock, "jitter", lambda: 0.5)
        session = await ledger.open_session(request())
        assert await ledger.scheduler.run_once() == {"WebhookFailed": 1}
        await sql("UPDATE due_work SET due_at = now()")
        assert await ledger.scheduler.run_once() == {}

        failed = await event(ledger, session.id, e.WebhookFailed)
    assert (failed.status, failed.wait_ms) == (500, 630_000)
    (due,) = await sql("SELECT step, due_at FROM due_work")
    assert due["step"] == "SyncWebhook"
    assert due["due_at"] >= failed.retry_at
    assert len(simulator.webhooks) == 1
