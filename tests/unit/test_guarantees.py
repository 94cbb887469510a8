"""`docs/guarantees.md` names the tests that show each promise, each by its exact name."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
HEADER = ["promise", "shown by", "cost"]
NAME = re.compile(r"`(test_[a-z0-9_]+)`")
FILLERS = {"a", "an", "the", "its", "their", "of", "is", "are", "was", "were"}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def _rows() -> list[list[str]]:
    """The promises: every row of a table, without headers."""
    lines = [line for line in PAGE.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [cells for line in lines if (cells := _cells(line)) != HEADER]


def _bare(name: str) -> tuple[str, ...]:
    """A name without what two spellings of it may differ in: filler words, plurals, order."""
    return tuple(sorted(word.rstrip("s") for word in name.lower().split("_") if word not in FILLERS))


def test_every_test_named_in_the_guarantees_exists_once() -> None:
    named = set(NAME.findall(PAGE))
    written = Counter(
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", file.read_text())
    )

    assert len(named) > 40
    assert {name: written[name] for name in named if written[name] != 1} == {}


def test_every_test_named_on_the_privacy_page_exists_once() -> None:
    page = (ROOT / "docs" / "privacy.md").read_text()
    sources = [file.read_text() for file in (ROOT / "tests").rglob("test_*.py")]
    written = Counter(name for source in sources for name in re.findall(r"def (test_\w+)\(", source))
    named = set(NAME.findall(page))
    assert len(named) > 20
    assert {name: written[name] for name in named if written[name] != 1} == {}


def test_every_guarantee_names_a_test() -> None:
    rows = _rows()

    assert len(rows) > 40
    assert [row for row in rows if len(row) != len(HEADER) or not all(row)] == []
    assert [promise for promise, shown_by, _cost in rows if not NAME.search(shown_by)] == []


def test_every_guarantee_is_given_once() -> None:
    promises = Counter(promise for promise, *_ in _rows())

    assert [promise for promise, times in promises.items() if times > 1] == []


def test_a_test_is_named_once_per_guarantee_and_in_one_spelling() -> None:
    spellings: dict[tuple[str, ...], set[str]] = {}
    for name in NAME.findall(PAGE):
        spellings.setdefault(_bare(name), set()).add(name)
    repeated = [row for row in _rows() if len(names := NAME.findall(row[1])) != len(set(names))]

    assert [names for names in spellings.values() if len(names) > 1] == []
    assert repeated == []


def test_tests_are_named_in_no_other_form() -> None:
    """A name in another form would not be checked: without backticks, in capitals, with a path or brackets."""
    assert re.findall(r"\S*\btest[_:]\S*", NAME.sub("", PAGE), re.IGNORECASE) == []
