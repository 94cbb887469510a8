"""The bodies of answers. Pure."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

MAX_MESSAGE = 200
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, OverflowError, RecursionError)
"""What decoding an answer may raise."""

NO_CONTROLS = r"^[^\x00-\x1f\x7f]+\Z"
Word = Annotated[str, Meta(max_length=256, pattern=NO_CONTROLS)]

AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)


def answer_decoder(kind: type[AnswerT], names: msgspec.Struct) -> msgspec.json.Decoder[AnswerT]:
    """A decoder for `kind` under the server's `names`. Unknown fields are ignored."""
    fields = [
        (field.name, field.type) if field.required else (field.name, field.type, field.default)
        for field in msgspec.structs.fields(kind)
    ]
    renamed = msgspec.defstruct(
        kind.__name__, fields, bases=(kind,), rename=msgspec.structs.asdict(names), frozen=True, kw_only=True
    )
    return msgspec.json.Decoder(renamed)


def server_message(body: bytes | None, fields: Iterable[str], token: str) -> str:
    """The first of `fields` that holds text, on one short line without secrets. `token`: the request's."""
    if not body:
        return ""
    try:
        answer: Any = msgspec.json.decode(body)
    except UNREADABLE:
        return ""
    text = _printable(_first_text(answer, fields)).replace(token, "[removed]")
    for pattern in _SECRETS:
        text = pattern.sub("[removed]", text)
    return text[:MAX_MESSAGE].strip()


# Most of a fingerprint (a trace id has at most 32 hex digits), a bearer token, any JWT.
_SECRETS = (
    re.compile(r"[0-9a-fA-F]{33,}"),
    re.compile(r"(?i)\bbearer\s+\S+"),
    re.compile(r"\beyJ[\w-]+\.[\w.-]+"),
)


def _first_text(answer: Any, fields: Iterable[str]) -> str:
    if not isinstance(answer, dict):
        return ""
    texts = (answer.get(name) for name in fields)
    return next((text for text in texts if isinstance(text, str) and text), "")


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
