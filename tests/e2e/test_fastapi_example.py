"""examples/fastapi_app.py: its own pool and migrations beside the ledger, and the API mounted in it."""

import asyncio
import importlib.util
import os
import sys
from secrets import token_urlsafe
from types import ModuleType
from typing import Any

import aiohttp
import asyncpg
import pytest

from guestledger import Role, Settings, connect
from guestledger.adapters.simulator import Simulator
from tests.api import new_key, uvicorn_of
from tests.console import browser_of
from tests.e2e.command import ROOT, environment
from tests.postgres import as_administrator

CONSENT = {"timestamp": "2024-05-20T14:21:59Z", "consent": {"dataProcessing": True, "gdprCompliant": True}}


async def test_the_example_opens_sessions_and_shows_them_by_the_mounted_api(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Simulator() as simulator:
        settings = environment(database_url, simulator)
        for name, value in {**settings, "SHOP_DATABASE_URL": as_administrator(database_url)}.items():
            monkeypatch.setenv(name, value)
        await _migrated()
        async with connect(Settings.from_env(), scheduler=False) as ledger:
            key = await new_key(ledger, Role.AUDITOR)
        async with uvicorn_of(_example().app, lifespan="on") as url, _shopper() as http, _shopper() as another:
            first = await _json(http.post(f"{url}/orders/17/chat", json=CONSENT))
            again = await _json(http.post(f"{url}/orders/17/chat", json=CONSENT))
            of_another = await _json(another.post(f"{url}/orders/17/chat", json=CONSENT))
            wrong = await http.post(f"{url}/orders/18/chat", json={**CONSENT, "timestamp": "yesterday"})
            headers = {"Authorization": f"Bearer {key}"}
            shown = await _json(http.get(f"{url}/ledger/v1/sessions/{first['id']}", headers=headers))
            document = await _json(http.get(f"{url}/ledger/v1/openapi.json", headers=headers))
            refused = await http.get(f"{url}/ledger/v1/sessions")
            async with browser_of(f"{url}/ledger") as browser:
                entered = await browser.sign_in(key)
                overview = await browser.get("")
                session = await browser.get(f"sessions/{first['id']}")
        assert (first["status"], again["id"], wrong.status) == ("active", first["id"], 422)
        assert first["token"]
        assert of_another["id"] != first["id"]
        assert (shown["id"], shown["status"]) == (first["id"], "active")
        assert document["servers"] == [{"url": "/ledger"}]
        assert refused.status == 401
        assert "Path=/ledger;" in entered.headers["Set-Cookie"]
        assert entered.location == f"{url}/ledger/sign-in?done=true"
        assert (overview.status, session.status) == (200, 200)
        assert 'href="../console.css"' in session.text
        assert [tuple(row.values()) for row in await _chats(database_url)] == [("17", first["id"])]


def _shopper() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(cookies={"shopper": token_urlsafe()}, cookie_jar=aiohttp.CookieJar(unsafe=True))


async def _json(sending: Any) -> Any:
    async with sending as answer:
        return await answer.json()


async def _migrated() -> None:
    """Run the example's migrations as its reader would."""
    for words in ("upgrade head", "check"):
        command = (sys.executable, "-m", "alembic", "-c", "examples/alembic.ini", *words.split())
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=dict(os.environ))
        assert await process.wait() == 0, words


async def _chats(url: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(as_administrator(url).replace("+asyncpg", ""))
    try:
        found: list[asyncpg.Record] = await connection.fetch("SELECT number, session::text FROM public.chats")
        return found
    finally:
        await connection.close()


def _example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fastapi_example", ROOT / "examples" / "fastapi_app.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
