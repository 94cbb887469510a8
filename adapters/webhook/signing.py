"""Headers of the Standard Webhooks scheme."""

import base64
import binascii
from datetime import UTC, datetime

from standardwebhooks import Webhook

SECRET_PREFIX = "whsec_"  # noqa: S105 - the scheme's prefix, not a secret


class Signer:
    """Signs with each of `secrets`: base64, `whsec_` optional, separated by blanks, newest first."""

    def __init__(self, secrets: str) -> None:
        self._keys = [Webhook(_key(secret)) for secret in secrets.split() or [""]]

    def headers(self, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
        """The headers of one call at the time `at`."""
        at = at.astimezone(UTC)  # `sign` ignores the offset
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(key.sign(message_id, at, body.decode()) for key in self._keys),
        }


def _key(secret: str) -> bytes:
    text = secret.removeprefix(SECRET_PREFIX)
    try:
        # The library skips invalid characters, and would sign with another key.
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError(
            f"the webhook secret must be base64, optionally after {SECRET_PREFIX!r}; "
            "separate several by blanks, newest first"
        )
    return key
