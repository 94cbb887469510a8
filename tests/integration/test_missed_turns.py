"""Turns: an attempt waits for its own, and one that has missed it asks the limiter again before it is sent."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from guestledger.adapters.simulator import Simulator
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.events import CreationDeferred, CreationFailed, FailureKind
from guestledger.engine.domain.session import Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.admission import AdmissionRequest, Admitted, DenialReason, Denied
from guestledger.engine.limits.feedback import Observation, feedback
from guestledger.engine.limits.retry import RetryAfter, WaitBasis
from guestledger.engine.log.appends import Append, Appended
from guestledger.engine.worker.leases import Leases
from guestledger.engine.worker.steps.create_session import MISSED_S
from tests.unit.samples import request

PAUSE_MS = 600_000


class Turns:
    """The first attempt waits for its turn, and comes `late_s` too late for it. Notes what it asks the limiter."""

    def __init__(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, *, late_s: float) -> None:
        self.asked: list[AdmissionRequest] = []
        self.answers: list[Denied] = []
        self._append, self._create = ledger._adapters.store.append, ledger._adapters.provider.create
        self._admit = ledger._adapters.limiter.admit
        self._late_s, self._ahead = late_s, 0.0
        monkeypatch.setattr(Leases, "now", staticmethod(lambda: asyncio.get_running_loop().time() + self._ahead))
        monkeypatch.setattr(ledger._adapters.store, "append", self.append)
        monkeypatch.setattr(ledger._adapters.provider, "create", self.create)
        monkeypatch.setattr(ledger._adapters.limiter, "admit", self.admit)

    async def append(self, given: Append) -> Appended:
        appended = await self._append(given)
        return replace(appended, wait=timedelta(seconds=0.001)) if given.admission else appended

    async def create(self, *given: Any) -> Any:
        self._ahead = self._late_s
        return await self._create(*given)

    async def admit(self, request: AdmissionRequest) -> Admitted | Denied:
        if not request.reserved:  # for a token, or a look-up
            return await self._admit(request)
        self.asked.append(request)
        return self.answers.pop() if self.answers else await self._admit(request)


async def test_an_attempt_that_missed_its_turn_asks_for_another_one(
    ledger: Ledger, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns(ledger, monkeypatch, late_s=60 * MISSED_S)

    session = await ledger.open_session(request())

    assert (session.status, simulator.counts["session 201"]) == (Status.ACTIVE, 1)
    assert [(asked.early, asked.retry) for asked in turns.asked] == [(True, False)]


async def test_an_attempt_on_time_asks_the_limiter_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns(ledger, monkeypatch, late_s=0.0)
    monkeypatch.setattr(Leases, "now", staticmethod(lambda: 0.0))  # however busy the machine is

    session = await ledger.open_session(request())

    assert (session.status, turns.asked) == (Status.ACTIVE, [])


async def test_an_attempt_that_missed_its_turn_is_not_sent_into_a_pause(
    ledger: Ledger, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns(ledger, monkeypatch, late_s=60 * MISSED_S)
    create, limiter = turns.create, ledger._adapters.provider.creation_limiter

    async def create_in_a_pause(*given: Any) -> Any:
        asked = RetryAfter(ms=PAUSE_MS, basis=WaitBasis.RETRY_AFTER, given="600")
        throttled = feedback(limiter, Observation.THROTTLED, ledger._adapters.clock.now(), asked=asked)
        await ledger._adapters.limiter.observe(throttled)
        return await create(*given)

    monkeypatch.setattr(ledger._adapters.provider, "create", create_in_a_pause)

    session = await ledger.open_session(request())

    assert not simulator.sessions_by_key
    failed, deferred = [
        recorded.event
        for recorded in await ledger.history(session.id)
        if isinstance(recorded.event, CreationFailed | CreationDeferred)
    ]
    assert isinstance(failed, CreationFailed)
    assert isinstance(deferred, CreationDeferred)
    assert (failed.kind, failed.cause, failed.attempt) == (FailureKind.UNSENT, Cause.RATE_LIMITED, 1)
    assert (session.failures, session.in_doubt) == (0, ())


async def test_an_attempt_that_missed_its_turn_goes_when_the_others_have_all_turns(
    ledger: Ledger, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns(ledger, monkeypatch, late_s=60 * MISSED_S)
    turns.answers = [Denied(by=DenialReason.RATE, until=ledger._adapters.clock.now() + timedelta(hours=1))]

    session = await ledger.open_session(request())

    assert (session.status, simulator.counts["session 201"], len(turns.asked)) == (Status.ACTIVE, 1, 1)
