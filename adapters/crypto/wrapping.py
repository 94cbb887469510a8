"""Key-encryption keys (KEK): they wrap data keys, and come from a file, a variable or a key service."""

import os
from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from guestledger.adapters.crypto.sealing import KEY_BYTES
from guestledger.adapters.settings import InvalidSettings

_NONCE_BYTES = 12
_ID_BYTES = 8
_MAX_FILE_BYTES = 4_096
_FOR_OTHERS = 0o077
_FOR_ALL = 0o037
"""A file of root's may be readable for its group, as a mounted secret is. libpq has the same rule for TLS keys."""
_EXPECTED = (
    f"{KEY_BYTES} random bytes in base64, as `openssl rand -base64 {KEY_BYTES}` prints; several are separated by spaces"
)


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


class ServiceKey(NamedTuple):
    """A key-encryption key that a key service made, and as the service wrapped it."""

    key: KeyEncryptionKey
    wrapped: bytes


class KeyService(Protocol):
    """A service that makes key-encryption keys and unwraps them. Both methods raise `ServiceError`."""

    source: str
    """What is stored beside each of its keys."""

    async def make(self) -> ServiceKey:
        """A new key."""
        ...

    async def unwrap(self, wrapped: bytes) -> KeyEncryptionKey:
        """A key that `make` returned once."""
        ...


def keys_of_text(text: str, setting: str) -> Sequence[KeyEncryptionKey]:
    """The keys in a variable's or a file's text, newest first. Raises `InvalidSettings`, which names `setting`."""
    try:
        keys = [KeyEncryptionKey(b64decode(word, validate=True)) for word in text.split()]
    except ValueError:
        keys = []
    if not keys:
        raise InvalidSettings(f"{setting} is invalid: it must be {_EXPECTED}")
    return keys


def keys_of_file(path: Path, setting: str) -> Sequence[KeyEncryptionKey]:
    """The keys in a file. Raises `InvalidSettings` if it cannot be read, or others can read it."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            text = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise InvalidSettings(f"{setting}: {path} cannot be read: {error.strerror}") from None
    if status.st_uid not in (0, os.getuid()):
        raise InvalidSettings(f"{setting}: {path} belongs to another user: run chown {os.getuid()} on it")
    if status.st_mode & (_FOR_ALL if status.st_uid == 0 else _FOR_OTHERS):
        raise InvalidSettings(f"{setting}: other users can read {path}: run chmod 600 on it")
    return keys_of_text(text.decode("ascii", "replace"), setting)


def made_key_file(path: Path) -> Path:
    """`path`, after a new key was written to it unless it is there already."""
    if not path.exists():
        with NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.") as file:  # for its owner only
            file.write(b64encode(os.urandom(KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
            with suppress(FileExistsError):  # another process was faster
                os.link(file.name, path)
        _sync(path.parent)  # data is sealed under it from now on
    return path


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
