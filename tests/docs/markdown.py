"""What the site's Markdown has besides that of its generator: file names above code, and drawn diagrams."""

import hashlib
import re
from typing import Any

from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor
from pymdownx.superfences import SuperFencesException

from tests.docs.blocks import ROOT

DRAWINGS = ROOT / "docs" / "assets" / "drawings"
_FILE = re.compile(r"^```(\w+) file=(\S+)$")


class _FileTitles(Preprocessor):
    """A fence with `file=NAME` shows that name as its title."""

    def run(self, lines: list[str]) -> list[str]:
        return [_FILE.sub(r'```\1 title="\2"', line) for line in lines]


class _Site(Extension):
    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - the library calls it so
        # Before the fences are read, at 25.
        md.preprocessors.register(_FileTitles(md), "file_titles", 26)


def makeExtension(**options: Any) -> Extension:  # noqa: N802 - the library looks for this name
    """Return the extension."""
    return _Site(**options)


def drawing_name(source: str) -> str:
    """The file name of a diagram's drawing: another source is another drawing."""
    return f"{hashlib.sha256(source.strip().encode()).hexdigest()[:12]}.svg"


def drawn(source: str, *_: Any, **__: Any) -> str:
    """The drawing of a `mermaid` fence, as HTML. Raises `SuperFencesException` if it was not drawn."""
    file = DRAWINGS / drawing_name(source)
    if not file.exists():
        # The generator shows the source of a fence after any other exception.
        raise SuperFencesException(f"a diagram has changed, and {file.name} is missing: run `make drawings`")
    return f'<div class="drawing">{file.read_text()}</div>'
