"""The Standard Webhooks scheme's headers: one signature for each secret, so that a receiver can go from one to the next."""

import base64
import binascii
from datetime import UTC, datetime

from standardwebhooks import Webhook

SECRET_PREFIX = "whsec_"  # noqa: S105 - the scheme's mark of a secret, not one


class Signer:
    """Signs with every secret in `secrets`: base64, with or without `whsec_`, separated by blanks, newest first.

    Raises `ValueError` for one that cannot be used, and shows none.
    """

    def __init__(self, secrets: str) -> None:
        self._keys = [Webhook(_key(secret)) for secret in secrets.split() or [""]]

    def headers(self, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
        """`webhook-id`, `webhook-timestamp` (of this attempt, `at`) and `webhook-signature`."""
        # `sign` drops the offset and takes the rest for UTC, so that it must be given UTC and nothing else.
        at = at.astimezone(UTC)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(key.sign(message_id, at, body.decode()) for key in self._keys),
        }


def _key(secret: str) -> bytes:
    """The key in `secret`. The library would skip over characters that are not base64, and so sign with another key."""
    text = secret.removeprefix(SECRET_PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError(
            f"GUESTLEDGER_WEBHOOK_SECRET must be base64, with or without {SECRET_PREFIX!r} before it: "
            "give the secret just as the receiver shows it, or several separated by blanks, newest first"
        )
    return key
