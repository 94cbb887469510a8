"""Compare the output that a page shows with real output: words must be equal, values only of the same kind."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

_KINDS = (
    ("ID", re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")),
    ("HASH", re.compile(r"\b[0-9a-f]{64}\b")),
    ("TIME", re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?Z?)?")),
    ("MONTH", re.compile(r"\b\d{4}-\d\d(?:-\d\d)?\b")),
    ("TIME", re.compile(r"\b\d\d:\d\d:\d\d(?:\.\d+)?")),
    ("SESSION", re.compile(r"\bsess_\w+")),
    ("HOST", re.compile(r"\b[\w.-]+:\d+\b|\bapi\.example\.com\b")),
    ("BAR", re.compile("[▏▎▍▌▋▊▉█]+")),
    ("AGO", re.compile(r"\b\d+ (?:s|min|h|days) ago\b")),
    ("LENGTH", re.compile(r"\b(?:\d+ (?:min|h|d)(?: \d+(?:\.\d+)? (?:s|min|h))?|\d+(?:\.\d+)? m?s)\b")),
    ("N", re.compile(r"-?\b\d+(?:\.\d+)?\b")),
)
_REST = "…"


def difference(shown: str, real: str) -> str | None:
    """Where `real` differs from what a page shows; `None`: nowhere. A line `…` stands for any lines, `…` in a line for any text."""
    wanted, found = _lines(shown), _lines(real)
    return None if _matches(wanted, found) else "\n".join(["shown:", *wanted, "real:", *found])


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def _matches(wanted: Sequence[str], found: Sequence[str]) -> bool:
    if not wanted:
        return not found
    first, *rest = wanted
    if first == _REST:
        return any(_matches(rest, found[skipped:]) for skipped in range(len(found) + 1))
    return bool(found) and _same(first, found[0]) and _matches(rest, found[1:])


def _same(wanted: str, found: str) -> bool:
    if wanted.startswith("{"):
        return same_shape(msgspec.json.decode(wanted), msgspec.json.decode(found))
    pattern = ".*".join(map(re.escape, _kinds(wanted).split(_REST)))
    return re.fullmatch(pattern, _kinds(found)) is not None


def _kinds(line: str) -> str:
    for kind, pattern in _KINDS:
        line = pattern.sub(kind, line)
    return line


def same_shape(wanted: Any, found: Any) -> bool:
    """Whether two JSON values have the same keys and kinds. `null` stands for any kind."""
    if wanted is None or found is None:
        return True
    if isinstance(wanted, dict):
        return (
            isinstance(found, dict)
            and wanted.keys() == found.keys()
            and all(same_shape(value, found[name]) for name, value in wanted.items())
        )
    if isinstance(wanted, list):
        return isinstance(found, list) and all(same_shape(wanted[0], value) for value in found if wanted)
    return isinstance(found, type(wanted)) or {type(wanted), type(found)} == {int, float}
