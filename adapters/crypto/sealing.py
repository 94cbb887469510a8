"""Seals the personal fields of one event, and commits to each of them.

AES-256-GCM with a random nonce (NIST SP 800-38D). GCM does not commit to its key, so each box also carries a commitment to the
key, derived with HKDF-SHA-512 (RFC 5869): no box opens under two keys. A field's commitment is HMAC-SHA-256 (RFC 2104) of its path and
value under a random blinding value, which is sealed with the field: without it, nobody can test a guess.
"""

import hmac
import os
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from guestledger.engine.ports.key_vault import SealBroken

KEY_BYTES = 32
BLINDING_BYTES = 32
_FORMAT = b"\x01"
_NONCE_BYTES = 12
_COMMITMENT_BYTES = 32
_HEADER_BYTES = len(_FORMAT) + _COMMITMENT_BYTES
_BEFORE = _HEADER_BYTES + _NONCE_BYTES
"""So many bytes stand before the ciphertext."""

_Fields = dict[str, tuple[bytes, str]]
"""By path: the blinding value, and the field's value."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Fields)


class Aes256Key:
    """See `DataKey`."""

    __slots__ = ("_cipher", "_header", "id", "purpose", "secret", "subject")

    def __init__(self, key_id: UUID, secret: bytes, subject: bytes, purpose: str) -> None:
        derived = HKDFExpand(SHA512(), KEY_BYTES + _COMMITMENT_BYTES, b"guestledger personal data").derive(secret)
        self.id = key_id
        self.secret = secret
        self.subject = subject
        self.purpose = purpose
        self._cipher = AESGCM(derived[:KEY_BYTES])
        self._header = _FORMAT + derived[KEY_BYTES:]

    def __repr__(self) -> str:
        return f"Aes256Key({self.id})"

    def seal(self, values: Mapping[str, str], place: bytes) -> tuple[bytes, dict[str, str]]:
        """See `DataKey.seal`."""
        random = os.urandom(_NONCE_BYTES + BLINDING_BYTES * len(values))
        nonce, at = random[:_NONCE_BYTES], _NONCE_BYTES
        fields: _Fields = {}
        commitments = {}
        for path, value in values.items():
            blinding = random[at : at + BLINDING_BYTES]
            at += BLINDING_BYTES
            fields[path] = blinding, value
            commitments[path] = commitment(path, value, blinding)
        return self._header + nonce + self._cipher.encrypt(nonce, _encoder.encode(fields), place), commitments

    def open(self, box: bytes, place: bytes, commitments: Mapping[str, str]) -> dict[str, str]:
        """See `DataKey.open`."""
        header, nonce = box[:_HEADER_BYTES], box[_HEADER_BYTES:_BEFORE]
        if not hmac.compare_digest(header, self._header):
            raise SealBroken
        try:
            fields = _decoder.decode(self._cipher.decrypt(nonce, box[_BEFORE:], place))
        except (InvalidTag, ValueError, msgspec.MsgspecError):
            raise SealBroken from None
        found = {path: commitment(path, value, blinding) for path, (blinding, value) in fields.items()}
        if found != commitments or any(len(blinding) != BLINDING_BYTES for blinding, _ in fields.values()):
            raise SealBroken
        return {path: value for path, (_, value) in fields.items()}


def commitment(path: str, value: str, blinding: bytes) -> str:
    """The commitment to `value` at `path`: HMAC-SHA-256 under `blinding`, as base64url without padding."""
    digest = hmac.digest(blinding, f"{path}\x1f{value}".encode(), sha256)
    return urlsafe_b64encode(digest).rstrip(b"=").decode()
