"""The application: from a request to a response, whatever server it runs in."""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack, aclosing
from typing import Any
from uuid import UUID, uuid4

import msgspec

from guestledger.adapters.api.access import NOBODY, Authenticate, BearerKeys, Caller
from guestledger.adapters.api.admission import Admission, ApiLimits
from guestledger.adapters.api.decoding import body_type, decoded
from guestledger.adapters.api.exchange import FORM, JSON, BodyTooLarge, Cut, Parts, Request, Response
from guestledger.adapters.api.matching import Routes
from guestledger.adapters.api.media import check_body, chosen
from guestledger.adapters.api.problems import Refused, refusal
from guestledger.adapters.api.route import API_DOOR, Answer, Context, Door, Route
from guestledger.adapters.api.routes import ROUTES
from guestledger.engine.domain.errors import GuestledgerError, in_short
from guestledger.engine.ledger import Ledger

logger = logging.getLogger("guestledger")
access_log = logging.getLogger("guestledger.access")

SECURITY_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Of every response; one that has such a header keeps its own."""


class _Seen(msgspec.Struct):
    """What becomes known of a request on its way, for the access log and the headers of its response."""

    route: Route | None = None
    caller: Caller = NOBODY
    headers: dict[str, str] = {}
    unmatched: Door = API_DOOR

    @property
    def door(self) -> Door:
        """How a refusal goes out."""
        return self.unmatched if self.route is None else self.route.door


class App:
    """Answers requests with one ledger.

    `routes`: the table; other doors add theirs. `authenticate` names the caller of a route that is not public. `pages`: how a
    browser is refused at a path outside the API that has no route. The ledger can be set later, with `use`.
    """

    def __init__(
        self,
        ledger: Ledger | None = None,
        *,
        routes: Sequence[Route] = ROUTES,
        authenticate: Authenticate | None = None,
        limits: ApiLimits = ApiLimits(),
        pages: Door = API_DOOR,
    ) -> None:
        self.limits = limits
        self._pages = pages
        self._ledger = ledger
        self._routes = Routes(routes)
        self._authenticate = authenticate or BearerKeys()
        self._admission = Admission(limits)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End the responses that have no end of their own: the server stops."""
        self._stopping.set()

    def use(self, ledger: Ledger | None) -> None:
        """Answer with this ledger from now on; `None`: it is closed, and requests are answered with `not-ready`."""
        self._ledger = ledger
        if ledger is None:
            self.stop()
        else:
            self._stopping = asyncio.Event()

    async def respond(self, request: Request) -> Response:
        """Answer a request. Raises nothing of its own."""
        began, seen = time.monotonic(), _Seen(unmatched=self._unmatched(request))
        try:
            async with asyncio.timeout(self.limits.seconds):
                response = await self._response(request, seen)
        except TimeoutError:
            late = Refused("time-limit", _TIME_LIMIT.format(self.limits.seconds))
            response = seen.door.refused(_refused(late), request)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer without details
            response = seen.door.refused(_refused(error), request)
        headers = {**SECURITY_HEADERS, **seen.headers, **response.headers}
        body = b"" if request.method == "HEAD" else response.body
        if isinstance(body, bytes):
            size = len(response.body) if isinstance(response.body, bytes) else None
            if response.status not in (204, 304) and size is not None:
                headers["content-length"] = str(size)
        _log(request, seen, response.status, time.monotonic() - began)
        return Response(status=response.status, headers=headers, body=body)

    async def _response(self, request: Request, seen: _Seen) -> Response:
        self._check_size(request)
        found = self._routes.find(request)
        route = seen.route = found.route
        ledger = self._ledger
        if ledger is None:
            raise Refused("not-ready", "The ledger is not open: repeat it in a moment.", {"retry-after": "1"})
        with ExitStack() as admitted:
            if route.roles:
                admitted.enter_context(self._admission.counted())
                seen.caller = await (route.door.authenticate or self._authenticate)(request, ledger)
            if route.limited:
                admitted.enter_context(self._admission.admitted(seen.caller.counted_as))
                seen.headers = self._admission.headers(seen.caller.counted_as)
            if route.roles and not route.roles & seen.caller.roles:
                raise Refused("role-not-allowed", f"This needs a key with the role {' or '.join(sorted(route.roles))}.")
            context = Context(
                ledger=ledger,
                caller=seen.caller,
                request=request,
                stopping=self._stopping,
                media=chosen(request.headers.get("accept"), route.produces),
            )
            body = await self._body(request, route)
            asked = decoded(route.request, found.path, request.query, body, form=route.door.form)
            response = _encoded(await route.handler(asked, context), route, request)
            return await _begun(response, request, ExitStack() if route.endless else admitted)

    def _unmatched(self, request: Request) -> Door:
        wants_page = "text/html" in request.headers.get("accept", "").lower()
        return self._pages if wants_page and not request.path.startswith("/v1/") else API_DOOR

    def _check_size(self, request: Request) -> None:
        if len(request.path) + len(request.query) > self.limits.url_chars:
            raise Refused("url-too-long", f"A URL may have {self.limits.url_chars} characters.")
        if sum(len(name) + len(value) for name, value in request.headers.items()) > self.limits.header_bytes:
            raise Refused("headers-too-large", f"Headers may have {self.limits.header_bytes} bytes together.")

    async def _body(self, request: Request, route: Route) -> bytes:
        if body_type(route.request) is None:
            return b""
        kind = FORM if route.door.form else JSON
        check_body(kind, request.headers.get("content-type"), request.headers.get("content-encoding"))
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                return await request.read(self.limits.body_bytes)
        except BodyTooLarge:
            raise Refused("body-too-large", f"A body may have {self.limits.body_bytes} bytes.") from None
        except TimeoutError:
            raise Refused("request-timeout", "Send the whole body at once.") from None


_TIME_LIMIT = "There was no answer within {:g} s. What was asked for may be done: repeat it, with the same Idempotency-Key if it has one."


def _encoded(answer: Any, route: Route, request: Request) -> Response:
    if isinstance(answer, Response):
        return answer
    if not isinstance(answer, Answer):
        answer = Answer(body=answer)
    headers: dict[str, str] = {"content-type": JSON, "vary": "Accept, Authorization", **answer.headers}
    if answer.version is not None:
        etag = headers["etag"] = f'"{answer.version}"'
        if route.versioned and _matches(request.headers.get("if-none-match"), etag):
            del headers["content-type"]
            return Response(status=304, headers=headers)
    status = answer.status or route.statuses[0]
    return Response(status=status, headers=headers, body=msgspec.json.encode(answer.body))


def _matches(condition: str | None, etag: str) -> bool:
    if condition is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in condition.split(",")]
    return etag in tags or "*" in tags


async def _begun(response: Response, request: Request, admitted: ExitStack) -> Response:
    """The response with the first part of its body made: until then, what fails can still be said.

    What was `admitted` ends with the body.
    """
    if isinstance(response.body, bytes) or request.method == "HEAD":
        return response
    parts = _within(admitted.pop_all(), response.body)
    first = await anext(parts, b"")
    return msgspec.structs.replace(response, body=_rest(first, parts))


async def _within(admitted: ExitStack, parts: Parts) -> Parts:
    with admitted:
        async with aclosing(parts):
            async for part in parts:
                yield part


async def _rest(first: bytes, rest: Parts) -> Parts:
    async with aclosing(rest):
        yield first
        try:
            async for part in rest:
                yield part
        except Exception as error:  # noqa: BLE001 - the beginning was sent: the connection has to be cut
            _report(error, uuid4())
            raise Cut from None


def _refused(error: Exception) -> Refused:
    instance = uuid4()
    if isinstance(error, Refused):
        refused = error
    elif isinstance(error, GuestledgerError):
        refused = refusal(error, instance)
    else:
        refused = Refused("internal", f"See the server's log for {instance}.")
    if refused.problem.status >= 500:
        refused.problem = msgspec.structs.replace(refused.problem, instance=f"urn:uuid:{instance}")
        _report(error, instance)
    return refused


def _report(error: Exception, instance: UUID) -> None:
    # No traceback: its texts may quote data.
    if isinstance(error, Refused):  # such as the answer to a probe in an outage
        logger.warning("a request failed (%s): %s", instance, error.problem.detail)
    else:
        logger.error("a request failed (%s): %s", instance, in_short(error, "guestledger"))


def _log(request: Request, seen: _Seen, status: int, seconds: float) -> None:
    # The template, not the path: nothing that a caller wrote comes into the log.
    path = seen.route.path if seen.route else "-"
    method = request.method if request.method in _METHODS else "-"
    access_log.info("%s %s %d %.1f ms, key %s", method, path, status, seconds * 1_000, seen.caller.key or "-")


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
