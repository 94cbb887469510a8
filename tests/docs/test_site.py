"""The site: it builds without a warning, needs nothing from elsewhere, and every link in it leads somewhere."""

import re
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from selenium.common.exceptions import NoSuchShadowRootException, WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.remote.shadowroot import ShadowRoot
from selenium.webdriver.support.ui import WebDriverWait

from tests.docs.blocks import ROOT, all_blocks
from tests.docs.generate import SITE, build_site
from tests.docs.markdown import DRAWINGS, drawing_name
from tests.docs.scenario import LIMIT_S
from tests.screenshots import PHONE, browser, needs_chromium

CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
# By element, the attributes that make a browser load something.
LOADS = {
    "audio": ("src",), "embed": ("src",), "iframe": ("src",), "image": ("href", "xlink:href"), "img": ("src", "srcset"),
    "link": ("href",), "object": ("data",), "script": ("src",), "source": ("src", "srcset"), "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}  # fmt: skip


class Page(HTMLParser):
    """What a page loads, where it links, and its anchors."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in LOADS.get(tag, ()):
                self.loads.append(value or "")
            elif tag == "a" and name == "href":
                self.links.append(value or "")
            elif name == "id":
                self.anchors.add(value or "")


@pytest.fixture(scope="module")
def site() -> dict[Path, Page]:
    built = build_site()
    assert built.returncode == 0, built.stdout
    return {file: Page(file) for file in SITE.rglob("*.html")}


def test_every_page_is_built_and_in_the_navigation(site: dict[Path, Page]) -> None:
    written = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert sorted(_navigation(CONFIG["nav"])) == sorted(written)
    assert written == {file.with_suffix(".md").name for file in site if file.name != "404.html"}


def _navigation(entries: list[dict[str, object]]) -> Iterator[str]:
    for entry in entries:
        for below in entry.values():
            if isinstance(below, str):
                yield below
            else:
                assert isinstance(below, list)
                yield from _navigation(below)


def test_pages_load_nothing_from_elsewhere(site: dict[Path, Page]) -> None:
    for file, page in site.items():
        assert page.loads
        for target in page.loads:
            assert _file(file, target).is_file(), f"{file.name}: {target}"


def test_styles_load_nothing_from_elsewhere(site: dict[Path, Page]) -> None:
    texts = {file: file.read_text() for file in [*site, *SITE.rglob("*.css"), *SITE.rglob("*.svg")]}
    assert any(file.suffix == ".css" for file in texts)
    for file, text in texts.items():
        found = re.findall(r"""(?:url\(\s*["']?|@import\s+["']?)(?!data:|#)([^"')\s]+)""", text)
        for target in found:
            assert _file(file, target).is_file(), f"{file.name}: {target}"


def test_links_and_anchors_of_the_site_exist(site: dict[Path, Page]) -> None:
    for file, page in site.items():
        for link in page.links:
            if urlsplit(link).scheme in {"https", "mailto"}:
                continue
            found = _file(file, link)
            assert found.is_file(), f"{file.name}: {link}"
            anchor = unquote(urlsplit(link).fragment)
            assert not anchor or anchor in site[found].anchors, f"{file.name}: {link}"


def _file(page: Path, target: str) -> Path:
    """The file that a page means by `target`. Another host's is none."""
    parts = urlsplit(target)
    assert not parts.netloc, f"{page.name}: {target}"
    assert not parts.scheme, f"{page.name}: {target}"
    # 404.html is for servers: its paths begin at the root.
    start = SITE if parts.path.startswith("/") else page.parent
    return (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else page


def test_every_diagram_is_drawn_and_no_other() -> None:
    wanted = {drawing_name(block.text) for block in all_blocks("mermaid") if block.page != "README.md"}
    assert {file.name for file in DRAWINGS.iterdir()} == wanted, "run `make drawings`"


@needs_chromium
def test_search_finds_an_event_without_a_server(site: dict[Path, Page]) -> None:
    with browser() as driver:
        driver.get((SITE / "index.html").as_uri())
        wait = WebDriverWait(driver, LIMIT_S, ignored_exceptions=[WebDriverException])
        wait.until(lambda _: _asked(driver, "WebhookRedeliveryRequested"))
        wait.until(lambda _: any(link.endswith("#webhookredeliveryrequested") for link in _found(driver)))
        assert not driver.get_log("browser")


def _asked(driver: Chrome, text: str) -> bool:
    try:
        _search(driver).find_element("css selector", "input").send_keys(text)
    except NoSuchShadowRootException:  # it is not open yet
        driver.find_element("class name", "md-search__button").click()
        return False
    return True


def _found(driver: Chrome) -> list[str]:
    return [link.get_attribute("href") or "" for link in _search(driver).find_elements("css selector", "a")]


def _search(driver: Chrome) -> ShadowRoot:
    return driver.switch_to.active_element.shadow_root


@needs_chromium
def test_no_page_is_wider_than_a_phone(site: dict[Path, Page]) -> None:
    with browser(PHONE) as driver:
        for file in site.keys() - {SITE / "404.html"}:
            driver.get(file.as_uri())
            assert driver.execute_script("return document.documentElement.scrollWidth") <= PHONE, file.name
            assert not driver.get_log("browser"), file.name
