"""Strict validation of a creation request (contract, "Session creation")."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from guestledger.engine.domain.personal import Guarded

_Text = Annotated[str, Meta(min_length=1)]


class _Metadata(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    source: _Text
    campaign: _Text
    device_type: _Text


class _Consent(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    marketing: bool
    data_processing: bool
    gdpr_compliant: bool
    consent_timestamp: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")]


class _Guest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    metadata: _Metadata
    consent: _Consent


class _Attributes(Guarded, frozen=True, rename="camel", forbid_unknown_fields=True):
    visitor_fingerprint: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", extra={"personal": True})]
    initialization_latency: Literal[0]
    retry_count: Annotated[int, Meta(ge=0)]


class Creation(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A valid creation request."""

    channel_id: _Text
    guest: _Guest
    attributes: _Attributes


_decoder = msgspec.json.Decoder(Creation)


def read_creation(body: bytes) -> Creation:
    """The request in `body`. Raise `ValueError` with the message of the 400."""
    try:
        creation = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise ValueError(str(error).replace("`", "'")) from None
    consent = creation.guest.consent
    if not (consent.data_processing and consent.gdpr_compliant):
        raise ValueError("dataProcessing and gdprCompliant must be true")
    return creation
