"""The console as a browser without scripts uses it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import urlencode, urljoin, urlsplit

import aiohttp
import yarl

from guestledger.engine.ledger import Ledger
from guestledger.engine.ports.access_keys import Role
from tests.api import GENEROUS, new_key, served


class Page(HTMLParser):
    """The elements of a page, its links and forms, and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._lists: list[str | None] = []
        self.lists: dict[str, list[str]] = {}
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag == "dl":
            self._lists.append(found.get("id"))
        if tag in ("dt", "dd") and self._lists and self._lists[-1]:
            self.lists.setdefault(self._lists[-1], []).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "dl":
            self._lists.pop()

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"
        if self._lists and self._lists[-1] and self.lists.get(self._lists[-1]):
            self.lists[self._lists[-1]][-1] += data.strip()

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each element of this kind."""
        return [attrs for name, attrs in self.elements if name == tag]

    def facts(self, list_id: str) -> dict[str, str]:
        """The terms of a definition list, and what it says of each."""
        found = self.lists.get(list_id, [])
        return dict(zip(found[::2], found[1::2], strict=False))


class Reply(NamedTuple):
    """A response, as it came: redirects are not followed."""

    status: int
    headers: Mapping[str, str]
    text: str
    url: str

    @property
    def page(self) -> Page:
        return Page(self.text)

    @property
    def location(self) -> str:
        return urljoin(self.url, self.headers["Location"])


class Browser:
    """Keeps its cookies, follows no redirect, and runs no script."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url = url
        self._http = http

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        """Open a page."""
        url = urljoin(f"{self.url}/", path.removeprefix("/"))
        async with self._http.get(yarl.URL(url, encoded=True), allow_redirects=False, headers=headers) as answer:
            return Reply(answer.status, answer.headers, (await answer.read()).decode(), url)

    async def post(
        self, path: str, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send a form, as a page of the console does."""
        url = urljoin(f"{self.url}/", path.removeprefix("/"))
        parts = urlsplit(url)
        sent = {
            "Origin": f"{parts.scheme}://{parts.netloc}",
            "Content-Type": "application/x-www-form-urlencoded",
            **(headers or {}),
        }
        sent = {name: value for name, value in sent.items() if value}
        data = urlencode(form or {}).encode()
        async with self._http.post(url, data=data, headers=sent, allow_redirects=False) as answer:
            return Reply(answer.status, answer.headers, (await answer.read()).decode(), url)

    async def sign_in(self, key: str) -> Reply:
        """Sign in."""
        return await self.post("sign-in", {"key": key})


@asynccontextmanager
async def browser_of(url: str) -> AsyncIterator[Browser]:
    """A browser without cookies."""
    jar = aiohttp.CookieJar(unsafe=True)  # 127.0.0.1 is no name
    async with aiohttp.ClientSession(cookie_jar=jar) as http:
        yield Browser(url, http)


@asynccontextmanager
async def console_of(ledger: Ledger, adapter: str = "aiohttp", *, role: Role | None = None) -> AsyncIterator[Browser]:
    """The console of a ledger, and a browser that signed in with a key of this role."""
    async with served(ledger, adapter, GENEROUS) as url, browser_of(url) as browser:
        if role is not None:
            assert (await browser.sign_in(await new_key(ledger, role))).status == 303
        yield browser
