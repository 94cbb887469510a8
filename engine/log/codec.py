"""How events are written down: each under a stable wire name, as canonical JSON, and how what was written long ago is read.

The JSON is canonical by RFC 8785: keys are ASCII and sorted, values are strings, integers, booleans, null, and lists or
objects of these; there are no floats.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from guestledger.engine.domain import events as e
from guestledger.engine.domain.errors import UnknownEvent
from guestledger.engine.log.upcasting import upcast

# The wire names. A name, once released, stands for ever: old logs are full of it.
EVENT_TYPES: Mapping[str, type[e.Event]] = {
    "ConsentRecorded": e.ConsentRecorded,
    "ConsentRefused": e.ConsentRefused,
    "ChannelValidated": e.ChannelValidated,
    "ChannelRejected": e.ChannelRejected,
    "ChannelLookupFailed": e.ChannelLookupFailed,
    "CreationDeferred": e.CreationDeferred,
    "CreationAttempted": e.CreationAttempted,
    "CreationThrottled": e.CreationThrottled,
    "CreationFailed": e.CreationFailed,
    "SessionCreated": e.SessionCreated,
    "DuplicateCreated": e.DuplicateCreated,
    "DoubtLifted": e.DoubtLifted,
    "SessionParked": e.SessionParked,
    "RetryDecided": e.RetryDecided,
    "AbandonmentDecided": e.AbandonmentDecided,
    "SessionAdopted": e.SessionAdopted,
    "GuestTokenFound": e.GuestTokenFound,
    "WebhookSynced": e.WebhookSynced,
    "WebhookFailed": e.WebhookFailed,
    "WebhookAbandoned": e.WebhookAbandoned,
    "WebhookRedeliveryRequested": e.WebhookRedeliveryRequested,
    "TokenExpired": e.TokenExpired,
    "SessionAbandoned": e.SessionAbandoned,
}
_WIRE_NAMES = {cls: name for name, cls in EVENT_TYPES.items()}
_encoder = msgspec.json.Encoder(order="sorted")
_decoders = {name: msgspec.json.Decoder(cls) for name, cls in EVENT_TYPES.items()}


def wire_name(event: e.Event) -> str:
    """The stable name under which `event` is stored."""
    return _WIRE_NAMES[type(event)]


def encode(event: e.Event) -> str:
    """The canonical JSON (RFC 8785) of `event`: the text that is stored and hashed."""
    return _encoder.encode(event).decode()


def decode(event_type: str, schema_version: int, data: str) -> e.Event:
    """The event in `data`; one of an old schema version is upcast.

    Raises `UnknownEvent` when this release knows no such type or schema version, or `data` do not fit it.
    """
    kind = EVENT_TYPES.get(event_type)
    if kind is None or not 1 <= schema_version <= kind.schema_version:
        raise UnknownEvent(event_type, schema_version)
    try:
        if schema_version == kind.schema_version:
            return _decoders[event_type].decode(data)
        old = msgspec.json.decode(data, type=dict[str, Any])
        return msgspec.convert(upcast(event_type, old, stored=schema_version, wanted=kind.schema_version), kind)
    except msgspec.MsgspecError as error:
        # Only where it does not fit: the rest of the message may quote a value, and that may be a person's.
        _, found, path = str(error).rpartition(" - at ")
        raise UnknownEvent(event_type, schema_version, misfit=path if found else "`$`") from None
