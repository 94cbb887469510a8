"""A ledger with sessions in every kind of state, as a console shows them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.domain.request import GuestConsent, GuestRequest
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import InDoubt, RetryPolicy
from tests.limits import BRISK

CHANNEL = "ch_main"
SUBJECT, ADDRESS, AGENT = "crm-canary-1001", "203.0.113.77", "Canarybrowser/5.0"
GUEST = GuestRequest(
    channel_id=CHANNEL,
    ip_address=ADDRESS,
    user_agent=AGENT,
    timestamp="2024-05-20T14:21:59Z",
    consent=GuestConsent(data_processing=True, gdpr_compliant=True, notice="privacy-2026"),
    subject_id=SUBJECT,
)
IN_A_HURRY = Policy(
    creation=RetryPolicy(base_ms=0, in_doubt=InDoubt.PARK), webhook=DeliveryPolicy(waits_ms=(0,)), limiter=BRISK
)

Sessions = Mapping[str, UUID]


@asynccontextmanager
async def lived_in(env: Mapping[str, str], simulator: Simulator) -> AsyncIterator[tuple[Ledger, Sessions]]:
    """The ledger of these settings, and its sessions by what became of them. Parked ones wait for a person."""
    settings = Settings.from_env(env)
    async with connect(settings, policy=IN_A_HURRY, scheduler=False) as ledger:
        yield ledger, await live(ledger, simulator)


async def live(ledger: Ledger, simulator: Simulator) -> Sessions:
    """Open the sessions."""
    found = {"dead letter": await _dead_letter(ledger, simulator)}
    simulator.config = SimulatorConfig()
    for _ in range(12):
        found["active"] = (await ledger.open_session(GUEST)).id
    await ledger.scheduler.run_once()
    refused = replace(GUEST, consent=GuestConsent(data_processing=True, gdpr_compliant=False, notice="privacy-2026"))
    found["refused"] = (await ledger.open_session(refused)).id
    found["rejected"] = (await ledger.open_session(replace(GUEST, channel_id="ch_unknown_7"))).id
    found["parked"] = await _opened_with(ledger, simulator, SimulatorConfig(drop_share=1))
    found["retried"] = await _retried(ledger, simulator)
    found["throttled"] = await _opened_with(
        ledger, simulator, SimulatorConfig(throttle_share=1, throttle_times=9, retry_after_s=900)
    )
    return found


async def _opened_with(ledger: Ledger, simulator: Simulator, config: SimulatorConfig) -> UUID:
    simulator.config = config
    session = await ledger.open_session(GUEST)
    simulator.config = SimulatorConfig()
    return session.id


async def _dead_letter(ledger: Ledger, simulator: Simulator) -> UUID:
    simulator.config = SimulatorConfig(webhook_status=503)
    session = await ledger.open_session(GUEST)
    for _ in range(3):
        await ledger.scheduler.run_once()
    return session.id


async def _retried(ledger: Ledger, simulator: Simulator) -> UUID:
    """A session that was throttled, then opened."""
    simulator.config = SimulatorConfig(throttle_share=1, retry_after_s=1)
    session: Any = await ledger.open_session(GUEST)
    async with asyncio.timeout(60):
        while session.status != "active":
            await asyncio.sleep(0.2)
            await ledger.scheduler.run_once()
            session = await ledger.session(session.id)
    await ledger.scheduler.run_once()
    simulator.config = SimulatorConfig()
    return UUID(str(session.id))
