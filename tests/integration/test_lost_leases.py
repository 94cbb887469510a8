"""Leases: a worker that may have lost one notices before the next effect, and sends nothing."""

import asyncio
from contextlib import suppress
from contextvars import ContextVar
from typing import Any
from uuid import UUID, uuid4

import pytest

from guestledger.adapters.postgres.work.due_steps import PostgresDueSteps
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.events import CreationFailed, DoubtLifted, FailureKind
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import RetryPolicy
from guestledger.engine.log.appends import Append, Appended, Lease
from guestledger.engine.worker.leases import LeaseLost, Leases
from tests.integration.appends import a_lease, new_id
from tests.unit.samples import request

LEASE = Lease(owner=uuid4(), ms=10_000)
SPAN = LEASE.ms / 1_000


class Clock:
    """This process's monotonic clock, `ahead` by so many seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        monkeypatch.setattr(Leases, "now", staticmethod(lambda: asyncio.get_running_loop().time() + self.ahead))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_a_lease_is_valid_for_its_duration_from_the_time_of_the_request(clock: Clock) -> None:
    leases = Leases(None, LEASE.ms)  # type: ignore[arg-type]
    asked_at = Leases.now()
    with leases.hold(LEASE, new_id(), asked_at) as held:
        clock.ahead = SPAN / 2
        held.check()
        renewed_at = Leases.now()
        clock.ahead = SPAN
        with pytest.raises(LeaseLost):
            held.check()
        held.renewed(renewed_at)
        held.check()
        held.renewed(asked_at)
        held.check()
    with pytest.raises(LeaseLost):
        held.check()
    held.renewed(Leases.now())
    with pytest.raises(LeaseLost):
        held.check()
    await leases.close()


async def test_closed_leases_let_nothing_be_sent() -> None:
    leases = Leases(None, LEASE.ms)  # type: ignore[arg-type]
    with leases.hold(LEASE, new_id(), Leases.now()) as held:
        await leases.close()
        held.renewed(Leases.now())
        with pytest.raises(LeaseLost):
            held.check()


async def test_a_worker_stalled_before_its_request_sends_nothing_and_another_continues(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    whole = ledger._adapters.store.append

    async def append(given: Append) -> Appended:
        appended = await whole(given)
        if type(given.events[-1]).__name__ == "CreationAttempted":
            clock.ahead = SPAN
        return appended

    monkeypatch.setattr(ledger._adapters.store, "append", append)

    left = await ledger.open_session(request())

    assert (left.status, left.attempts, left.in_doubt) == (Status.PENDING, 1, ())
    assert not simulator.sessions_by_key
    await sql("UPDATE due_steps SET lease_until = now()")
    async with new_ledger() as other:
        await other.scheduler.run_until_idle()
    assert (await ledger.session(left.id)).status is Status.ACTIVE
    assert len(simulator.sessions_by_key[str(left.id)]) == 1


async def test_an_unsent_attempt_lifts_the_doubt_that_another_worker_recorded(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    whole = ledger._adapters.store.append

    async def append(given: Append) -> Appended:
        appended = await whole(given)
        if type(given.events[-1]).__name__ == "CreationAttempted":
            clock.ahead = SPAN
            await sql("UPDATE due_steps SET lease_until = now()")
            async with new_ledger() as other:
                await other.scheduler.run_until_idle()
        return appended

    monkeypatch.setattr(ledger._adapters.store, "append", append)

    session = await ledger.open_session(request())

    events = [recorded.event for recorded in await ledger.history(session.id)]
    lifted = [event for event in events if isinstance(event, DoubtLifted)]
    assert [(event.attempt, event.kind) for event in lifted] == [(1, FailureKind.UNSENT)]
    assert (session.status, session.attempts, session.in_doubt) == (Status.ACTIVE, 2, ())
    assert len(simulator.sessions_by_key[str(session.id)]) == 1


async def test_a_worker_stalled_after_a_401_does_not_send_the_attempt_again(
    ledger: Ledger, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    await ledger.open_session(request())
    simulator.revoke_tokens()
    whole = ledger._adapters.provider._tokens.token

    async def token() -> str:
        given = await whole()
        if simulator.counts["session 401"]:
            clock.ahead = SPAN
        return given

    monkeypatch.setattr(ledger._adapters.provider._tokens, "token", token)

    left = await ledger.open_session(request())

    assert (simulator.counts["session 401"], simulator.counts["token 200"]) == (1, 2)
    assert str(left.id) not in simulator.sessions_by_key
    failed = (await ledger.history(left.id))[-1].event
    assert isinstance(failed, CreationFailed)
    assert (failed.attempt, failed.kind) == (1, FailureKind.UNAVAILABLE)
    assert (failed.cause, failed.detail) == (Cause.TOKEN_REFUSED, Cause.LEASE_LOST)
    assert (left.status, left.attempts, left.in_doubt) == (Status.PENDING, 1, ())


async def test_an_unsent_probe_is_returned_after_a_lost_lease(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    patient = LimiterPolicy(failures_in_a_row=1, break_ms=1, max_break_ms=1, probe_ms=86_400_000)
    simulator.config = SimulatorConfig(server_error_share=1.0, fault_times=1)
    async with new_ledger(policy=Policy(creation=RetryPolicy(base_ms=600_000), limiter=patient)) as ledger:
        await ledger.open_session(request())
        await sql("UPDATE limits SET broken_until = now()")
        whole = ledger._adapters.store.append

        async def append(given: Append) -> Appended:
            appended = await whole(given)
            if type(given.events[-1]).__name__ == "CreationAttempted":
                clock.ahead = SPAN
                [limiter] = await sql("SELECT probe_until > now() + interval '1 hour' AS probes FROM limits")
                assert limiter["probes"]
            return appended

        monkeypatch.setattr(ledger._adapters.store, "append", append)
        await ledger.open_session(request())

        [limiter] = await sql("SELECT broken_at, probe_until FROM limits")
        assert (limiter["broken_at"] is None, limiter["probe_until"]) == (False, None)


async def test_a_worker_stalled_before_a_lookup_sends_nothing_and_returns_its_probe(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    patient = LimiterPolicy(failures_in_a_row=1, break_ms=1, max_break_ms=1, probe_ms=86_400_000)
    simulator.config = SimulatorConfig(channel_errors=1)
    async with new_ledger(policy=Policy(creation=RetryPolicy(base_ms=600_000), limiter=patient)) as ledger:
        await ledger.open_session(request())
        await sql("UPDATE limits SET broken_until = now()")
        whole = ledger.limits._limiter.admit

        async def admit(*given: Any) -> Any:
            admitted = await whole(*given)
            assert admitted.probes
            clock.ahead = SPAN
            return admitted

        monkeypatch.setattr(ledger.limits._limiter, "admit", admit)
        left = await ledger.open_session(request())

        assert left.status is Status.PENDING
        assert (simulator.counts["channel 500"], simulator.counts["channel 200"]) == (1, 0)
        [limiter] = await sql("SELECT broken_at, probe_until FROM limits")
        assert (limiter["broken_at"] is None, limiter["probe_until"]) == (False, None)


async def test_a_worker_stalled_after_claiming_a_webhook_does_not_send_it(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        session = await ledger.open_session(request())
        whole = ledger._adapters.store.read_streams

        async def read_streams(stream_ids: Any, **given: Any) -> Any:
            clock.ahead += SPAN
            return await whole(stream_ids, **given)

        monkeypatch.setattr(ledger._adapters.store, "read_streams", read_streams)
        assert await ledger.scheduler.run_once() == {}

        assert not simulator.webhooks
        assert (await ledger.session(session.id)).webhook_owed


async def test_closing_releases_cut_off_claims_but_not_newer_ones(due_steps: PostgresDueSteps, sql: Any) -> None:
    late, newer, unseen = a_lease(), a_lease(), a_lease()
    cut, taken, claimed = new_id(), new_id(), new_id()
    for stream_id, lease in ((cut, late), (taken, newer), (claimed, unseen)):
        await sql("INSERT INTO due_steps VALUES ($1, 'deliver_webhook', now(), $2, 'infinity')", stream_id, lease.owner)
    leases = Leases(due_steps, LEASE.ms)
    for stream_id in (cut, taken):
        with suppress(asyncio.CancelledError), leases.hold(late, stream_id):
            raise asyncio.CancelledError
    with suppress(asyncio.CancelledError), leases.claiming(unseen):
        raise asyncio.CancelledError

    with leases.hold(newer, taken):
        await leases.close()

    rows = await sql("SELECT stream_id, owner FROM due_steps")
    assert {row["stream_id"]: row["owner"] for row in rows} == {cut: None, taken: newer.owner, claimed: None}


async def test_closing_releases_no_lease_of_an_owner_with_work_in_flight(due_steps: PostgresDueSteps, sql: Any) -> None:
    lease, cut, under_way = a_lease(), new_id(), new_id()
    await sql("INSERT INTO due_steps VALUES ($1, 'deliver_webhook', now(), $2, 'infinity')", under_way, lease.owner)
    leases = Leases(due_steps, LEASE.ms)
    with suppress(asyncio.CancelledError), leases.hold(lease, cut):
        raise asyncio.CancelledError

    with leases.hold(lease, under_way):
        await leases.close()

    [row] = await sql("SELECT owner FROM due_steps")
    assert row["owner"] == lease.owner


async def test_renewals_run_in_the_context_of_no_session() -> None:
    caller = ContextVar("caller", default="none")
    seen = asyncio.Queue[str]()

    class Watched:
        async def heartbeat(self, _lease: Lease, stream_ids: list[UUID]) -> list[UUID]:
            seen.put_nowait(caller.get())
            return stream_ids

    caller.set("a session")
    leases = Leases(Watched(), 30)  # type: ignore[arg-type]
    with leases.hold(a_lease(ms=30), new_id(), leases.now()):
        assert await seen.get() == "none"
    await leases.close()


async def test_a_renewal_without_an_answer_says_so(
    due_steps: PostgresDueSteps, sql: Any, connect_by_sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lease, stream_id, holder = a_lease(ms=300), new_id(), await connect_by_sql()
    await sql("INSERT INTO due_steps VALUES ($1, 'deliver_webhook', now(), $2, 'infinity')", stream_id, lease.owner)
    leases = Leases(due_steps, lease.ms)

    async with holder.transaction():
        await holder.execute("LOCK TABLE due_steps")
        async with asyncio.timeout(30):
            with leases.hold(lease, stream_id):
                while not caplog.messages:
                    await asyncio.sleep(0.01)
    await leases.close()

    assert caplog.messages[0] == "leases not renewed; other workers may take the sessions: no answer"
