"""Consent and fingerprint (contract, "Session creation")."""

import json
from datetime import datetime
from hashlib import sha256

import msgspec
from msgspec.structs import replace

from guestledger.engine.domain.consent_terms import ConsentTerms, PrivacyNotice
from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.domain.request import GuestConsent, GuestRequest

RECORD_VERSION = 1
"""Of `Evidence`, and of the consent record that is read from it."""

_GIVEN_LIMIT = 64
_CUT = "~"  # no JSON text ends in it


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the guest was asked: the notice, and the terms of that time. `None`: not stated.

    It is whole in every record. A reference would need a second event as evidence, and that may be in a partition that
    is detached by then.
    """

    record_version: int
    notice: PrivacyNotice | None = None
    """The notice by which the guest was informed: what the request says, completed by the terms."""
    collection_method: str | None = None
    """What the request says; `None`: as the terms say."""
    terms: ConsentTerms = ConsentTerms()
    """Without their `notices`."""


class Consent(msgspec.Struct, frozen=True, kw_only=True):
    """Sufficient consent, as recorded."""

    data_processing: bool
    gdpr_compliant: bool
    marketing: bool
    timestamp: datetime
    notice: str | None
    evidence: Evidence


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
    hmac_key: Personal
    """A random key (hex) for the digests of this guest's requests. Without it nobody can test a guess at them."""


def evidence(asked: GuestConsent, terms: ConsentTerms) -> Evidence:
    """What is recorded of how the guest was asked."""
    return Evidence(
        record_version=RECORD_VERSION,
        notice=_shown_notice(asked, terms),
        collection_method=asked.collection_method,
        terms=replace(terms, notices=()) if terms.notices else terms,
    )


def _shown_notice(asked: GuestConsent, terms: ConsentTerms) -> PrivacyNotice | None:
    """The notice that was shown. The terms complete it if they have exactly one such: nothing is guessed."""
    if asked.notice is None:
        return None
    language, digest = asked.notice_language, asked.notice_sha256
    known = [
        text
        for text in terms.notices
        if text.id == asked.notice and language in (None, text.language) and digest in (None, text.sha256)
    ]
    if len(known) == 1:
        return known[0]
    return PrivacyNotice(id=asked.notice, language=language, sha256=digest)


def refused_flags(consent: GuestConsent) -> dict[str, str]:
    """The flags other than exactly `True`, each with its value."""
    flags = {"dataProcessing": consent.data_processing, "gdprCompliant": consent.gdpr_compliant}
    return {name: _given(value) for name, value in flags.items() if value is not True}


def _given(value: object) -> str:
    """Short ASCII JSON: any value can be stored."""
    text = json.dumps(value, default=str, separators=(",", ":"))
    return text if len(text) <= _GIVEN_LIMIT else text[: _GIVEN_LIMIT - 1] + _CUT


def is_cut(given: str) -> bool:
    """Whether the value of a refused flag was too long to be recorded whole."""
    return given.endswith(_CUT)


def fingerprint(request: GuestRequest) -> str:
    """Lowercase hex SHA-256 of `ip:userAgent:timestamp`, the values as given."""
    return sha256(f"{request.ip_address}:{request.user_agent}:{request.timestamp}".encode()).hexdigest()
