"""Finds the route of a request."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from guestledger.adapters.api.exchange import Request
from guestledger.adapters.api.problems import Refused
from guestledger.adapters.api.route import Route

_Segments = tuple[str, ...]


class Match(NamedTuple):
    """A route, and the parts of the path that its template names, decoded."""

    route: Route
    path: Mapping[str, str]


class Routes:
    """The table of routes, by path."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._by_path: dict[_Segments, dict[str, Route]] = {}
        for route in routes:
            self._by_path.setdefault(tuple(route.path.split("/")), {})[route.method] = route
        self._templates: dict[tuple[int, str], list[_Segments]] = {}
        for template in self._by_path:
            if "{" in "".join(template):
                last = "" if template[-1].startswith("{") else template[-1]
                self._templates.setdefault((len(template), last), []).append(template)

    def find(self, request: Request) -> Match:
        """Return the route of this request; HEAD is served as GET. Raises `Refused`."""
        segments = tuple(request.path.split("/"))
        for template, methods in self._candidates(segments):
            route = methods.get("GET" if request.method == "HEAD" else request.method)
            if route is None:
                allowed = sorted({*methods, *(["HEAD"] if "GET" in methods else [])})
                raise Refused(
                    "method-not-allowed", f"This path supports {', '.join(allowed)}.", {"allow": ", ".join(allowed)}
                )
            return Match(route, _named(template, segments))
        raise Refused("route-not-found", "See docs/http-api.md, or GET /v1/openapi.json, for all paths.")

    def _candidates(self, segments: _Segments) -> list[tuple[_Segments, dict[str, Route]]]:
        if (exact := self._by_path.get(segments)) is not None:
            return [(segments, exact)]
        size, last = len(segments), segments[-1]
        templates = [*self._templates.get((size, last), ()), *(self._templates.get((size, ""), ()) if last else ())]
        return [(template, self._by_path[template]) for template in templates if _fits(template, segments)]


def _fits(template: _Segments, segments: _Segments) -> bool:
    return len(template) == len(segments) and all(
        (part.startswith("{") and given) or part == given for part, given in zip(template, segments, strict=True)
    )


def _named(template: _Segments, segments: _Segments) -> dict[str, str]:
    try:
        return {
            part[1:-1]: unquote(given, errors="strict")
            for part, given in zip(template, segments, strict=True)
            if part.startswith("{")
        }
    except UnicodeDecodeError:
        raise Refused("route-not-found", "The path is not UTF-8.") from None
