"""The OpenAPI 3.1 document, from the table of routes and the types of its requests and answers."""

import inspect
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec

from guestledger.adapters.api.decoding import body_type
from guestledger.adapters.api.exchange import JSON, PROBLEM, Response
from guestledger.adapters.api.problems import KINDS, Problem
from guestledger.adapters.api.route import IDEMPOTENCY_KEY, IF_MATCH, REVEAL, Context, Params, Route

_REF = "#/components/schemas/{name}"
_OF_ALL = (
    *("invalid-request", "not-acceptable", "rate-limited", "url-too-long", "headers-too-large"),
    *("internal", "service-unavailable", "not-ready", "not-configured", "time-limit"),
)
_WITH_KEY = ("key-missing", "key-invalid", "role-not-allowed")
_WITH_BODY = ("body-too-large", "media-type-not-supported", "request-timeout")

_HEADERS = {
    REVEAL: (
        "Reveal-Reason",
        "Show personal data in clear, and why. The look is recorded first. Only for the role privacy.",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]*$"},
    ),
    IDEMPOTENCY_KEY: (
        "Idempotency-Key",
        "The same key returns the same session (draft-ietf-httpapi-idempotency-key-header).",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!#-~]*$"},
    ),
    IF_MATCH: (
        "If-Match",
        "The version that the session has to have, as in its ETag.",
        {"type": "string", "pattern": '^"[0-9]{1,9}"$'},
    ),
}


def document_route(routes: Sequence[Route]) -> Route:
    """Return the route that answers with the document of these routes."""

    @cache
    def encoded(base: str) -> bytes:
        return msgspec.json.encode(openapi(routes, base=base))

    async def get_document(_asked: Params, context: Context) -> Response:
        """Return this document."""
        return Response(headers={"content-type": JSON}, body=encoded(context.request.base))

    return Route(method="GET", path="/v1/openapi.json", handler=get_document, answer=dict[str, Any])


def openapi(routes: Sequence[Route], *, base: str = "") -> dict[str, Any]:
    """Return the document. `base`: the path at which the application is mounted."""
    types = list(_types(routes))
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    known = dict(zip(map(repr, types), map(_portable, schemas), strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, known)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Guestledger",
            "version": version("guestledger"),
            "description": "Opens guest sessions, and shows what happened in each. See docs/http-api.md.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": base or "/"}],
        "paths": paths,
        "components": {
            "schemas": _portable(components),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "bearerFormat": "glk_<id>_<secret>"}},
        },
    }


def _types(routes: Sequence[Route]) -> Iterator[Any]:
    seen = set()
    for kind in (Problem, *(each for route in routes for each in (route.answer, body_type(route.request)))):
        if kind is not None and repr(kind) not in seen:
            seen.add(repr(kind))
            yield kind


def _operation(route: Route, known: dict[str, Any]) -> dict[str, Any]:
    summary, _, description = (inspect.getdoc(route.handler) or "").partition("\n")
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": summary,
        "description": " ".join([description.strip(), _who(route)]).strip(),
        "parameters": [*_parameters(route), *map(_header, route.headers)],
        "responses": {**_answers(route, known), **_problems(route, known)},
        "security": [{"key": []}] if route.roles else [],
    }
    if (body := body_type(route.request)) is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": known[repr(body)]}}}
    if route.versioned:
        operation["parameters"].append(_if_none_match())
        operation["responses"]["304"] = {"description": "It still has the version in If-None-Match."}
    return operation


def _who(route: Route) -> str:
    return f"Roles: {', '.join(sorted(route.roles))}." if route.roles else "Public."


def _parameters(route: Route) -> Iterator[dict[str, Any]]:
    [schema], components = msgspec.json.schema_components([route.request], ref_template=_REF)
    own = components.get(route.request.__name__, schema)
    for name, described in own.get("properties", {}).items():
        if name == "body":
            continue
        in_path = f"{{{name}}}" in route.path
        yield {
            "name": name,
            "in": "path" if in_path else "query",
            "required": in_path,
            "schema": _without_null(_portable(described)),
            **({} if in_path else {"style": "form", "explode": True}),
        }


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter: it is left out, never null."""
    kept = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) > 1:
        return {**kept, "anyOf": options}
    return {**kept, **(options[0] if options else {})}


def _header(name: str) -> dict[str, Any]:
    shown, description, schema = _HEADERS[name]
    return {"name": shown, "in": "header", "required": False, "description": description, "schema": schema}


def _if_none_match() -> dict[str, Any]:
    schema = {"type": "string", "pattern": '^"[0-9]{1,9}"$'}
    return {"name": "If-None-Match", "in": "header", "required": False, "schema": schema}


def _answers(route: Route, known: dict[str, Any]) -> dict[str, Any]:
    content = {media: {"schema": known[repr(route.answer)] if media == JSON else {}} for media in route.produces}
    return {str(status): {"description": _STATUSES[status], "content": content} for status in route.statuses}


_STATUSES = {200: "Done.", 201: "The session is settled.", 202: "A worker continues, or a person decides."}


def _problems(route: Route, known: dict[str, Any]) -> dict[str, Any]:
    codes = (*_OF_ALL, *route.problems)
    codes += _WITH_KEY if route.roles else ()
    codes += _WITH_BODY if body_type(route.request) is not None else ()
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(KINDS[code].status, []).append(code)
    content = {PROBLEM: {"schema": known[repr(Problem)]}}
    return {
        str(status): {"description": f"Problem: {', '.join(sorted(found))}.", "content": content}
        for status, found in sorted(by_status.items())
    }


def _portable(schema: Any) -> Any:
    """The schema with patterns that ECMAScript understands, and with texts that no version of Python indents."""
    if isinstance(schema, dict):
        return {name: _portable_text(name, value) for name, value in schema.items()}
    return [_portable(each) for each in schema] if isinstance(schema, list | tuple) else schema


def _portable_text(name: str, value: Any) -> Any:
    if name == "pattern":  # Python's end of text, and surrogates, are its own
        return value.replace(r"\Z", "$").replace(r"\ud800-\udfff", "")
    if name == "description" and isinstance(value, str):  # a docstring
        return inspect.cleandoc(value)
    return _portable(value)
