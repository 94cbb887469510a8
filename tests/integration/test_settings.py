"""Settings from the environment, as a ledger uses them."""

from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator
from guestledger.adapters.wiring import connect
from tests.unit.samples import request


async def test_a_url_scheme_in_capitals_is_accepted(ledger_url: str, simulator: Simulator) -> None:
    settings = Settings.from_env(
        {
            "GUESTLEDGER_DATABASE_URL": ledger_url,
            "GUESTLEDGER_CXONE_URL": simulator.url.replace("http", "HTTP"),
            "GUESTLEDGER_CXONE_CLIENT_ID": simulator.client_id,
            "GUESTLEDGER_CXONE_CLIENT_SECRET": simulator.client_secret,
            "GUESTLEDGER_WEBHOOK_URL": simulator.webhook_url.replace("http", "Http"),
            "GUESTLEDGER_WEBHOOK_ALLOW_PRIVATE": "1",
        }
    )

    async with connect(settings, scheduler=False) as ledger:
        session = await ledger.open_session(request())
        assert await ledger.scheduler.run_once() == {"WebhookSynced": 1}

    assert session.status == "active"
