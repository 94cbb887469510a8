"""A guest request and its validation (contract, "Guest request")."""

import json
import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import ip_address
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from guestledger.engine.domain.errors import InvalidRequest
from guestledger.engine.domain.personal import Guarded

# No control characters (PostgreSQL cannot read U+0000 back out of JSON) and no lone surrogates (not UTF-8).
_PRINTABLE = r"^[^\x00-\x1f\x7f\ud800-\udfff]*\Z"
# Nor C1 controls, line separators and controls of writing direction: they change what a terminal or a log viewer shows. A
# user agent is never shown and may have C1 controls, as of bytes read as Latin-1.
SHOWABLE = r"^[^\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]*\Z"
_PERSONAL: dict[str, Any] = {"personal": True}

Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=SHOWABLE)]
Key = Annotated[str, Meta(min_length=1, max_length=255, pattern=SHOWABLE)]
Language = Annotated[str, Meta(max_length=35, pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*\Z")]
"""A language tag (BCP 47), such as `en` or `pt-BR`."""
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class GuestConsent(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True
):
    """What the guest agreed to. The first two flags take any value: all but exactly `True` is refused and recorded."""

    data_processing: Any = None
    gdpr_compliant: Any = None
    marketing: bool = False
    notice: Name | None = None
    """The id or version of the privacy notice that was shown."""
    notice_language: Language | None = None
    """The language in which it was shown, such as `en`."""
    notice_sha256: Sha256 | None = None
    """The SHA-256 of the text that was shown, as lowercase hex."""
    collection_method: Name | None = None
    """How the guest's data and consent were collected, such as `web form, box unticked by default`."""


class GuestRequest(Guarded, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """A request for a session. Field names are camelCase in JSON, snake_case in Python."""

    channel_id: Name
    ip_address: Annotated[str, Meta(max_length=45, pattern=_PRINTABLE, extra=_PERSONAL)]
    user_agent: Annotated[str, Meta(max_length=1024, pattern=_PRINTABLE, extra=_PERSONAL)]
    timestamp: Annotated[str, Meta(max_length=40)]
    """RFC 3339, stored as given: it is part of the fingerprint."""
    source: Name = "web"
    campaign: Name = "organic"
    device_type: Name = "desktop"
    consent: GuestConsent = GuestConsent()
    idempotency_key: Annotated[Key, Meta(extra=_PERSONAL)] | None = None
    """The caller's key: the same key returns the same session."""
    subject_id: Annotated[Name, Meta(extra=_PERSONAL)] | None = None
    """The caller's pseudonymous id of the person."""


# Types that msgspec would convert to a string.
_NOT_JSON = (bytes, bytearray, datetime, date, time, timedelta, UUID, Decimal)

_NAMES = {kind: {field.encode_name for field in msgspec.structs.fields(kind)} for kind in (GuestRequest, GuestConsent)}
_decoder = msgspec.json.Decoder(GuestRequest)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$\.(\w+)`)?", re.DOTALL)
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d[Tt](?:[01]\d|2[0-3]):[0-5]\d):([0-5]\d|60)(?:\.\d+)?([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_MISFITS = {
    "consent.noticeLanguage": "is not a language tag such as en or pt-BR",
    "consent.noticeSha256": "is not 64 lowercase hex digits",
}
_MAX_DEPTH = 32
_PLAIN_WORD = re.compile(r"[A-Za-z]\w{0,39}", re.ASCII)


def parse_request(line: bytes) -> GuestRequest:
    """The guest request in one line of JSON. Raises `InvalidRequest`; its reason never repeats a value."""
    try:
        request = _decoder.decode(line)
        _names_decoder.decode(line.decode())
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except msgspec.DecodeError:
        raise InvalidRequest("", "is not JSON") from None
    except UnicodeDecodeError:
        raise InvalidRequest("", "is not UTF-8") from None
    except RecursionError:
        raise InvalidRequest("", "is nested too deeply") from None
    _check(request)
    return request


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise InvalidRequest(_path(name), "is given more than once")
        seen.add(name)


# A repeated name has no defined value (RFC 8259, section 4); msgspec takes the last one. Python refuses numbers of
# thousands of digits, and none is needed here.
_names_decoder = json.JSONDecoder(object_pairs_hook=_refuse_repeated, parse_int=len, parse_float=len)


def _path(name: str) -> str:
    """Where a name stands. An unknown one is in the value of a consent flag, and may be personal."""
    if name in _NAMES[GuestRequest]:
        return name
    return f"consent.{name}" if name in _NAMES[GuestConsent] else "consent"


def checked(request: GuestRequest) -> GuestRequest:
    """`request`, after the same checks as a line of JSON. Raises `InvalidRequest`."""
    try:
        msgspec.convert(
            msgspec.to_builtins(request, builtin_types=_NOT_JSON, str_keys=True, enc_hook=lambda _: {}), GuestRequest
        )
        # Sorted: refuses keys that are no strings.
        msgspec.json.encode((request.consent.data_processing, request.consent.gdpr_compliant), order="sorted")
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except (TypeError, ValueError, RecursionError):
        # Every other field has passed: it is a consent flag.
        raise InvalidRequest("consent", "is not JSON") from None
    _check(request)
    return request


def checked_correlation_id(text: str) -> str:
    """`text`, if it can be stored. Raises `InvalidRequest`."""
    return checked_text("correlationId", text)


def checked_text(field: str, text: str) -> str:
    """`text`, if it is one line of 1 to 255 characters. Raises `InvalidRequest`, naming `field`."""
    try:
        return msgspec.convert(text, Key)
    except msgspec.ValidationError as error:
        raise InvalidRequest(field, _refusal(str(error)).reason) from None


def _check(request: GuestRequest) -> None:
    consent = request.consent
    if not all(_is_shallow(flag, _MAX_DEPTH) for flag in (consent.data_processing, consent.gdpr_compliant)):
        raise InvalidRequest("consent", "is nested too deeply")
    try:
        ip_address(request.ip_address)
    except ValueError:
        raise InvalidRequest("ipAddress", "is not an IPv4 or IPv6 address") from None
    if not _is_rfc3339(request.timestamp):
        raise InvalidRequest("timestamp", "is not an RFC 3339 time such as 2024-05-20T14:21:59Z")


def _is_shallow(value: object, levels: int) -> bool:
    """Whether JSON has so many levels at most. Deeper, encoding it later could exceed the stack where this did not."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return all(levels > 1 and _is_shallow(child, levels - 1) for child in children)


def _is_rfc3339(text: str) -> bool:
    """Whether it is a `date-time` of RFC 3339, section 5.6. A leap second ends a month in UTC (section 5.7)."""
    found = _TIME.fullmatch(text)
    if not found:
        return False
    minute, second, offset = found.groups()
    try:
        moment = datetime.fromisoformat(f"{minute.upper()}:00{offset.upper()}")
        if second != "60":
            return True
        after = moment.astimezone(UTC) + timedelta(minutes=1)
    except (ValueError, OverflowError):
        return False
    return (after.day, after.hour, after.minute) == (1, 0, 0)


def _refusal(message: str) -> InvalidRequest:
    if unknown := _UNKNOWN.fullmatch(message):
        name, parent = unknown[1], unknown[2] or ""
        if not _PLAIN_WORD.fullmatch(name):  # it may contain personal data
            return InvalidRequest(parent, "has a field that a guest request does not have")
        return InvalidRequest(f"{parent}.{name}" if parent else name, "is not a field of a guest request")
    text, _, path = message.partition(" - at `")
    field = path.rstrip("`").removeprefix("$").removeprefix(".")
    if missing := re.search(r"missing required field `(\w+)`", text):
        return InvalidRequest(f"{field}.{missing[1]}" if field else missing[1], "is missing")
    if "matching regex" in text:
        return InvalidRequest(field, _MISFITS.get(field, "contains control characters"))
    if limit := re.search(r"length (<=|>=) (\d+)", text):
        return InvalidRequest(
            field, f"is longer than {limit[2]} characters" if limit[1] == "<=" else "must not be empty"
        )
    return InvalidRequest(field, text[:1].lower() + text[1:].replace("`", ""))
