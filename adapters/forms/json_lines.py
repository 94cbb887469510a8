"""JSON, one value a line."""

from typing import Any

import msgspec

from guestledger.adapters.forms.text import NOT_ASCII, UNSAFE_TEXT, escape


def json_line(value: Any, *, ascii_only: bool = False) -> bytes:
    """Return one line of JSON, with escapes for what a terminal must not get, or for all but ASCII."""
    unsafe = NOT_ASCII if ascii_only else UNSAFE_TEXT
    return unsafe.sub(escape, msgspec.json.encode(value).decode()).encode() + b"\n"
