"""Pages: templates, the values that all of them need, and their headers."""

import re
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, pass_context
from jinja2.runtime import Context as Template
from markupsafe import Markup, escape

from guestledger.adapters.api.access import NOBODY, Caller
from guestledger.adapters.api.exchange import HTML, Request, Response
from guestledger.adapters.api.problems import Refused
from guestledger.adapters.api.route import OPERATOR_OR_PRIVACY, Context
from guestledger.adapters.console.cookie import value_of
from guestledger.adapters.forms import values
from guestledger.adapters.pages import environment
from guestledger.engine.ports.access_keys import Role

HEADERS = {
    "content-type": HTML,
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "vary": "Cookie",
}
PRODUCED = ("text/html", "text/event-stream")
"""What a browser accepts of the console; it takes downloads, styles and the script as they come."""
PLACE_CHARS = 400
_CHARS = "A-Za-z0-9._~!$&'()*+,;=:@%-"
PLACE = rf"\A([A-Za-z0-9_-]+(/(?!\.|%2[Ee])[{_CHARS}]+)*)?(\?[{_CHARS}/?]*)?\Z"
"""A page of the console, relative to its root, with its query: never another site, or the site's other pages."""
_STYLES = ("style.css", "timeline.css", "console.css")
_HERE = Path(__file__).parent


def page(context: Context, template: str, *, status: int = 200, **values: Any) -> Response:
    """Return the page of a template."""
    return _rendered(context.request, context.caller, template, status, values)


def public_page(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """Return a page for somebody who has not signed in."""
    return _rendered(request, NOBODY, template, status, values)


def see(context: Context, place: str, **headers: str) -> Response:
    """Return the answer that sends a browser on to a place of the console, such as `audit`; empty: the overview."""
    return Response(status=303, headers={"location": root_of(context.request) + place, **headers})


def check_guest_search(context: Context) -> None:
    """Raise `Refused` for a caller who may not search by guest."""
    if not OPERATOR_OR_PRIVACY & context.caller.roles:
        raise Refused("role-not-allowed", "A search by guest needs a key with the role operator or privacy.")


def refusal_page(refused: Refused, request: Request) -> Response:
    """Return the page for a refusal; for somebody who has to sign in first, the way there."""
    problem = refused.problem
    if problem.status == 401:
        place = _place_of(request)
        then = f"?next={quote(place, safe='/')}" if place else ""
        return Response(status=303, headers={"location": f"{root_of(request)}sign-in{then}"})
    answer = public_page(request, "refused.html", status=problem.status, problem=problem, back=_session_in(request))
    return Response(status=answer.status, headers={**answer.headers, **refused.headers}, body=answer.body)


def _place_of(request: Request) -> str | None:
    """The place that was asked for; `None`: nothing to come back to."""
    place = f"{request.path.removeprefix('/')}?{request.query}".removesuffix("?")
    is_one = request.method in ("GET", "HEAD") and len(place) <= PLACE_CHARS and re.match(PLACE, place)
    return place if is_one else None


def _session_in(request: Request) -> str | None:
    """The session that a request was about."""
    _, first, *rest = request.path.split("/") if request.path.count("/") > 2 else ("", "", "")
    return rest[0] if first == "sessions" else None


def root_of(request: Request) -> str:
    """Return the relative way from a page to the root of the console: it works wherever the console is mounted."""
    return "../" * (request.path.count("/") - 1) or "./"


def stylesheet() -> bytes:
    """Return the styles of all pages."""
    loader = _environment().loader
    assert loader is not None
    return "".join(loader.get_source(_environment(), name)[0] for name in _STYLES).encode()


def script() -> bytes:
    """Return the script of all pages. Each works without it."""
    return (_HERE / "templates" / "console.js").read_bytes()


def _rendered(request: Request, caller: Caller, template: str, status: int, given: dict[str, Any]) -> Response:
    shared = {
        "root": root_of(request),
        "caller": caller,
        "signed_in": bool(value_of(request)) and bool(caller.name),
        "may_operate": Role.OPERATOR in caller.roles,
        "may_reveal": Role.PRIVACY in caller.roles,
        "may_search_guests": bool(OPERATOR_OR_PRIVACY & caller.roles),
        "day": None,
        "here": "",
    }
    body = _environment().get_template(template).render(**shared | given)
    return Response(status=status, headers=HEADERS, body=body.encode())


@cache
def _environment() -> Environment:
    made = environment((__package__, "templates"))
    made.filters |= {
        "value": _value,
        "given": values.given,
        "ago": values.ago,
        "about": values.about,
        "plain": values.plain,
        "breakable": _breakable,
        "time": partial(values.time, between=" "),
    }
    return made


def _breakable(name: str) -> Markup:
    """A dotted name that may go on in the next line after a dot or an underscore."""
    return Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(name))))  # noqa: S704 - it is escaped


@pass_context
def _value(context: Template, found: Any) -> str:
    """A value on one line; times of the page's `day` without their date."""
    return values.value(found, context.get("day"))
