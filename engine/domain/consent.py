"""Consent and the fingerprint, as the contract words them."""

import json
from datetime import datetime
from hashlib import sha256

import msgspec

from guestledger.engine.domain.request import GuestConsent, GuestRequest

_GIVEN_LIMIT = 64


class Consent(msgspec.Struct, frozen=True, kw_only=True):
    """Consent that suffices, as it was recorded."""

    data_processing: bool
    gdpr_compliant: bool
    marketing: bool
    timestamp: datetime
    notice: str | None


def refused_flags(consent: GuestConsent) -> dict[str, str]:
    """The flags that keep the session from being opened, each with what was given for it.

    A flag consents only when it is exactly `True` (contract, "Session creation").
    """
    flags = {"dataProcessing": consent.data_processing, "gdprCompliant": consent.gdpr_compliant}
    return {name: _given(value) for name, value in flags.items() if value is not True}


def _given(value: object) -> str:
    """A value as short JSON text in pure ASCII: whatever the caller sent, it can be stored and read back."""
    text = json.dumps(value, default=str, separators=(",", ":"))
    return text if len(text) <= _GIVEN_LIMIT else text[: _GIVEN_LIMIT - 1] + "~"


def fingerprint(request: GuestRequest) -> str:
    """Lowercase hex SHA-256 of `ip:userAgent:timestamp`, the guest's own values as given."""
    return sha256(f"{request.ip_address}:{request.user_agent}:{request.timestamp}".encode()).hexdigest()
