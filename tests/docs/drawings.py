"""Draws the diagrams of docs/ for the site: `make drawings`.

`python -m tests.docs.drawings mermaid.min.js` needs Chromium. The drawings are committed: `make docs` needs neither.
"""

import re
import sys
from pathlib import Path

from tests.docs.blocks import ROOT, all_blocks
from tests.docs.markdown import DRAWINGS, drawing_name
from tests.screenshots import browser

# Colours that are drawn, and the colours of the site that replace them, so that a drawing follows light and dark.
_COLOURS = {
    "#101010": "var(--md-default-fg-color)",
    "#202020": "var(--md-default-fg-color--light)",
    "#303030": "var(--md-default-fg-color--lighter)",
    "#e0e0e0": "var(--md-code-bg-color)",
    "#f0f0f0": "var(--md-default-bg-color)",
}
_TEXT, _LINE, _BORDER, _BOX, _PAGE = _COLOURS
_SETTINGS = {
    "startOnLoad": False,
    "theme": "base",
    "themeCSS": """
        * { filter: none !important; }
        foreignObject { overflow: visible; }
        .edgeLabel p { background-color: #f0f0f0 !important; box-shadow: 0 0 0 4px #f0f0f0; }
    """,
    "fontFamily": "sans-serif",
    "fontSize": 16,
    "htmlLabels": True,
    "flowchart": {"nodeSpacing": 20, "rankSpacing": 25, "padding": 8, "wrappingWidth": 300},
    "state": {"nodeSpacing": 20, "rankSpacing": 25},
    "deterministicIds": True,
    "handDrawnSeed": 1,
    "themeVariables": {
        "fontFamily": "sans-serif",
        "background": _PAGE,
        "mainBkg": _BOX,
        "primaryColor": _BOX,
        "primaryTextColor": _TEXT,
        "primaryBorderColor": _BORDER,
        "nodeBorder": _BORDER,
        "lineColor": _LINE,
        "textColor": _TEXT,
        "titleColor": _TEXT,
        "clusterBkg": _PAGE,
        "clusterBorder": _BORDER,
        "edgeLabelBackground": _PAGE,
        "labelBackgroundColor": _PAGE,
        "transitionColor": _LINE,
        "transitionLabelColor": _TEXT,
        "stateLabelColor": _TEXT,
        "stateBkg": _BOX,
        "stateBorder": _BORDER,
        "specialStateColor": _LINE,
    },
}
_DRAW = """
const [settings, name, source, done] = arguments;
mermaid.initialize(settings);
mermaid.render(name, source).then(drawn => done(drawn.svg), error => done("failed: " + error));
"""


def draw(mermaid: Path) -> None:
    """Draw every diagram of docs/, and remove the drawings of those that are no more."""
    sources = [block.text for block in all_blocks("mermaid") if block.page != "README.md"]
    DRAWINGS.mkdir(parents=True, exist_ok=True)
    with browser() as driver:
        driver.get("data:text/html,<!doctype html><meta charset=utf-8>")
        driver.execute_cdp_cmd("Runtime.evaluate", {"expression": mermaid.read_text()})
        for source in sources:
            name = drawing_name(source)
            svg = driver.execute_async_script(_DRAW, _SETTINGS, f"drawing-{name.removesuffix('.svg')}", source)
            assert svg.startswith("<svg"), svg
            (DRAWINGS / name).write_text(_in_the_sites_colours(svg) + "\n")
            sys.stdout.write(f"{(DRAWINGS / name).relative_to(ROOT)}\n")
    for file in DRAWINGS.glob("*.svg"):
        if file.name not in map(drawing_name, sources):
            file.unlink()


def _in_the_sites_colours(svg: str) -> str:
    for drawn, colour in _COLOURS.items():
        red, green, blue = (int(drawn[place : place + 2], 16) for place in (1, 3, 5))
        svg = re.sub(rf"{drawn}|rgb\({red}, ?{green}, ?{blue}\)", colour, svg, flags=re.IGNORECASE)
    return svg


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
