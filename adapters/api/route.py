"""What a route is: method, path, types, roles and handler."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from guestledger.adapters.api.access import Authenticate, Caller
from guestledger.adapters.api.exchange import JSON, Request, Response
from guestledger.adapters.api.problems import Refused
from guestledger.engine.domain.errors import InvalidRequest
from guestledger.engine.domain.personal import Guarded
from guestledger.engine.ledger import Ledger
from guestledger.engine.operations.reveal import Reveal
from guestledger.engine.ports.access_keys import Role

READERS = frozenset(Role)
OPERATOR = frozenset({Role.OPERATOR})
PRIVACY = frozenset({Role.PRIVACY})
OPERATOR_OR_PRIVACY = OPERATOR | PRIVACY
PUBLIC: frozenset[Role] = frozenset()

REVEAL = "reveal-reason"
IDEMPOTENCY_KEY = "idempotency-key"
IF_MATCH = "if-match"

_ETAG = re.compile(r'"(\d{1,9})"')
_QUOTED = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')


class Params(Guarded, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The request of a route: each field is a part of the path, or else of the query. `body` is the body."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a handler works with, besides its request."""

    ledger: Ledger
    caller: Caller
    request: Request
    stopping: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    """Set once the server stops: a response without an end of its own ends then."""
    media: str = JSON
    """The format of the answer, one of those that the route produces."""

    def reveal(self) -> Reveal | None:
        """Return why personal data is shown in clear, if it is. Raises `Refused`, `InvalidRequest`."""
        reason = self._text(REVEAL)
        if reason is None:
            return None
        if Role.PRIVACY not in self.caller.roles:
            raise Refused("role-not-allowed", "Only a key with the role privacy may see personal data in clear.")
        return Reveal(reason=reason, by=self.caller.name)

    def idempotency_key(self) -> str | None:
        """Return the caller's key: a string of structured fields (RFC 9651), or a bare text. Raises `InvalidRequest`."""
        given = self._text(IDEMPOTENCY_KEY)
        if given is None or not given.startswith('"'):
            return given
        found = _QUOTED.fullmatch(given)
        if not found:
            raise InvalidRequest("Idempotency-Key", 'is not a text in double quotes, such as "order-17"')
        return re.sub(r"\\(.)", r"\1", found[1])

    def expected_version(self) -> int | None:
        """Return the version that `If-Match` asks for. Raises `InvalidRequest`."""
        given = self.request.headers.get(IF_MATCH)
        if given is None or given == "*":
            return None
        if not (found := _ETAG.fullmatch(given)):
            raise InvalidRequest("If-Match", 'is not one version in double quotes, such as "7"')
        return int(found[1])

    def _text(self, header: str) -> str | None:
        given = self.request.headers.get(header)
        try:
            return None if given is None else given.encode("latin-1").decode()
        except UnicodeDecodeError:
            raise InvalidRequest(header.title(), "is not UTF-8") from None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer with more than a body. `version` is its ETag."""

    body: Any
    status: int | None = None
    version: int | None = None
    headers: dict[str, str] = {}


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """How the requests of a group of routes come in, and how their refusals go out. The default is the API's."""

    authenticate: Authenticate | None = None
    """Names the caller; `None`: as the application does."""
    form: bool = False
    """Whether requests are HTML forms: blank fields are not given, and a body is not JSON."""
    refused: Callable[[Refused, Request], Response] = lambda refused, _request: refused.response()


API_DOOR = Door()

Handler = Callable[[Any, Context], Awaitable[Any]]
"""Returns the route's answer as a struct, an `Answer`, or a `Response` of its own."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table of routes. The first line of the handler's docstring says what it does."""

    method: str
    path: str
    handler: Handler
    request: type[msgspec.Struct] = Params
    answer: Any = None
    """The type of the JSON that it answers with."""
    roles: frozenset[Role] = READERS
    """Any of these may; empty: everybody, without a key."""
    statuses: tuple[int, ...] = (200,)
    produces: tuple[str, ...] = (JSON,)
    headers: tuple[str, ...] = ()
    """The request headers that it reads: `REVEAL`, `IDEMPOTENCY_KEY`, `IF_MATCH`."""
    problems: tuple[str, ...] = ()
    """The codes of its own problems, besides those of all routes."""
    door: Door = API_DOOR
    limited: bool = True
    """Whether the limits of the API count it."""
    endless: bool = False
    """Whether its answer has no end of its own: then it is in progress only until that begins."""
    versioned: bool = False
    """Whether its answer has an ETag, and `If-None-Match` is understood."""
