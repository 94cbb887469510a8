"""Every block of the pages is run, or checked as far as it can be."""

import ast
import json
import re
import shutil
import tomllib
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from guestledger import Settings, connect
from tests import postgres
from tests.api import api_of
from tests.docs.blocks import GENERATED, PAGES, ROOT, all_blocks, blocks_of
from tests.docs.scenario import scenario

RUN = ("python", "sh", "console", "sql")
CHECKED = ("json", "toml", "dockerfile", "mermaid", "text")
# Blocks with a file name that no page runs by itself. Each has its own test.
TESTED_APART = {
    "app.py": "test_tutorial.py",
    "fastapi_app.py": "test_frameworks.py",
    "aiohttp_app.py": "test_frameworks.py",
    "chat_service.py": "test_frameworks.py",
    "asgi.py": "test_frameworks.py",
    "views.py": "test_frameworks.py",
    "wsgi_ledger.py": "test_frameworks.py",
    "env_filter.py": "test_frameworks.py",
    "conftest.py": "test_frameworks.py",
    "test_chat.py": "test_frameworks.py",
}
WANTED: dict[str, dict[str, Any]] = {
    "debugging.md": {"throttled": True},
    "operations.md": {"parked": 4},
}
# Pages with a test of their own, which runs all of their blocks.
RUN_APART = {"tutorial.md": "test_tutorial.py", "stories.md": "test_stories.py"}
PAGES_THAT_RUN = [
    page for page in PAGES if page.name not in RUN_APART and any(block.language in RUN for block in blocks_of(page))
]


@pytest.mark.parametrize("page", PAGES_THAT_RUN, ids=lambda page: page.name)
async def test_every_snippet_of_the_page_runs(page: Path, database_url: str, programs: Path, tmp_path: Path) -> None:
    if page.name == "http-api.md" and shutil.which("curl") is None:
        pytest.skip("no curl here: apt-get install curl")
    async with AsyncExitStack() as stack:
        login = privacy = ""
        if page.name == "auditing.md":
            auditor = postgres.new_login(postgres.as_administrator(database_url), "IN ROLE guestledger_auditor")
            login = await stack.enter_async_context(auditor)
            officer = postgres.new_login(postgres.as_administrator(database_url), "IN ROLE guestledger_privacy")
            privacy = await stack.enter_async_context(officer)
        if page.name == "operations.md":
            await _add_an_old_partition(database_url)
        running = await stack.enter_async_context(
            scenario(database_url, tmp_path, programs, login, privacy, **WANTED.get(page.name, {}))
        )
        if page.name == "http-api.md":
            ledger = await stack.enter_async_context(connect(running.settings, scheduler=False))
            running.api = await stack.enter_async_context(api_of(ledger))
        for block in blocks_of(page):
            if login:  # an auditor's commands do not project: a worker does
                await _project_everything(running.settings)
            await running.run(block)


async def _add_an_old_partition(url: str) -> None:
    connection = await asyncpg.connect(postgres.as_administrator(url).replace("+asyncpg", ""))
    await connection.execute("SELECT guestledger.create_partition('2024-05-01')")
    await connection.close()


async def _project_everything(settings: Settings) -> None:
    async with connect(settings, scheduler=False) as ledger:
        await ledger.projections.catch_up()


def test_every_block_is_run_or_checked() -> None:
    languages = {block.language for page in PAGES for block in blocks_of(page)}
    assert languages <= {*RUN, *CHECKED}
    named = {block.file for block in all_blocks("python") if block.file}
    assert named == TESTED_APART.keys()
    for file, test in TESTED_APART.items():
        assert file in (ROOT / "tests" / "docs" / test).read_text()


@pytest.mark.parametrize("block", all_blocks("python"), ids=str)
def test_python_compiles(block: Any) -> None:
    compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert max(map(len, block.text.splitlines())) <= 120


@pytest.mark.parametrize("block", all_blocks("json"), ids=str)
def test_json_is_json(block: Any) -> None:
    if block.file and block.file.endswith(".jsonl"):
        for line in block.text.splitlines():
            json.loads(line)
    else:
        json.loads(block.text)


@pytest.mark.parametrize("block", all_blocks("toml"), ids=str)
def test_toml_is_toml(block: Any) -> None:
    tomllib.loads(block.text)


@pytest.mark.parametrize("block", all_blocks("dockerfile"), ids=str)
def test_dockerfile_has_known_instructions(block: Any) -> None:
    instructions = dict(line.split(maxsplit=1) for line in block.text.splitlines())
    assert instructions.keys() <= {"FROM", "COPY", "RUN", "USER", "CMD"}
    assert json.loads(instructions["CMD"])[:2] == ["guestledger", "worker"]


@pytest.mark.parametrize("block", all_blocks("mermaid"), ids=str)
def test_diagram_has_a_known_kind_and_closed_brackets(block: Any) -> None:
    assert block.text.split()[0] in {"flowchart", "stateDiagram-v2", "sequenceDiagram"}
    for opening, closing in ("()", "[]", "{}"):
        assert block.text.count(opening) == block.text.count(closing)


def test_the_named_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {
        extra
        for page in PAGES
        if page.name not in GENERATED
        for found in re.findall(r"(?:guestledger|/src)\[([\w,]+)\]", page.read_text())
        for extra in found.split(",")
    }
    assert named
    assert named <= project["optional-dependencies"].keys()
