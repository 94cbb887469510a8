"""Settings from the environment, as a ledger uses them."""

import base64
import logging
import re
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from guestledger.adapters import database
from guestledger.adapters.settings import InvalidSettings, Settings
from guestledger.adapters.simulator import Simulator
from guestledger.adapters.wiring import connect
from tests.integration.plain_sql import SCHEMA
from tests.keys import KEY
from tests.unit.samples import request


async def test_a_url_scheme_in_capitals_is_accepted(ledger_url: str, simulator: Simulator) -> None:
    settings = Settings.from_env(
        {
            "GUESTLEDGER_DATABASE_URL": ledger_url,
            "GUESTLEDGER_ENCRYPTION_KEY": KEY,
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


async def test_cxone_without_credentials_is_refused_where_due_steps_run(ledger_url: str) -> None:
    settings = Settings(
        database_url=ledger_url,
        encryption_key=KEY,
        schema=SCHEMA,
        cxone_url="http://127.0.0.1:9",
        cxone_client_id="client",
    )

    with pytest.raises(InvalidSettings, match="GUESTLEDGER_CXONE_CLIENT_SECRET is not set"):
        async with connect(settings):
            pass
    async with connect(settings, scheduler=False) as reader:
        assert [session async for session in reader.sessions()] == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
async def test_a_line_break_at_the_end_of_a_setting_is_dropped(ledger_url: str, end: str) -> None:
    async with Simulator() as simulator:
        secret = "whsec_" + base64.b64encode(b"a key of twenty-four byte").decode()
        settings = Settings.from_env(
            {
                "GUESTLEDGER_DATABASE_URL": ledger_url + end,
                "GUESTLEDGER_ENCRYPTION_KEY": KEY + end,
                "GUESTLEDGER_SCHEMA": SCHEMA + end,
                "GUESTLEDGER_CXONE_URL": simulator.url + end,
                "GUESTLEDGER_CXONE_CLIENT_ID": simulator.client_id + end,
                "GUESTLEDGER_CXONE_CLIENT_SECRET": simulator.client_secret + end,
                "GUESTLEDGER_WEBHOOK_URL": simulator.webhook_url + end,
                "GUESTLEDGER_WEBHOOK_SECRET": secret + end,
                "GUESTLEDGER_WEBHOOK_ALLOW_PRIVATE": "1" + end,
            }
        )
        async with connect(settings, scheduler=False) as ledger:
            assert (await ledger.open_session(request())).status == "active"
            assert await ledger.scheduler.run_once() == {"WebhookSynced": 1}
        sent = simulator.webhooks[0]
        Webhook(secret).verify(sent.body, sent.headers)


def test_only_line_breaks_at_the_end_are_dropped() -> None:
    made = Settings(cxone_url=" https://host/root\n", cxone_client_id="id\n", cxone_client_secret=" s\n t \n")
    assert (made.cxone_url, made.cxone_client_id, made.cxone_client_secret) == ("https://host/root", "id", " s\n t ")
    assert Settings.from_env({"GUESTLEDGER_CXONE_CLIENT_SECRET": "\n"}).cxone_client_secret == ""


async def test_the_embedded_database_is_named_unless_it_was_chosen(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "default_data_dir", lambda _: data_dir)

    await database.locate_database(Settings(data_dir=data_dir))
    assert not caplog.messages
    await database.locate_database(Settings())

    notice = f"GUESTLEDGER_DATABASE_URL is not set: using the embedded PostgreSQL in {data_dir}"
    assert caplog.record_tuples == [("guestledger", logging.WARNING, notice)]


def test_one_data_directory_has_one_place_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "ledger")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names = ("~/ledger", "ledger", str(tmp_path / "link"))
    assert {database.data_dir(Settings(data_dir=Path(name))) for name in names} == {tmp_path / "ledger"}


async def test_a_lost_key_beside_the_data_is_not_made_again(data_dir: Path) -> None:
    settings = Settings(data_dir=data_dir)
    key = data_dir.with_name(f"{data_dir.name}.key")
    async with connect(settings):
        text = key.read_bytes()
    key.unlink()
    with pytest.raises(InvalidSettings, match=re.escape(f"{key} is missing")):
        async with connect(settings, scheduler=False):
            pass
    assert not key.exists()
    key.write_bytes(text)
    key.chmod(0o600)
    async with connect(settings):
        pass
