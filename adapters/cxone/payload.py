"""The body of a creation request (contract, "Session creation")."""

from datetime import UTC, datetime

import msgspec

from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.domain.session import Session


class _Metadata(msgspec.Struct, rename="camel"):
    source: str
    campaign: str
    device_type: str


class _Consent(msgspec.Struct, rename="camel"):
    marketing: bool
    data_processing: bool
    gdpr_compliant: bool
    consent_timestamp: datetime


class _Guest(msgspec.Struct):
    metadata: _Metadata
    consent: _Consent


class _Attributes(Guarded, frozen=True, rename="camel"):
    visitor_fingerprint: Personal
    initialization_latency: int
    retry_count: int


class _Creation(msgspec.Struct, rename="camel"):
    channel_id: str
    guest: _Guest
    attributes: _Attributes


_encoder = msgspec.json.Encoder()


def creation_body(session: Session) -> bytes:
    """The JSON for the next attempt of `session`, with the contract's order of keys."""
    guest, consent = session.guest, session.consent
    assert guest is not None, "a session without a guest cannot be created"
    assert consent is not None, "a session without consent must not be created"
    metadata = _Metadata(guest.source, guest.campaign, guest.device_type)
    agreed = _Consent(
        marketing=consent.marketing,
        data_processing=consent.data_processing,
        gdpr_compliant=consent.gdpr_compliant,
        consent_timestamp=consent.timestamp.astimezone(UTC).replace(microsecond=0),  # written as `…:00Z`
    )
    attributes = _Attributes(guest.fingerprint, initialization_latency=0, retry_count=session.attempts)
    return _encoder.encode(_Creation(session.channel_id, _Guest(metadata, agreed), attributes))
