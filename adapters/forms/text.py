"""Texts of guests and servers that are safe to show: no character in them changes what a terminal or an editor shows."""

import json
import re

# These change what a terminal shows: C1 controls, controls of writing direction, line separators.
_UNSAFE = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
UNSAFE_TEXT = re.compile(f"[{_UNSAFE}]")
_UNSAFE_VALUE = re.compile(rf"[\x00-\x09\x0b-\x1f{_UNSAFE}]")
NOT_ASCII = re.compile(r"[^\x00-\x7e]")


def plain(text: str) -> str:
    """Return a text of a guest or a server with its control characters escaped, except line feeds."""
    return _UNSAFE_VALUE.sub(escape, text)


def escape(found: re.Match[str]) -> str:
    """Return JSON's escape for a character."""
    return json.dumps(found[0])[1:-1] if found[0] > "\uffff" else f"\\u{ord(found[0]):04x}"
