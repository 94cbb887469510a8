"""The README is held to the code: its diagram, its example, its settings and its commands."""

import asyncio
import re
import sys
from pathlib import Path

import msgspec
import pytest
import typer

from guestledger.adapters.cli.main import app
from guestledger.adapters.settings import PREFIX, Settings
from guestledger.adapters.simulator import Simulator
from guestledger.engine.domain.request import parse_request
from tests.transitions import LEGAL

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found
    return found[1]


def test_the_state_diagram_draws_exactly_the_legal_transitions() -> None:
    drawn = re.findall(r"^ +(\S+) --> (\S+):", block("mermaid"), re.MULTILINE)
    assert {("new" if before == "[*]" else before, after) for before, after in drawn} == LEGAL
    assert len(drawn) == len(LEGAL)


async def test_the_embedding_example_runs_as_it_stands(database_url: str, tmp_path: Path) -> None:
    example = tmp_path / "example.py"
    example.write_text(block("python"))
    async with Simulator() as simulator:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(example),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={
                "GUESTLEDGER_DATABASE_URL": database_url,
                "GUESTLEDGER_CXONE_URL": simulator.url,
                "GUESTLEDGER_CXONE_CLIENT_ID": simulator.client_id,
                "GUESTLEDGER_CXONE_CLIENT_SECRET": simulator.client_secret,
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
        )
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert re.fullmatch(rb"active sess_\w+ .*\n.* verified\n", out)


def test_the_embedding_example_has_at_most_twenty_lines() -> None:
    lines = [line for line in block("python").splitlines() if line.strip()]
    assert len(lines) <= 20


def test_the_sample_request_is_accepted() -> None:
    assert parse_request(block("json").strip().encode()).idempotency_key == "order-4711"


def test_the_table_of_settings_names_every_setting_and_no_other() -> None:
    section = README.partition("\n## Settings\n")[2].partition("\n## ")[0]
    named = re.findall(rf"`{PREFIX}(\w+)`", "".join(re.findall(r"^\|[^|]*\|", section, re.MULTILINE)))
    assert sorted(named) == sorted(name.upper() for name in Settings.__struct_fields__)


@pytest.mark.parametrize("command", sorted({match[1] for match in re.finditer(r"`guestledger ([a-z]+)", README)}))
def test_every_command_the_readme_names_exists(command: str) -> None:
    assert command in typer.main.get_group(app).commands


def test_the_sample_answer_is_json() -> None:
    found = re.search(r"`(\{\"line\".*?\})`", README)
    assert found
    assert msgspec.json.decode(found[1])["error"]["field"] == "channelId"
