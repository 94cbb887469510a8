"""The token limiter, and requests that are sent again with a new token, across processes."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from guestledger.adapters.http import token_source as auth
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.simulator.api import Reply
from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import RequestDenied, ServiceUnreachable
from guestledger.engine.domain.events import FailureKind
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.admission import AdmissionRequest, DenialReason
from guestledger.engine.limits.feedback import Feedback, Observation
from guestledger.engine.operations.conditions import ConditionName
from guestledger.engine.worker.session_work import SessionWork
from tests.integration.test_check import checked
from tests.integration.test_limits import LONG, all_done, events, policy, two
from tests.unit.samples import request

LONG_REST = SimulatorConfig(token_throttle_times=1, retry_after_s=600)
OPEN_NOW = "UPDATE limits SET closed_until = now(), next_reservation = now(), next_admission = now()"


def asked_for_tokens(simulator: Simulator) -> list[float]:
    """When each request for a token came, in Unix seconds."""
    return [sent.time for sent in simulator.requests if sent.path == "/oauth/token"]


def forget_token(ledger: Ledger) -> None:
    tokens = ledger._adapters.provider._tokens  # type: ignore[attr-defined]
    tokens.invalidate(tokens._token)


async def deferral(ledger: Ledger, session: Session) -> e.CreationDeferred:
    deferred = (await events(ledger, session))[-1]
    assert isinstance(deferred, e.CreationDeferred)
    return deferred


# Tokens


@pytest.mark.parametrize(
    ("config", "counted"),
    [(LONG_REST, "token 429"), (SimulatorConfig(token_errors=1, error_retry_after="600"), "token 503")],
    ids=["429", "503"],
)
async def test_a_throttled_token_request_blocks_running_and_new_processes(
    new_ledger: Any, simulator: Simulator, sql: Any, config: SimulatorConfig, counted: str
) -> None:
    simulator.config = config
    async with two(new_ledger, policy()) as (one, other):
        waiting = [await ledger.open_session(request()) for ledger in (one, other, one)]
    async with new_ledger(policy=policy()) as later:
        waiting.append(await later.open_session(request()))
        accepted = await later.accept(request())
        await later.scheduler.run_once()
        waiting.append(await later.session(accepted.id))

        assert simulator.counts == {counted: 1}
        ((name, until),) = await sql("SELECT name, closed_until FROM limits")
        assert name.endswith(" token")
        for session in waiting:
            assert (session.status, session.attempts, session.retry_at) == (Status.PENDING, 0, until)
            deferred = await deferral(later, session)
            assert (deferred.limiter, deferred.denied_by) == (name, DenialReason.CLOSED)
            why = await later.why(session.id)
            assert why.moves_at == until
            [condition] = why.steps[0].unmet
            assert (condition.name, condition.cause, condition.until) == (
                ConditionName.DUE_TIME,
                Cause.RATE_LIMITED,
                until,
            )
        with pytest.raises(RequestDenied) as denial:
            await later.checks.provider()
        assert (denial.value.limiter, denial.value.denied.until) == (name, until)
        assert list(await later.limits.states()) == [name]


async def test_a_token_is_requested_again_after_retry_after_and_sessions_become_active(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "MAX_WAIT_S", 0)
    simulator.config = SimulatorConfig(token_throttle_times=1, retry_after_s=1)
    async with two(new_ledger, policy()) as (one, other):
        opened = [await ledger.open_session(request()) for ledger in (one, other)]
        opened += [await ledger.accept(request()) for ledger in (one, other) for _ in range(10)]
        assert simulator.counts == {"token 429": 1}

        await all_done(one, other)

        for session in opened:
            assert (await one.session(session.id)).status is Status.ACTIVE
        first, second = asked_for_tokens(simulator)[:2]
        assert second >= first + 1
        assert simulator.counts["token 429"] == 1
        assert simulator.counts["token 200"] <= 2, "one for each process that had something to do"


async def test_a_short_retry_after_for_a_token_is_waited_out_within_open_session(
    new_ledger: Any, simulator: Simulator
) -> None:
    simulator.config = SimulatorConfig(token_throttle_times=1, retry_after_s=1)
    async with new_ledger(policy=policy()) as ledger, asyncio.timeout(LONG):
        assert (await ledger.open_session(request())).status is Status.ACTIVE
    first, second = asked_for_tokens(simulator)
    assert second >= first + 1


async def test_the_token_limiter_is_asked_once_per_token_request(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=policy()) as ledger:
        admit, asked = ledger.limits._limiter.admit, []

        async def admit_and_note(admission: AdmissionRequest, *rest: Any) -> Any:
            asked.append(admission.limiter)
            return await admit(admission, *rest)

        monkeypatch.setattr(ledger.limits._limiter, "admit", admit_and_note)
        opened = await asyncio.gather(*(ledger.open_session(request()) for _ in range(20)))

        assert {session.status for session in opened} == {Status.ACTIVE}
        assert len([limiter for limiter in asked if limiter.endswith(" token")]) == simulator.counts["token 200"] == 1


async def test_a_closed_token_limiter_defers_an_attempt_before_it_is_recorded(
    new_ledger: Any, simulator: Simulator
) -> None:
    async with new_ledger(policy=policy()) as ledger:
        await ledger.open_session(request())
        forget_token(ledger)
        simulator.config = LONG_REST
        session = await ledger.open_session(request())

        assert (await deferral(ledger, session)).limiter.endswith(" token")
        assert [type(event) for event in await events(ledger, session)] == [
            e.ConsentRecorded,
            e.ChannelValidated,
            e.CreationDeferred,
        ]
        assert len(simulator.sessions_by_key) == 1


async def test_an_attempt_that_gets_no_new_token_after_a_401_is_deferred(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=policy()) as ledger, asyncio.timeout(LONG):
        await ledger.open_session(request())
        simulator.revoke_tokens()
        simulator.config = LONG_REST
        session = await ledger.open_session(request())

        failed, deferred = (await events(ledger, session))[-2:]
        assert isinstance(failed, e.CreationFailed)
        assert (failed.kind, failed.cause) == (FailureKind.UNAVAILABLE, Cause.TOKEN_REFUSED)
        assert isinstance(deferred, e.CreationDeferred)
        assert deferred.limiter.endswith(" token")
        assert session.retry_at == deferred.retry_at
        assert simulator.counts["session 401"] == 1

        await sql(OPEN_NOW)
        await sql("UPDATE due_steps SET due_at = now()")
        monkeypatch.setattr(SessionWork, "now", lambda _work, _clock: deferred.retry_at)
        await ledger.scheduler.run_once()
        assert (await ledger.session(session.id)).status is Status.ACTIVE


async def test_a_failing_token_endpoint_opens_no_breaker(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "FIRST_PAUSE_S", 0)
    simulator.config = SimulatorConfig(token_errors=1_000)
    async with new_ledger(policy=policy()) as ledger:
        for _ in range(5):
            with pytest.raises(ServiceUnreachable):
                await ledger.open_session(request())
        assert simulator.counts["token 503"] == 15
        assert await ledger.limits.states() == {}


async def test_an_unrecorded_token_429_is_recorded_before_the_next_token_request(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = LONG_REST
    async with new_ledger(policy=policy()) as ledger:
        observe = ledger.limits._limiter.observe

        async def away(_feedback: Feedback) -> None:
            raise ServiceUnreachable("database", Cause.CONNECTION_REFUSED)

        monkeypatch.setattr(ledger.limits._limiter, "observe", away)
        with pytest.raises(ServiceUnreachable, match="database"):
            await ledger.open_session(request())
        monkeypatch.setattr(ledger.limits._limiter, "observe", observe)

        session = await ledger.open_session(request())

        assert (await deferral(ledger, session)).limiter.endswith(" token")
        assert simulator.counts == {"token 429": 1}


# Second sendings


async def test_a_creation_refused_with_401_is_not_resent_after_the_limiter_closes(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(new_ledger, policy(base_ms=1_000)) as (one, other):
        monkeypatch.setattr(one._adapters.clock, "jitter", lambda: 0.5)  # its own backoff is not what it waits for
        await asyncio.gather(one.open_session(request()), other.open_session(request()))
        simulator.revoke_tokens()
        forget_token(other)
        await other.checks.provider()
        continues = asyncio.Event()
        tokens = one._adapters.provider._tokens  # type: ignore[attr-defined]
        whole = tokens._fetch

        async def slow() -> str:
            await continues.wait()
            return str(await whole())

        monkeypatch.setattr(tokens, "_fetch", slow)
        opening = asyncio.create_task(one.open_session(request()))
        while not simulator.counts["session 401"]:
            await asyncio.sleep(0.01)
        simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=600)
        throttled = await other.open_session(request())
        simulator.config = SimulatorConfig()
        continues.set()

        session = await opening

        assert str(session.id) not in simulator.sessions_by_key
        assert simulator.counts["session 401"] == simulator.counts["session 429"] == 1
        failed, deferred = (await events(one, session))[-2:]
        assert isinstance(failed, e.CreationFailed)
        assert (failed.kind, failed.cause) == (FailureKind.UNAVAILABLE, Cause.TOKEN_REFUSED)
        assert isinstance(deferred, e.CreationDeferred)
        ((name, until),) = await sql("SELECT name, closed_until FROM limits")
        assert (deferred.limiter, deferred.denied_by, deferred.retry_at) == (name, DenialReason.CLOSED, until)
        assert (session.status, session.in_doubt, session.retry_at) == (Status.PENDING, (), until)
        assert (await one.session(throttled.id)).status is Status.THROTTLED
        assert (await checked(one)).groups == {}


@pytest.mark.parametrize(("name", "refused"), [("/sessions", 1), ("/channels/", 0)])
async def test_a_401_with_an_exhausted_quota_closes_the_limiter_and_is_not_resent(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch, name: str, refused: int
) -> None:
    exhausted = Reply(401, b"{}", (("RateLimit", '"default";r=0;t=600'),))
    async with two(new_ledger, policy()) as (one, other):
        if refused:
            await one.open_session(request())  # so that it has the channel cached
        await asyncio.gather(one.checks.provider(), other.checks.provider())
        api = simulator._api
        whole = api._refusal
        monkeypatch.setattr(api, "_refusal", lambda *_: exhausted)
        session = await one.open_session(request())
        monkeypatch.setattr(api, "_refusal", whole)

        assert [sent.status for sent in simulator.requests if name in sent.path][refused:] == [401]
        assert (session.status, session.attempts, session.in_doubt) == (Status.PENDING, refused, ())
        limiters = await sql("SELECT name, failures, closed_until - now() AS left FROM limits")
        ((limiter, failures, left),) = limiters
        assert limiter.endswith(" sessions" if refused else " channels")
        assert (failures, left > timedelta(seconds=500)) == (0, True)
        assert (await other.open_session(request())).status is Status.PENDING
        assert [sent.status for sent in simulator.requests if name in sent.path][refused:] == [401]


async def test_a_lookup_refused_with_401_is_not_resent_after_the_limiter_closes(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(new_ledger, policy()) as (one, other):
        await one.checks.provider()
        simulator.revoke_tokens()
        limiter, whole = one._adapters.provider.lookup_limiter, one._adapters.provider._tokens._fetch  # type: ignore[attr-defined]

        async def fetch() -> str:
            token = str(await whole())
            admitted = await other.limits._limiter.admit(AdmissionRequest(limiter=limiter, retry=False, reserved=False))
            throttled = Feedback(
                limiter=limiter, observation=Observation.THROTTLED, began_at=admitted.at, closed_ms=600_000
            )
            await other.limits._limiter.observe(throttled)
            return token

        monkeypatch.setattr(one._adapters.provider._tokens, "_fetch", fetch)  # type: ignore[attr-defined]

        session = await one.open_session(request())

        assert (simulator.counts["channel 401"], simulator.counts["channel 200"]) == (1, 0)
        deferred = await deferral(one, session)
        assert (deferred.limiter, deferred.denied_by) == (limiter, DenialReason.CLOSED)
