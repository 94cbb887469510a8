"""The key-encryption key: it wraps data keys, and comes from a file, a variable or a key service."""

import os
from base64 import b64decode, b64encode
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from guestledger.adapters.crypto.sealing import KEY_BYTES
from guestledger.adapters.settings import InvalidSettings

_NONCE_BYTES = 12
_ID_BYTES = 8
_EXPECTED = f"{KEY_BYTES} random bytes in base64, as `openssl rand -base64 {KEY_BYTES}` prints"


class KeyRefused(Exception):
    """A wrapped key does not open under this key-encryption key."""


class KeyEncryptionKey:
    """Wraps keys with AES-256-GCM. `id` tells keys apart, and says nothing about them."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a key-encryption key has {KEY_BYTES} bytes")
        self._cipher = AESGCM(secret)
        self.id = sha256(b"guestledger key id" + secret).hexdigest()[: 2 * _ID_BYTES]

    def __repr__(self) -> str:
        return f"KeyEncryptionKey({self.id})"

    def wrap(self, secret: bytes, place: bytes) -> bytes:
        """`secret`, encrypted. It unwraps with the same `place` only."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, place)

    def unwrap(self, wrapped: bytes, place: bytes) -> bytes:
        """The secret. Raises `KeyRefused`."""
        try:
            return self._cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], place)
        except (InvalidTag, ValueError):
            raise KeyRefused from None


def key_of_text(text: str, setting: str) -> KeyEncryptionKey:
    """The key in a variable's or a file's text. Raises `InvalidSettings`, which names `setting`."""
    try:
        return KeyEncryptionKey(b64decode(text.strip(), validate=True))
    except ValueError:
        raise InvalidSettings(f"{setting} is invalid: it must be {_EXPECTED}") from None


def key_of_file(path: Path, setting: str) -> KeyEncryptionKey:
    """The key in a file. Raises `InvalidSettings` if it cannot be read, or others can read it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(1_024)
    except OSError as error:
        raise InvalidSettings(f"{setting}: {path} cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise InvalidSettings(f"{setting}: other users can read {path}: run chmod 600 on it")
    return key_of_text(text.decode("ascii", "replace"), setting)


def made_key_file(path: Path) -> Path:
    """`path`, after a new key was written to it unless it is there already."""
    if not path.exists():
        with NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.") as file:  # for its owner only
            file.write(b64encode(os.urandom(KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
            with suppress(FileExistsError):  # another process was faster
                os.link(file.name, path)
    return path
