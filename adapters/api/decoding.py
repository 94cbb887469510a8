"""From a request to the struct of its route. What is wrong is said without the value, which may be personal."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

import msgspec
from msgspec.structs import replace

from guestledger.engine.domain.errors import InvalidRequest
from guestledger.engine.domain.request import GuestRequest, parse_request

_MAX_FIELDS = 100
_PLAIN_WORD = re.compile(r"[A-Za-z]\w{0,39}", re.ASCII)


def decoded(kind: type[msgspec.Struct], path: Mapping[str, str], query: str, body: bytes, *, form: bool = False) -> Any:
    """Return the request of a route; `form`: an HTML form's. Raises `InvalidRequest`."""
    given: dict[str, Any] = {**_query(query, _fields(kind), form=form), **path}
    if "body" in given:
        raise InvalidRequest("body", "is not a parameter")
    if (of_body := body_type(kind)) is not None:
        given["body"] = _form(of_body, body) if form else _body(of_body, body)
    try:
        return _in_utc(msgspec.convert(given, kind))
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None


@cache
def body_type(kind: type[msgspec.Struct]) -> Any:
    """Return the type of the body; `None`: the route has none."""
    return get_type_hints(kind, include_extras=True).get("body")


class _Field(NamedTuple):
    """How a parameter is written: as a text, and perhaps as one of these."""

    repeated: bool
    boolean: bool
    number: bool


@cache
def _fields(kind: type[msgspec.Struct]) -> Mapping[str, _Field]:
    hints = get_type_hints(kind)
    return {
        shown: _Field(
            repeated=any(get_origin(option) is tuple for option in _options(hints[name])),
            boolean=bool in _options(hints[name]),
            number=int in _options(hints[name]),
        )
        for name, shown in zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)
    }


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _form(kind: Any, body: bytes) -> Any:
    try:
        text = body.decode("ascii")  # all else is percent-encoded
        return _in_utc(msgspec.convert(_query(text, _fields(kind), form=True), kind))
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except UnicodeDecodeError:
        raise InvalidRequest("", "the body is not a form") from None


def _query(text: str, fields: Mapping[str, _Field], *, form: bool) -> dict[str, Any]:
    """The fields of a query; of a form, without those that were left blank, and without blanks around the others."""
    found: dict[str, Any] = {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError:  # also UnicodeDecodeError
        raise InvalidRequest("", "the query cannot be read: it is not UTF-8, or has too many fields") from None
    for name, given in pairs:
        if form and not given.strip():
            continue
        field, value = fields.get(name), given.strip() if form else given
        if field is not None and field.repeated:
            found.setdefault(name, []).append(value)
        elif name in found:
            raise InvalidRequest(name if _PLAIN_WORD.fullmatch(name) else "", "is given more than once")
        else:
            found[name] = value if field is None else _value(value, field)
    return found


def _value(text: str, field: _Field) -> Any:
    # Not msgspec's lax mode: it also takes `null`, and numbers for times.
    if field.boolean and text in _BOOLEANS:
        return _BOOLEANS[text]
    if field.number and text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS:
        return int(text)
    return text


_BOOLEANS = {"true": True, "false": False}
_MAX_DIGITS = 18


def _body(kind: Any, body: bytes) -> Any:
    if kind is GuestRequest:
        return parse_request(body)
    try:
        found = _decoder(kind).decode(body)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise InvalidRequest("", "the body is not JSON") from None
    return _in_utc(found)


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _in_utc(struct: Any) -> Any:
    """The struct with its times in UTC."""
    times = {name: value for name in struct.__struct_fields__ if isinstance(value := getattr(struct, name), datetime)}
    changed = {}
    for name, value in times.items():
        try:
            changed[name] = value.astimezone(UTC)
        except OverflowError:
            raise InvalidRequest(_shown(struct, name), "is not within the years 1 to 9999 in UTC") from None
    return replace(struct, **changed) if changed else struct


def _shown(struct: Any, name: str) -> str:
    return str(struct.__struct_encode_fields__[struct.__struct_fields__.index(name)])


def _refusal(message: str) -> InvalidRequest:
    text, _, path = message.partition(" - at `")
    field = path.rstrip("`").removeprefix("$").removeprefix(".")
    if unknown := re.search(r"unknown field `(.*)`", text, re.DOTALL):
        name = unknown[1] if _PLAIN_WORD.fullmatch(unknown[1]) else ""
        return InvalidRequest(name, "is not a field of this request")
    if missing := re.search(r"missing required field `(\w+)`", text):
        return InvalidRequest(f"{field}.{missing[1]}" if field else missing[1], "is missing")
    if "matching regex" in text:
        return InvalidRequest(field, "contains control characters, or is not of the right form")
    if limit := re.search(r"length (<=|>=) (\d+)", text):
        return InvalidRequest(
            field, f"is longer than {limit[2]} characters" if limit[1] == "<=" else "must not be empty"
        )
    if text.startswith("Invalid"):  # the text quotes the value
        return InvalidRequest(field, f"is not {_EXPECTED.get(text.split(maxsplit=2)[1], 'one of the known values')}")
    return InvalidRequest(field, text[:1].lower() + text[1:].replace("`", ""))


_EXPECTED = {
    "RFC3339": "a time with an offset, such as 2024-05-20T14:22:00Z",
    "UUID": "a UUID",
}
