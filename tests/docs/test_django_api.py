"""docs/howto-django.md: its view opens sessions through the HTTP API."""

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from shlex import quote

import pytest
import typer

from guestledger.adapters.cli.main import app
from tests.docs.blocks import blocks_of, the_file
from tests.docs.scenario import BIN, LIMIT_S, ROOT, Scenario, scenario
from tests.ports import free_port, is_open

PAGE = ROOT / "docs" / "howto-django.md"
PROGRAM = """
from django.conf import settings
settings.configure(ALLOWED_HOSTS=["*"], USE_TZ=True, SESSION_ENGINE="django.contrib.sessions.backends.cache")
from django.contrib.sessions.backends.cache import SessionStore
from django.test import RequestFactory
from views import open_session
form = {"data_processing": "on", "gdpr_compliant": "on", "form_id": "form-1"}
guest, other = SessionStore(), SessionStore()
for session, form in ((guest, form), (guest, form), (other, form), (other, {"form_id": "form-2"})):
    request = RequestFactory().post("/chat", form)
    request.session = session
    if not session.session_key:
        session.create()
    print(open_session(request).content.decode())
"""
pytestmark = pytest.mark.skipif(
    "serve" not in typer.main.get_group(app).commands, reason="the HTTP API is not in this release yet"
)


async def test_django_view_opens_sessions_through_the_api(database_url: str, tmp_path: Path) -> None:
    pytest.importorskip("django")
    async with scenario(database_url, tmp_path) as running:
        (tmp_path / "views.py").write_text(the_file(PAGE.name, "views.py"))
        create, serve = next(block.text.splitlines() for block in blocks_of(PAGE) if block.language == "text")
        [key] = re.findall(r"glk_\S+", await _ended(running, f"{quote(str(BIN))}/{create}"))
        port = free_port()
        async with _serving(running, serve.replace("8080", str(port)), port):
            api = f"CHAT_API_URL=http://127.0.0.1:{port} CHAT_API_KEY={key}"
            (tmp_path / "program.py").write_text(PROGRAM)
            printed = await _ended(running, f"{api} {quote(sys.executable)} program.py")
    first, again, of_another, refused = map(json.loads, printed.splitlines())
    assert first["status"] == "active"
    assert first == again
    assert first["id"] != of_another["id"]
    assert refused["status"] == "refused"


@asynccontextmanager
async def _serving(running: Scenario, command: str, port: int) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_shell(
        f"exec {quote(str(BIN))}/{command}", cwd=running.directory, env=running.environment(command)
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            while not await is_open(port):
                assert process.returncode is None
                await asyncio.sleep(0.05)
        yield
    finally:
        process.terminate()
        await process.wait()


async def _ended(running: Scenario, command: str) -> str:
    process = await asyncio.create_subprocess_shell(
        command, cwd=running.directory, env=running.environment(command), stdout=PIPE, stderr=STDOUT
    )
    async with asyncio.timeout(LIMIT_S):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()
