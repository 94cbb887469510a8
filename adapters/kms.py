"""AWS KMS as the source of key-encryption keys. Needs the extra `kms`.

As AWS' hierarchical keyring does: KMS makes the key and wraps it, and is called at the start and at a rotation only.
"""

import asyncio
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ReadTimeoutError,
)

from guestledger.adapters.crypto.sealing import KEY_BYTES
from guestledger.adapters.crypto.wrapping import KeyEncryptionKey, ServiceKey
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import CredentialsRefused, ServiceError, ServiceUnreachable

SERVICE = "AWS KMS"
_SETTING = "GUESTLEDGER_ENCRYPTION_KMS_KEY"
_CONTEXT = {"application": "guestledger"}
"""Part of what KMS authenticates, and of its log."""
_LIMITS = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 3, "mode": "standard"})
_OTHER_KEY = ("IncorrectKeyException", "InvalidCiphertextException")
_TRY_AGAIN = ("ThrottlingException", "KMSInternalException", "DependencyTimeoutException", "ServiceUnavailable")
_WORDS = {
    "AccessDeniedException": (
        Cause.FORBIDDEN,
        f"the AWS credentials may not use the key in {_SETTING}: grant kms:GenerateDataKey and kms:Decrypt",
    ),
    "NotFoundException": (
        Cause.NOT_CONFIGURED,
        f"there is no key as {_SETTING} names it: check its region and account",
    ),
    "DisabledException": (Cause.FORBIDDEN, f"the key in {_SETTING} is disabled: enable it"),
    "KMSInvalidStateException": (
        Cause.FORBIDDEN,
        f"the key in {_SETTING} is to be deleted, or not ready: cancel its deletion",
    ),
    "KeyUnavailableException": (Cause.SERVICE_UNAVAILABLE, f"the key in {_SETTING} is not available now: repeat it"),
    "InvalidKeyUsageException": (Cause.NOT_CONFIGURED, f"the key in {_SETTING} must be a symmetric encryption key"),
}


class KmsRefused(CredentialsRefused):
    """AWS KMS refused the credentials, or the key."""

    def __str__(self) -> str:
        return f"{self.service} cannot be used: {self.detail}"


class KmsUnreachable(ServiceUnreachable):
    """AWS KMS does not answer."""

    def __str__(self) -> str:
        return f"{self.service} cannot be used: {self.detail}"


class Kms:
    """See `KeyService`. `keys` are ARNs or aliases, newest first: the first makes keys, each may unwrap them."""

    source = SERVICE

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = keys

    async def make(self) -> ServiceKey:
        """See `KeyService.make`."""
        newest = self._keys[0]
        made = await _call("generate_data_key", KeyId=newest, NumberOfBytes=KEY_BYTES)
        return ServiceKey(KeyEncryptionKey(made["Plaintext"]), made["CiphertextBlob"])

    async def unwrap(self, wrapped: bytes) -> KeyEncryptionKey:
        """See `KeyService.unwrap`. Only the keys of the settings: a user who can write to the vault cannot bring in another."""
        refusal = KmsRefused(
            SERVICE, Cause.KEY_REFUSED, f"the key in {_SETTING} did not make the key vault's key-encryption key"
        )
        for key in self._keys:
            try:
                found = await _call("decrypt", KeyId=key, CiphertextBlob=wrapped)
            except _OtherKey:
                continue
            except KmsRefused as error:  # another key may still do
                refusal = error
                continue
            return KeyEncryptionKey(found["Plaintext"])
        raise refusal


class _OtherKey(Exception):
    """Another key wrapped this."""


async def _call(operation: str, **arguments: Any) -> dict[str, Any]:
    # `from None` throughout: the SDK's texts name hosts, accounts and users.
    try:
        return await asyncio.to_thread(_call_now, operation, arguments)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _OTHER_KEY:
            raise _OtherKey from None
        raise _refusal(code) from None
    except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError):
        detail = (
            "there are no AWS credentials: give this process a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
        raise KmsRefused(SERVICE, Cause.UNAUTHORIZED, detail) from None
    except NoRegionError:
        raise KmsRefused(
            SERVICE, Cause.NOT_CONFIGURED, f"no region is set: set AWS_REGION, or name an ARN in {_SETTING}"
        ) from None
    except (ConnectTimeoutError, ReadTimeoutError):
        raise KmsUnreachable(SERVICE, Cause.ANSWER_TIMEOUT, "it did not answer in time") from None
    except BotoCoreError as error:
        raise KmsUnreachable(SERVICE, Cause.CONNECTION_LOST, f"it cannot be reached ({type(error).__name__})") from None


def _call_now(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    key = arguments["KeyId"]
    region = key.split(":")[3] if key.startswith("arn:") and key.count(":") >= 5 else None
    with closing(boto3.session.Session().client("kms", region_name=region, config=_LIMITS)) as kms:
        answer: dict[str, Any] = getattr(kms, operation)(EncryptionContext=_CONTEXT, **arguments)
        return answer


def _refusal(code: str) -> ServiceError:
    if code in _TRY_AGAIN:
        return KmsUnreachable(SERVICE, Cause.SERVER_ERROR, f"it fails ({code})")
    cause, detail = _WORDS.get(code, (Cause.UNAUTHORIZED, f"it refused the request ({code})"))
    return KmsRefused(SERVICE, cause, detail)
