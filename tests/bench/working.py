"""The engine's side of `stepping`: the real ledger, with a provider and a webhook in memory that answer at once.

python -m tests.bench.working URL CONCURRENCY accepted|opened|unprojected|jobs
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any
from unittest import mock

from guestledger.adapters import wiring
from guestledger.adapters.clock import SystemClock
from guestledger.adapters.settings import Settings
from guestledger.engine.domain.commands import BeginAttempt, OpenSession, RecordAttempt, RecordDelivery, RecordLookup
from guestledger.engine.domain.due import due_steps
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.evolve import evolve
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.outcomes import Channel, Created, Delivery
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.request import GuestConsent, GuestRequest
from guestledger.engine.domain.session import Session
from guestledger.engine.ledger import Ledger
from guestledger.engine.log.appends import Append
from guestledger.engine.ports.provider import PreparedCreation
from guestledger.engine.worker.session_work import step_changes
from tests.bench.peers.rounds import answer, at_once
from tests.keys import KEY
from tests.unit.samples import HMAC_KEY

AN_HOUR = timedelta(hours=1)
PATIENCE = 120
"""Seconds for a round: whatever has not ended by then never will."""
CHANNEL = "ch_bench"
REQUEST = GuestRequest(
    channel_id=CHANNEL,
    ip_address="203.0.113.7",
    user_agent="Mozilla/5.0 (X11; Linux x86_64) bench",
    timestamp="2024-05-20T14:21:59Z",
    consent=GuestConsent(data_processing=True, gdpr_compliant=True),
)
PREPARED = PreparedCreation(body=b"{}", request_hmac="0" * 64)
TAKEN = Delivery(accepted=True, status=200, latency_ms=0)

_clock = SystemClock()
new_id = _clock.new_id


def channel() -> Channel:
    return Channel(id=CHANNEL, status="active", protocols=("web_chat",), looked_up_at=_clock.now(), cached=True)


def created(key: str, expires_at: datetime) -> Created:
    return Created(
        session_id=f"sess_{key}", guest_token="gt_7x2k9m4p8q1w", expires_at=expires_at, status="active", latency_ms=0
    )


class ProviderInMemory:
    """A CXone that knows the channel, has a token and makes every session at once."""

    is_ready = True
    creation_limiter = lookup_limiter = "in.memory sessions"

    def known_channel(self, _channel_id: str) -> Channel:
        return channel()

    async def ready(self) -> None:
        """It is."""

    async def look_up_channel(self, _channel_id: str, _again: Callable[[], Awaitable[None]]) -> Channel:
        return channel()

    def prepare(self, _session: Session) -> PreparedCreation:
        return PREPARED

    async def create(
        self, _prepared: PreparedCreation, idempotency_key: str, check: Callable[[], Awaitable[None]]
    ) -> Created:
        await check()
        return created(idempotency_key, _clock.now() + AN_HOUR)


class WebhookInMemory:
    """A receiver that takes every notice at once, and counts them."""

    limiter = "in.memory webhook"

    def __init__(self) -> None:
        self.taken = 0
        self.wanted = 0
        self.all_taken = asyncio.Event()

    def expect(self, notices: int) -> None:
        """Set `all_taken` after so many more."""
        self.wanted = self.taken + notices
        self.all_taken.clear()

    async def send(self, _session: Session) -> Delivery:
        self.taken += 1
        if self.taken == self.wanted:
            self.all_taken.set()
        return TAKEN


@asynccontextmanager
async def ledger_in_memory(url: str) -> AsyncIterator[tuple[Ledger, WebhookInMemory]]:
    """The ledger of the database at `url`, without a scheduler that runs by itself, and what takes its notices."""
    webhook = WebhookInMemory()

    async def provider(*_: object) -> ProviderInMemory:
        return ProviderInMemory()

    async def sender(*_: object) -> WebhookInMemory:
        return webhook

    settings = Settings(
        encryption_key=KEY, database_url=url, cxone_url="http://in.memory", webhook_url="http://in.memory"
    )
    with mock.patch.multiple(wiring, _provider=provider, _webhook=sender):  # the benches after this one have others
        async with wiring.connect(settings, scheduler=False) as ledger:
            yield ledger, webhook


def history(*, delivered: bool, expires_at: datetime) -> Append:
    """The append of a session that was created, whose next step is then due: its webhook, or its expiry once `delivered`."""
    policy, now, state = Policy(), _clock.now(), Session(id=_clock.new_id())
    commands: list[Any] = [
        OpenSession(hmac_key=HMAC_KEY, request=REQUEST, now=now),
        RecordLookup(outcome=channel(), now=now, jitter=0),
        BeginAttempt(request_hmac=PREPARED.request_hmac, now=now),
        RecordAttempt(attempt=1, outcome=created(str(state.id), expires_at), now=now, jitter=0),
    ]
    if delivered:
        commands.append(RecordDelivery(notice=state.notice, outcome=TAKEN, now=now, jitter=0))
    events: list[Event] = []
    for command in commands:
        for event in decide(state, command, policy):
            state = evolve(state, event)
            events.append(event)
    return Append(
        stream_id=state.id,
        expected_version=0,
        events=events,
        steps=step_changes((), due_steps(state, policy)),
        actor="bench",
        causation_id=_clock.new_id(),
        correlation_id=str(state.id),
    )


async def prepare(ledger: Ledger, sessions: int, *, delivered: bool, expires_in: timedelta = AN_HOUR) -> None:
    """Record so many sessions whose next step is due, their projections included."""
    store = ledger._adapters.store

    async def one(_appends: list[float]) -> None:
        await store.append(history(delivered=delivered, expires_at=_clock.now() + expires_in))

    await at_once(one, sessions, 400)
    await ledger.projections.catch_up()


@asynccontextmanager
async def scheduler_at_work(ledger: Ledger) -> AsyncIterator[None]:
    """The scheduler as a worker runs it, projections beside, for as long as the block lasts."""
    running = asyncio.create_task(ledger.scheduler.run_forever())
    try:
        yield
    finally:
        running.cancel()  # nothing is in flight by then; and unlike one that is stopped, it may be started again
        with suppress(asyncio.CancelledError):
            await running


async def settled(ledger: Ledger, webhook: WebhookInMemory) -> None:
    """Wait until every notice was taken, that is recorded, and the projections show it."""
    async with asyncio.timeout(PATIENCE):
        await webhook.all_taken.wait()
        while await ledger.scheduler.unfinished():
            await asyncio.sleep(0.002)
        await ledger.projections.catch_up()


class Work:
    """What is done in a round, for so many sessions or steps."""

    def __init__(self, ledger: Ledger, webhook: WebhookInMemory, concurrency: int) -> None:
        self._ledger = ledger
        self._webhook = webhook
        self._concurrency = concurrency

    async def accepted(self, wanted: int) -> list[float]:
        """Requests are accepted; the scheduler alone takes each session to its end."""
        return await self._sessions(self._ledger.accept, wanted)

    async def opened(self, wanted: int) -> list[float]:
        """Each caller takes his session as far as it is created; the webhook is the scheduler's."""
        return await self._sessions(self._ledger.open_session, wanted)

    async def unprojected(self, wanted: int) -> list[float]:
        """As `accepted`, with nothing projected within the round."""
        read_models = self._ledger._adapters.read_models
        read_models.catch_up = _nothing
        try:
            return await self.accepted(wanted)
        finally:
            del read_models.catch_up

    async def jobs(self, prepared: int) -> list[float]:
        """Sessions whose webhook is due, recorded beforehand: that one step of each."""
        self._webhook.expect(prepared)
        async with scheduler_at_work(self._ledger):
            await settled(self._ledger, self._webhook)
        return []

    async def prepare(self, what: str, wanted: int) -> int:
        """Before a round: what `jobs` then does, and nothing that others left to be projected."""
        if what == "jobs":
            await prepare(self._ledger, wanted, delivered=False)
        await self._ledger.projections.catch_up()
        return wanted

    async def _sessions(self, begin: Callable[[GuestRequest], Awaitable[object]], wanted: int) -> list[float]:
        async def one(_appends: list[float]) -> None:
            await begin(REQUEST)

        self._webhook.expect(wanted)
        async with scheduler_at_work(self._ledger):
            await at_once(one, wanted, self._concurrency)
            await settled(self._ledger, self._webhook)
        return []


async def _nothing() -> int:
    return 0


def main(url: str, concurrency: str, what: str) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        ledger, webhook = runner.run(stack.enter_async_context(ledger_in_memory(url)))
        work = Work(ledger, webhook, int(concurrency))
        one_round = getattr(work, what)
        answer(
            lambda wanted: runner.run(one_round(wanted)),
            prepare=lambda wanted: runner.run(work.prepare(what, wanted)),
        )
        runner.run(stack.aclose())


if __name__ == "__main__":
    main(*sys.argv[1:])
