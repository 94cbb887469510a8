"""The HTTP under the client: one pool of connections, one request and its answer at a time."""

from collections.abc import Mapping
from io import BytesIO
from math import inf

import aiohttp
from yarl import URL

from guestledger.adapters.cxone.answers import WIRE_ERRORS, Answer
from guestledger.adapters.cxone.profile import Profile
from guestledger.adapters.http.rate_limit import read_drained
from guestledger.engine.domain.personal import SecretBytes

BODY_LIMIT = 64 * 1024


class Transport:
    """A pool of at most `connections`. It keeps no cookies, heeds no proxy of the environment, follows no redirect."""

    def __init__(self, profile: Profile, connections: int) -> None:
        # aiohttp rounds longer timeouts up to whole seconds, and could so let the limit for the whole request pass
        # before the one for the connection; `Profile` says why their order matters.
        timeout = aiohttp.ClientTimeout(
            total=profile.total_ms / 1_000, connect=profile.connect_ms / 1_000, ceil_threshold=inf
        )
        self.profile = profile
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=timeout,
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "guestledger"},
            trust_env=False,
        )

    async def send(self, method: str, url: URL, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """The answer to one request. Raises one of `WIRE_ERRORS` when none comes."""
        async with self._http.request(method, url, headers=headers, data=body, allow_redirects=False) as response:
            return Answer(
                status=response.status,
                retry_after=_list_field(response, self.profile.retry_after_header),
                date=response.headers.get("Date"),
                drained=read_drained(_list_field(response, "RateLimit"), _list_field(response, "RateLimit-Policy")),
                body=await _body(response.content),
            )

    async def close(self) -> None:
        """Close every connection."""
        await self._http.close()


def _list_field(response: aiohttp.ClientResponse, name: str) -> str | None:
    """A field whose value is a list, or may come more than once: its lines are joined (RFC 9110, section 5.3)."""
    lines = response.headers.getall(name, None)
    return None if lines is None else ", ".join(lines)


async def _body(content: aiohttp.StreamReader) -> bytes | None:
    """The body, or `None` when it is cut short or too large: the status alone tells most of what there is to know."""
    body = BytesIO()  # which shows nothing of what is in it
    try:
        while not content.at_eof():
            body.write(await content.readany())
            if body.tell() > BODY_LIMIT:
                return None
    except WIRE_ERRORS:
        return None
    return SecretBytes(body.getvalue())
