"""Guest requests as a caller's file holds them, recognisable wherever something of them turns up."""

import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

Request = dict[str, Any]

# Nothing else on the machine is called like this (RFC 3849), nor like the browser.
ADDRESSES = "2001:db8:7e57::"
BROWSER = "Recognisable/1.0 (Rumpelstilzchen)"
TIMESTAMP = "2024-05-20T14:21:59Z"
CONSENT = {"dataProcessing": True, "gdprCompliant": True}
NO_CONSENT = {"dataProcessing": True, "gdprCompliant": "true"}


def guest(number: int, **changes: Any) -> Request:
    """A request that is good in every way; the same number is the same person."""
    return {
        "channelId": "ch_main",
        "ipAddress": f"{ADDRESSES}{number:x}",
        "userAgent": BROWSER,
        "timestamp": TIMESTAMP,
        "consent": CONSENT,
    } | changes


def fingerprint(request: Request) -> str:
    """As the contract words it."""
    return sha256("{ipAddress}:{userAgent}:{timestamp}".format(**request).encode()).hexdigest()


def as_lines(requests: Iterable[Request]) -> bytes:
    return b"".join(msgspec.json.encode(request) + b"\n" for request in requests)


def write_file(directory: Path, requests: Iterable[Request]) -> str:
    """The path of a file with these requests, one a line."""
    file = directory / "requests.jsonl"
    file.write_bytes(as_lines(requests))
    return str(file)


def personal(requests: Iterable[Request]) -> re.Pattern[str]:
    """What finds anything personal of these requests in a text: an address, the browser, a fingerprint."""
    fingerprints = map(fingerprint, requests)
    return re.compile("|".join([re.escape(ADDRESSES), "Rumpelstilzchen", *fingerprints]))
