"""Consent and fingerprint (contract, "Session creation")."""

import json
from datetime import datetime
from hashlib import sha256

import msgspec

from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.domain.request import GuestConsent, GuestRequest

_GIVEN_LIMIT = 64


class Consent(msgspec.Struct, frozen=True, kw_only=True):
    """Sufficient consent, as recorded."""

    data_processing: bool
    gdpr_compliant: bool
    marketing: bool
    timestamp: datetime
    notice: str | None


class Guest(Guarded, frozen=True, kw_only=True):
    """Who asked, as given: the request without its consent. `timestamp` is the guest's own text."""

    source: str
    campaign: str
    device_type: str
    fingerprint: Personal
    ip_address: Personal
    user_agent: Personal
    timestamp: str
    subject_id: Personal | None
    idempotency_key: Personal | None


def refused_flags(consent: GuestConsent) -> dict[str, str]:
    """The flags other than exactly `True`, each with its value."""
    flags = {"dataProcessing": consent.data_processing, "gdprCompliant": consent.gdpr_compliant}
    return {name: _given(value) for name, value in flags.items() if value is not True}


def _given(value: object) -> str:
    """Short ASCII JSON: any value can be stored."""
    text = json.dumps(value, default=str, separators=(",", ":"))
    return text if len(text) <= _GIVEN_LIMIT else text[: _GIVEN_LIMIT - 1] + "~"


def fingerprint(request: GuestRequest) -> str:
    """Lowercase hex SHA-256 of `ip:userAgent:timestamp`, the values as given."""
    return sha256(f"{request.ip_address}:{request.user_agent}:{request.timestamp}".encode()).hexdigest()
