"""Personal data that is recognisable wherever something of it turns up, and the search for it in files."""

import asyncio
import secrets
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from guestledger.engine.domain.consent import fingerprint
from guestledger.engine.domain.request import GuestConsent, GuestRequest


def guest(number: int, *, consents: bool = True) -> GuestRequest:
    """A guest whose every personal value occurs nowhere else."""
    return GuestRequest(
        channel_id="ch_canary",
        ip_address=f"2001:db8:{secrets.token_hex(2)}:{secrets.token_hex(2)}::{number + 1:x}",
        user_agent=f"Browser {secrets.token_hex(8)}",
        timestamp="2024-05-20T14:21:59Z",
        consent=GuestConsent(data_processing=True, gdpr_compliant=consents),
        subject_id=f"subject {secrets.token_hex(8)}" if number % 5 else None,
        idempotency_key=f"order {secrets.token_hex(8)}",
    )


def values(requests: Iterable[GuestRequest], tokens: Iterable[str]) -> list[bytes]:
    """The personal values of these requests, their guest tokens, and the plain SHA-256 of each: as hex, and as bytes."""
    texts = [*tokens]
    for request in requests:
        texts += [request.ip_address, request.user_agent, fingerprint(request), str(request.idempotency_key)]
        texts += [request.subject_id] if request.subject_id is not None else []
    digests = [sha256(text.encode()) for text in texts]
    return [
        *(text.encode() for text in texts),
        *(digest.hexdigest().encode() for digest in digests),
        *recognisable(digest.digest() for digest in digests),
    ]


def recognisable(found: Iterable[bytes]) -> list[bytes]:
    """A long part without a line break of each of these, as `grep` needs it."""
    parts = (max(one.split(b"\n"), key=len)[:24] for one in found)
    return [part for part in parts if len(part) >= 8 and b"\0" not in part]


async def files_with(wanted: Sequence[bytes], places: Sequence[Path], patterns: Path) -> list[str]:
    """The files below these places that have any of these bytes."""
    assert wanted
    patterns.write_bytes(b"\n".join(wanted) + b"\n")  # noqa: ASYNC240 - a test waits for it
    process = await asyncio.create_subprocess_exec(
        *("grep", "-r", "-l", "-a", "-F", "-f", str(patterns), *map(str, places)),
        stdout=asyncio.subprocess.PIPE,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    )
    out, _ = await process.communicate()
    assert process.returncode in (0, 1)
    return out.decode().splitlines()
