"""The fenced blocks of the documentation."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
GENERATED = ("cli.md", "settings.md", "events.md")

_FENCE = re.compile(r"```(\w+)?(?: file=(\S+))?")


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """A fenced block. `file` comes from a fence such as ```` ```python file=app.py ````; `section` is the `##` above it."""

    page: str
    section: str
    line: int
    language: str
    file: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """The blocks of a page, in order."""
    opened: tuple[int, str, str | None] | None = None
    lines: list[str] = []
    section = ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
            if opened is None and line.startswith("## "):
                section = line.removeprefix("## ")
        elif opened is None:
            fence = _FENCE.fullmatch(line)
            assert fence, f"{page.name}, line {number}: a fence is ```language or ```language file=NAME"
            opened, lines = (number, fence[1] or "", fence[2]), []
        else:
            start, language, file = opened
            text = "\n".join(lines) + "\n"
            yield Block(page=page.name, section=section, line=start, language=language, file=file, text=text)
            opened = None
    assert opened is None, f"{page.name}: the block of line {opened} is not closed"


def all_blocks(*languages: str) -> list[Block]:
    """The blocks in these languages, of every page."""
    return [block for page in PAGES for block in blocks_of(page) if block.language in languages]


def the_file(page: str, file: str) -> str:
    """The text of the one block of `page` with this `file`."""
    [text] = [block.text for block in blocks_of(ROOT / "docs" / page) if block.file == file]
    return text
