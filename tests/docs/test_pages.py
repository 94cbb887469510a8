"""The pages name only what exists, link only to what exists, and stay readable."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import guestledger
from guestledger import Settings
from guestledger.adapters.cli.main import app
from guestledger.adapters.settings import variable
from guestledger.engine.domain.events import EVENT_TYPES, SessionEvent
from tests.docs import generate
from tests.docs.blocks import PAGES, ROOT, all_blocks
from tests.docs.events import golden, statuses_after
from tests.transitions import LEGAL

README = ROOT / "README.md"
NOT_OURS = ("architecture.md", "guarantees.md")
COMMANDS = typer.main.get_group(app).commands
# Its commands come with the HTTP API.
PAGES_OF_COMMANDS = [page for page in PAGES if page.name != "howto-django.md" or "serve" in COMMANDS]
OURS = [page for page in PAGES if page.name not in NOT_OURS]
# The nested structs of `Profile`, a header, and Python's own.
NOT_EXPORTED = {"TokenFields", "ChannelFields", "SessionFields", "RateLimit", "ValueError"}
# Variables of the tests, of no ledger.
OF_TESTS = {"GUESTLEDGER_TEST_DATABASE_URL", "GUESTLEDGER_TEST_IMAGE"}


@pytest.mark.parametrize("page", generate.PAGES, ids=lambda page: page.name)
def test_generated_page_is_current(page: Path) -> None:
    assert page.read_text() == generate.PAGES[page](), "run `.venv/bin/python -m tests.docs.generate`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else (page.parent / path)
        assert file.exists(), target
        if anchor:
            assert anchor in _anchors(file), target


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_links_to_the_start_page() -> None:
    assert "](docs/index.md)" in README.read_text()


def test_readme_is_short() -> None:
    assert len(README.read_text().split()) <= 800
    [example] = all_blocks("python")[:1]
    assert len([line for line in example.text.splitlines() if line.strip()]) <= 20


@pytest.mark.parametrize("page", PAGES_OF_COMMANDS, ids=lambda page: page.name)
def test_named_commands_exist(page: Path) -> None:
    named = re.findall(r"(?:`|^\$? ?)guestledger ([a-z][a-z-]*)(?: ([a-z]+))?", page.read_text(), re.MULTILINE)
    for name, below in named:
        assert name in COMMANDS, name
        group = getattr(COMMANDS[name], "commands", None)
        if group is not None and below:
            assert below in group, f"{name} {below}"


@pytest.mark.parametrize("page", PAGES_OF_COMMANDS, ids=lambda page: page.name)
def test_named_options_exist(page: Path) -> None:
    options = {
        option for _, command in _leaves() for each in command.params for option in each.opts + each.secondary_opts
    }
    options |= {option for each in typer.main.get_group(app).params for option in each.opts}
    text = "\n".join(line for line in page.read_text().splitlines() if "guestledger " in line and "pip" not in line)
    found = set(re.findall(r"(?<![\w-])--[a-z-]+", text))
    assert found <= options | {"--help", "--config", "--table"}


def _leaves() -> Iterator[tuple[str, Any]]:
    return generate._commands(typer.main.get_group(app), "guestledger")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_variables_exist(page: Path) -> None:
    named = set(re.findall(r"GUESTLEDGER_[A-Z_]*[A-Z]", page.read_text()))
    assert named <= {variable(field) for field in Settings.__struct_fields__} | OF_TESTS


def test_named_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name
        for page in PAGES
        for name in re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", page.read_text(), re.MULTILINE)
        for name in name
        if name
    }
    assert named <= targets


@pytest.mark.parametrize("page", OURS, ids=lambda page: page.name)
def test_named_events_and_exceptions_exist(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(r"`([A-Z][a-z]+[A-Z]\w+)`", text))
    assert named <= {*dir(guestledger), *NOT_EXPORTED}


def test_named_statuses_are_all_statuses() -> None:
    table = (ROOT / "docs" / "debugging.md").read_text().partition("| status | meaning")[2].partition("\n\n")[0]
    named = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert set(named) == {str(status) for status in guestledger.Status} - {"new"}


def test_events_are_all_explained() -> None:
    table = (ROOT / "docs" / "debugging.md").read_text().partition("| event | it says |")[2].partition("\n\n")[0]
    named = {name for row in re.findall(r"^\| (.+?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert named == EVENT_TYPES.keys()


def test_state_diagrams_draw_exactly_the_legal_transitions() -> None:
    drawings = [block for block in all_blocks("mermaid") if block.text.startswith("stateDiagram")]
    assert drawings
    for drawing in drawings:
        drawn = re.findall(r"^ +(\S+) --> ([^\s:]+)", drawing.text, re.MULTILINE)
        ends = {("new" if before == "[*]" else before, after) for before, after in drawn if after != "[*]"}
        assert ends == LEGAL, drawing


def test_events_reference_leads_where_the_state_diagram_does() -> None:
    [drawing] = [block for block in all_blocks("mermaid") if block.text.startswith("stateDiagram")]
    drawn = re.findall(r"--> (\w+): (.+)$", drawing.text, re.MULTILINE)
    moves = {(name, status) for status, label in drawn for name in re.findall(r"[A-Z]\w+", label)}
    events = {name: kind for name, kind in EVENT_TYPES.items() if issubclass(kind, SessionEvent)}
    assert moves == {(name, after) for name, kind in events.items() for after in statuses_after(golden(name, kind))}


def test_glossary_is_sorted_and_says_each_word_once() -> None:
    words = re.findall(r"^\| (.+?) \| ", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)[1:]
    words = [word for word in words if word != "---"]
    assert words == sorted(set(words))


def test_changelog_has_the_current_version_unreleased() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}]" not in text


@pytest.mark.parametrize("page", OURS, ids=lambda page: page.name)
def test_pages_speak_plainly(page: Path) -> None:
    unwanted = r"\b(anew|whoever|whom|lets through|heeds?|hears?|heard|told|is to be|gates?)\b"
    assert not re.findall(unwanted, page.read_text(), re.IGNORECASE)


SOURCE = " ".join(
    " ".join(file.read_text().split()) for folder in ("engine", "adapters") for file in (ROOT / folder).rglob("*.py")
)
TABLES = (
    ("operations.md", "| you see |", r'^\| [^|]*?"([^"]+)"'),
    ("embedding.md", "| trap |", r'"([^"]+)"'),
    ("debugging.md", "| it says |", r"^\| `([^`]+)`"),
)


@pytest.mark.parametrize(("page", "head", "quoted"), TABLES)
def test_quoted_messages_are_those_of_the_code(page: str, head: str, quoted: str) -> None:
    table = (ROOT / "docs" / page).read_text().partition(head)[2].partition("\n\n")[0]
    phrases = re.findall(quoted, table, re.MULTILINE)
    assert phrases
    for phrase in phrases:
        for part in re.split("…|rate limiter: ", phrase):
            assert part.strip(" ,") in SOURCE, phrase
