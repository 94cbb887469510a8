"""A simulator in the host's own process. Apart from `wiring`: nothing else needs an HTTP server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec.structs import replace

from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator, SimulatorConfig


@asynccontextmanager
async def simulated(settings: Settings, config: SimulatorConfig) -> AsyncIterator[Settings]:
    """These settings with a simulated CXone and webhook receiver, which run until the block ends."""
    async with Simulator(config) as simulator:
        yield replace(
            settings,
            cxone_url=simulator.url,
            cxone_client_id=simulator.client_id,
            cxone_client_secret=simulator.client_secret,
            webhook_url=simulator.webhook_url,
            webhook_allow_private=True,
        )
