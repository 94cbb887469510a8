"""Keyed hashes, for look-ups: HMAC-SHA-256 (RFC 2104)."""

import hmac
from hashlib import sha256


class KeyedHash:
    """HMAC-SHA-256 under one key, which no `repr` shows."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __call__(self, text: bytes) -> bytes:
        """The hash of `text`."""
        return hmac.digest(self._key, text, sha256)
