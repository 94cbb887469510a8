"""Pauses that no server can mean: they must not close a limiter for years."""

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import WaitBasis
from tests.integration.conftest import AT_ONCE
from tests.scripted import created, reply, scripted_peer
from tests.unit.samples import request

LONGEST = timedelta(milliseconds=LimiterPolicy().max_pause_ms)

Form = Callable[[], str]
FORMS: dict[str, Form] = {
    "Unix time": lambda: str(int(time.time()) + 3_600_000),
    "Unix time in ms": lambda: str(int(time.time() * 1_000) + 3_600_000_000),
    "milliseconds": lambda: "30000000",
    "years": lambda: "99999999999999",
}


async def pause_of(ledger: Ledger, kind: str) -> timedelta:
    """How long the limiter of this kind stays closed."""
    [(now,)] = await ledger.scheduler._due_steps._execute("SELECT clock_timestamp()")
    [limiter] = [state for name, state in (await ledger.limits.states()).items() if name.endswith(kind)]
    assert limiter.closed_until is not None
    return limiter.closed_until - now


async def last_event(ledger: Ledger, session: Session) -> e.Event:
    return (await ledger.history(session.id))[-1].event


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("status", [429, 503])
async def test_impossible_retry_after_ends_no_later_session(new_ledger: Any, form: str, status: int) -> None:
    def answer(_: int) -> bytes:
        return reply(status, b"", f"Retry-After: {FORMS[form]()}")

    async with scripted_peer(sessions=answer) as peer, new_ledger(**peer.settings) as ledger:
        first = await ledger.open_session(request())
        second = await ledger.open_session(request())

        assert await pause_of(ledger, "sessions") <= LONGEST
        assert not first.status.is_settled
        assert second.status is Status.PENDING
        assert peer.counts["sessions"] == 1
        found = await last_event(ledger, first)
        assert isinstance(found, e.CreationThrottled | e.CreationFailed)
        assert found.wait is not None
        assert found.wait.basis is WaitBasis.RETRY_AFTER_CAPPED
        assert found.wait.given
        deferred = await last_event(ledger, second)
        assert isinstance(deferred, e.CreationDeferred)
        assert deferred.closed_by is WaitBasis.RETRY_AFTER_CAPPED


@pytest.mark.parametrize("unit", [1, 1_000])
async def test_retry_after_with_a_unix_time_waits_until_then(new_ledger: Any, unit: int) -> None:
    def answer(_: int) -> bytes:
        return reply(429, b"", f"Retry-After: {int((time.time() + 600) * unit)}")

    async with scripted_peer(sessions=answer) as peer, new_ledger(**peer.settings) as ledger:
        throttled = await last_event(ledger, await ledger.open_session(request()))
        assert isinstance(throttled, e.CreationThrottled)
        assert throttled.wait.basis is WaitBasis.RETRY_AFTER_EPOCH
        assert 0 < throttled.wait.basis_ms <= 600_000
        assert await pause_of(ledger, "sessions") <= timedelta(seconds=600)


@pytest.mark.parametrize("place", ["Retry-After of a 429", "RateLimit of a 201"])
async def test_a_unix_time_delays_later_guests_only_until_then(new_ledger: Any, place: str) -> None:
    def answer(number: int) -> bytes:
        if number > 1:
            return reply(201, created(number))
        soon = int(time.time()) + 3
        if place == "RateLimit of a 201":
            return reply(201, created(number), f'RateLimit: "q";r=0;t={soon}')
        return reply(429, b"", f"Retry-After: {soon}")

    async with scripted_peer(sessions=answer) as peer, new_ledger(**peer.settings) as ledger:
        opened = [await ledger.open_session(request()) for _ in range(3)]
        await ledger.scheduler.run_until_idle()

        assert {(await ledger.session(one.id)).status for one in opened} == {Status.ACTIVE}
        assert peer.counts["sessions"] == (4 if "429" in place else 3)


@pytest.mark.parametrize("form", FORMS)
async def test_impossible_quota_reset_ends_no_later_session(new_ledger: Any, form: str) -> None:
    def answer(number: int) -> bytes:
        return reply(201, created(number), f'RateLimit: "hour";r=0;t={FORMS[form]()}')

    async with scripted_peer(sessions=answer) as peer, new_ledger(**peer.settings) as ledger:
        assert (await ledger.open_session(request())).status is Status.ACTIVE
        second = await ledger.open_session(request())

        assert await pause_of(ledger, "sessions") <= LONGEST
        assert second.status is Status.PENDING
        deferred = await last_event(ledger, second)
        assert isinstance(deferred, e.CreationDeferred)
        assert deferred.closed_by is WaitBasis.QUOTA_CAPPED


@pytest.mark.parametrize("form", FORMS)
async def test_impossible_pause_of_the_token_endpoint_ends_no_session(new_ledger: Any, form: str) -> None:
    def answer(_: int) -> bytes:
        return reply(429, b"", f"Retry-After: {FORMS[form]()}")

    async with scripted_peer(token=answer) as peer, new_ledger(**peer.settings) as ledger:
        for _ in range(2):
            assert (await ledger.open_session(request())).status is Status.PENDING
        assert await pause_of(ledger, "token") <= LONGEST
        assert peer.counts["token"] == 1


async def test_longest_pause_is_a_policy_value(new_ledger: Any) -> None:
    policy = Policy(creation=AT_ONCE.creation, limiter=LimiterPolicy(max_pause_ms=60_000))
    answer = reply(429, b"", "Retry-After: 3600")
    async with scripted_peer(sessions=lambda _: answer) as peer, new_ledger(policy=policy, **peer.settings) as ledger:
        session = await ledger.open_session(request())
        assert await pause_of(ledger, "sessions") <= timedelta(seconds=60)
        assert session.status is Status.THROTTLED


async def test_a_receiver_cannot_close_its_limiter_for_days(new_ledger: Any) -> None:
    # Five minutes in ms.
    answer = reply(429, b"", "Retry-After: 300000")
    async with (
        scripted_peer(hook=lambda _: answer) as peer,
        new_ledger(**peer.settings, webhook_url=f"{peer.url}/hook") as ledger,
    ):
        await ledger.open_session(request())
        await ledger.scheduler.run_until_idle()
        assert await pause_of(ledger, "webhook") <= LONGEST


async def test_doubtful_pause_is_logged_once_with_its_text(new_ledger: Any, caplog: pytest.LogCaptureFixture) -> None:
    given = "1700000000"
    answers = iter([reply(429, b"", f"Retry-After: {given}")] * 2)

    def answer(number: int) -> bytes:
        return next(answers, reply(201, created(number)))

    # That time has passed: there is no wait.
    async with scripted_peer(sessions=answer) as peer, new_ledger(**peer.settings) as ledger:
        await ledger.open_session(request())
        await ledger.scheduler.run_until_idle()
    logged = [record for record in caplog.records if given in record.getMessage()]
    assert [record.levelno for record in logged] == [logging.WARNING]
    assert "a Unix time in place of seconds" in logged[0].getMessage()
