"""The bodies of answers, read field by field: an unreadable one does not discard the others. Pure."""

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from guestledger.engine.domain.personal import Secret, SecretBytes

MAX_MESSAGE = 200
MAX_SHOWN = 64
MAX_SEARCHED = 2_000
"""Of a longer text only the beginning is shown: to search it for secrets would block the event loop."""
MIN_SECRET = 8
"""Shorter ones occur in plain words."""
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, OverflowError, RecursionError)
"""What decoding an answer may raise."""

# U+FFFD stands for bytes that are not in the body's encoding.
NO_CONTROLS = r"^[^\x00-\x1f\x7f\ufffd]+\Z"
MAX_WORD = 256
Word = Annotated[str, Meta(max_length=MAX_WORD, pattern=NO_CONTROLS)]

Fields = Mapping[str, msgspec.Raw]
"""The fields of a JSON object, undecoded."""
Value = TypeVar("Value")

_HALF_PAIR = re.compile(r"[\ud800-\udfff]")
_NESTED = {b"{": "an object", b"[": "an array"}
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_fields(body: bytes | None) -> Fields:
    """The fields of a JSON object in UTF-8, or in UTF-16 or UTF-32. A byte order mark is skipped.

    Half a surrogate pair, a control character or a `NaN` discards its own field at most. Raise one of `UNREADABLE`.
    """
    text = body or b""
    decoded = Secret(text.decode(json.detect_encoding(text), errors="replace").removeprefix("\ufeff"))
    try:
        return _object_decoder.decode(SecretBytes(decoded.encode()))
    except msgspec.DecodeError:
        fields = _lenient_fields(decoded)
        if fields is None:
            raise
        return fields


def _lenient_fields(text: Secret) -> Fields | None:
    try:
        values = json.loads(text, strict=False)
    except (ValueError, RecursionError):  # its error would show the body
        return None
    if not isinstance(values, dict):
        return None
    written = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    return {name: msgspec.Raw(_HALF_PAIR.sub("\ufffd", value)) for name, value in written.items()}


def read_field(fields: Fields, name: str, kind: type[Value]) -> Value | None:
    """A field as `kind`; `None` if it is absent or does not fit."""
    try:
        return msgspec.json.decode(fields[name], type=kind) if name in fields else None
    except UNREADABLE:
        return None


def shown_field(fields: Fields, name: str) -> str:
    """The JSON of an unreadable field: short, in ASCII, without secrets. Objects and arrays may hold any: not their content."""
    if name not in fields:
        return "absent"
    opening = bytes(fields[name])[:1]
    if opening in _NESTED:
        return _NESTED[opening]
    return ascii(_without_secrets(_beginning(bytes(fields[name]).decode(errors="replace"))))[1:-1][:MAX_SHOWN]


def uncompressed(body: bytes, encoding: str, limit: int) -> bytes | None:
    """At most `limit` bytes of a body with this `Content-Encoding`; `None` if it cannot be read."""
    if encoding.strip().lower() in ("", "identity"):
        return body
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return None
    for window in (32 + zlib.MAX_WBITS, -zlib.MAX_WBITS):  # gzip or zlib by its header, else raw deflate
        try:
            return zlib.decompressobj(window).decompress(body, limit)
        except zlib.error:
            continue
    return None


def server_message(body: bytes | None, names: Iterable[str], *secrets: str) -> str:
    """The first of the fields `names` that holds text, on one short line without secrets. `secrets`: the request's."""
    try:
        fields = read_fields(body)
    except UNREADABLE:
        return ""
    text = next((text for name in names if (text := read_field(fields, name, str))), "")
    for secret in secrets:
        if len(secret) >= MIN_SECRET:
            text = text.replace(secret, "[removed]")
    return _without_secrets(_printable(_beginning(text)))[:MAX_MESSAGE].strip()


# Most of a fingerprint (a trace id has at most 32 hex digits), a bearer token, any JWT.
_SECRETS = (
    re.compile(r"[0-9a-fA-F]{33,}"),
    re.compile(r"(?i)\bbearer\s+\S+"),
    re.compile(r"\beyJ[\w.-]+"),
)


def _beginning(text: str) -> str:
    """Without a last word that was cut: half a secret looks like none."""
    return text if len(text) <= MAX_SEARCHED else text[:MAX_SEARCHED].rsplit(" ", 1)[0]


def _without_secrets(text: str) -> str:
    for pattern in _SECRETS:
        text = pattern.sub("[removed]", text)
    return text


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
