"""The recipes that are files: each runs in its framework, on a real ledger."""

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
from aiohttp.test_utils import TestClient, TestServer
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, Integer, MetaData, Table
from sqlalchemy.ext.asyncio import create_async_engine

from tests.docs.asgi import Asgi
from tests.docs.blocks import the_file
from tests.docs.scenario import Scenario, scenario

PATH = "/chat-sessions"
BODY = {"timestamp": "2024-05-20T14:21:59Z", "dataProcessing": True, "gdprCompliant": True}
GUEST = {
    "channelId": "ch_8f3a9b2c",
    "ipAddress": "203.0.113.7",
    "userAgent": "Mozilla/5.0",
    "timestamp": "2024-05-20T14:21:59Z",
    "consent": {"dataProcessing": True, "gdprCompliant": True},
}


@pytest.fixture
async def running(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scenario]:
    """A ledger and a simulator; the settings are in the environment, and the page's directory can be imported from."""
    async with scenario(database_url, tmp_path) as made:
        for name, value in made.environment("").items():
            if name.startswith("GUESTLEDGER_"):
                monkeypatch.setenv(name, value)
        monkeypatch.syspath_prepend(str(tmp_path))
        yield made


@pytest.fixture
def load(running: Scenario) -> Iterator[Any]:
    """`load(file)`: import a file of docs/embedding.md, or of another page, as a module."""
    loaded: list[str] = []

    def load(file: str, page: str = "embedding.md") -> ModuleType:
        path = running.directory / file
        path.write_text(the_file(page, file))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        loaded.append(path.stem)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in loaded:
        del sys.modules[name]


async def test_fastapi_recipe(load: Any) -> None:
    pytest.importorskip("fastapi")
    async with Asgi(load("fastapi_app.py").app) as app:
        status, opened = await app.post(PATH, BODY, cookie="visitor=a", idempotency_key="1")
        assert (status, opened["status"]) == (200, "active")
        assert opened["token"]
        assert await app.post(PATH, BODY, cookie="visitor=a", idempotency_key="1") == (200, opened)
        _, of_another = await app.post(PATH, BODY, cookie="visitor=b", idempotency_key="1")
        assert of_another["id"] != opened["id"]
        _, refused = await app.post(PATH, {**BODY, "gdprCompliant": "true"}, cookie="visitor=a", idempotency_key="2")
        assert refused["status"] == "refused"
        status, invalid = await app.post(
            PATH, {**BODY, "timestamp": "yesterday"}, cookie="visitor=a", idempotency_key="3"
        )
        assert (status, invalid["field"]) == (422, "timestamp")


async def test_aiohttp_recipe(load: Any) -> None:
    async with TestClient(TestServer(load("aiohttp_app.py").app)) as client:
        answer = await client.post(PATH, json=GUEST)
        assert (await answer.json())["status"] == "active"


async def test_aiohttp_service(load: Any) -> None:
    application = load("chat_service.py", "howto-aiohttp.md").application([])
    async with TestClient(TestServer(application)) as client:
        opened = await client.post(PATH, data=the_file("howto-aiohttp.md", "guest-request.json"))
        assert (await opened.json())["status"] == "active"
        again = await client.get(f"{PATH}/{(await opened.json())['id']}")
        assert (await again.json())["token"] == (await opened.json())["token"]
        assert [(await client.get(f"{PATH}/{id_}")).status for id_ in ("x", uuid4())] == [404, 404]
        invalid = await client.post(PATH, json={**GUEST, "channelId": 1})
        assert (invalid.status, (await invalid.json())["field"]) == (422, "channelId")
        assert (await client.get("/ready")).status == 200


async def test_django_recipe(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("django")
    urls = ModuleType("docs_urls")
    monkeypatch.setitem(sys.modules, "docs_urls", urls)
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "docs_django_settings")
    settings = ModuleType("docs_django_settings")
    settings.__dict__.update(ROOT_URLCONF="docs_urls", ALLOWED_HOSTS=["*"], SECRET_KEY="x" * 50, USE_TZ=True)
    monkeypatch.setitem(sys.modules, "docs_django_settings", settings)

    from django.urls import path  # noqa: PLC0415 - it reads the settings

    asgi, views = load("asgi.py"), load("views.py")
    urls.__dict__["urlpatterns"] = [path(PATH.lstrip("/"), views.open_session)]
    async with Asgi(asgi.application) as app:
        status, opened = await app.post(PATH, GUEST)
    assert (status, opened["status"]) == (200, "active")


async def test_django_recipe_reports_a_failed_start(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("django")
    monkeypatch.setenv("GUESTLEDGER_SCHEMA", "not_made")
    asgi = load("asgi.py")
    with pytest.raises(AssertionError, match=r"lifespan\.startup\.failed"):
        async with Asgi(asgi.application):
            pass


async def test_wsgi_recipe(running: Scenario) -> None:
    (running.directory / "wsgi_ledger.py").write_text(the_file("embedding.md", "wsgi_ledger.py"))
    program = (
        "from guestledger import parse_request; from wsgi_ledger import ledger, open_session;"
        f"print(open_session(parse_request({json.dumps(GUEST).encode()!r})).status, ledger.scheduler.runs)"
    )
    code, out = await _ended(running, sys.executable, "-c", program)
    assert (code, out.strip()) == (0, "active False")


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory like /tmp, which the test must leave empty. As root, the server runs as another user, who enters it."""
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)
        assert not [*Path(directory).iterdir()]


async def test_pytest_recipe(running: Scenario, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("conftest.py", "test_chat.py"):
        (running.directory / file).write_text(the_file("embedding.md", file))
    (running.directory / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    for name in [name for name in os.environ if name.startswith("GUESTLEDGER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TMPDIR", str(temporary))
    code, out = await _ended(running, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert code == 0, out
    assert "1 passed" in out


async def test_alembic_filter_hides_the_ledger(running: Scenario) -> None:
    names: dict[str, Any] = {}
    exec(the_file("embedding.md", "env_filter.py"), names)
    of_the_host = MetaData()
    Table("orders", of_the_host, Column("id", Integer, primary_key=True))

    def differences(connection: Connection, /, **options: Any) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"include_schemas": True, **options})
        return list(compare_metadata(context, of_the_host))

    engine = create_async_engine(running.url)
    async with engine.connect() as connection:
        trap = await connection.run_sync(differences)
        filtered = await connection.run_sync(lambda given: differences(given, include_name=names["include_name"]))
    await engine.dispose()
    assert "remove_table" in {difference[0] for difference in trap}
    assert [difference[0] for difference in filtered] == ["add_table"]


async def _ended(running: Scenario, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *arguments, cwd=running.directory, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(120):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()
