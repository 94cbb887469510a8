"""What a 429 speaks of: all sessions, or the one that met it (`Profile.throttle_scope`)."""

from typing import Any

import pytest

from guestledger.adapters.cxone.profile import Profile
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.feedback import ThrottleScope
from guestledger.engine.limits.retry import RetryPolicy
from tests.unit.samples import request

PATIENT = Policy(creation=RetryPolicy(base_ms=0))
RETRY_AFTER_S = 60


async def open_two(ledger: Ledger, simulator: Simulator) -> tuple[Session, Session]:
    """A session that is answered with 429, and the next one, which would not be."""
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=RETRY_AFTER_S)
    throttled = await ledger.open_session(request())
    simulator.config = SimulatorConfig()
    return throttled, await ledger.open_session(request())


@pytest.mark.parametrize("scope", [ThrottleScope.QUOTA, ThrottleScope.AUTO])
async def test_a_throttle_of_the_quota_delays_every_session(
    new_ledger: Any, simulator: Simulator, scope: ThrottleScope
) -> None:
    async with new_ledger(policy=PATIENT, profile=Profile(throttle_scope=scope)) as ledger:
        throttled, other = await open_two(ledger, simulator)
        assert throttled.status is Status.THROTTLED
        assert other.status is not Status.ACTIVE


async def test_a_throttle_of_a_request_delays_only_its_session(new_ledger: Any, simulator: Simulator) -> None:
    async with new_ledger(policy=PATIENT, profile=Profile(throttle_scope=ThrottleScope.REQUEST)) as ledger:
        throttled, other = await open_two(ledger, simulator)
        assert throttled.status is Status.THROTTLED
        assert throttled.retry_at is not None
        assert other.status is Status.ACTIVE

        await ledger.scheduler.run_once()

        assert (await ledger.session(throttled.id)).status is Status.THROTTLED, "never before its own time"
        assert await ledger.limits.states() == {}


@pytest.mark.parametrize("scope", ThrottleScope)
async def test_a_used_up_quota_delays_every_session_whatever_the_scope(
    new_ledger: Any, simulator: Simulator, scope: ThrottleScope
) -> None:
    simulator.config = SimulatorConfig(quota=1, rate_limit_headers=True)
    async with new_ledger(policy=PATIENT, profile=Profile(throttle_scope=scope)) as ledger:
        assert (await ledger.open_session(request())).status is Status.ACTIVE
        [state] = (await ledger.limits.states()).values()
        assert state.closed_by == "quota"


async def test_the_setting_overrides_the_profiles_scope(new_ledger: Any, simulator: Simulator) -> None:
    async with new_ledger(policy=PATIENT, throttle_scope=ThrottleScope.REQUEST) as ledger:
        _, other = await open_two(ledger, simulator)
        assert other.status is Status.ACTIVE
