"""Events as canonical JSON (RFC 8785), under a stable wire name.

Keys are ASCII and sorted; no value is a float.
"""

from typing import Any

import msgspec

from guestledger.engine.domain.events import EVENT_TYPES, Event
from guestledger.engine.domain.personal import Sealed
from guestledger.engine.domain.unreadable import UnknownEvent
from guestledger.engine.log.upcasting import upcast


def _plain(value: Any) -> str:
    if isinstance(value, Sealed):
        return str.__str__(value)
    raise NotImplementedError


_WIRE_NAMES = {cls: name for name, cls in EVENT_TYPES.items()}
# A commitment is a kind of string, which msgspec does not encode by itself.
_encoder = msgspec.json.Encoder(order="sorted", enc_hook=_plain)
_decoders = {name: msgspec.json.Decoder(cls) for name, cls in EVENT_TYPES.items()}


def wire_name(event: Event) -> str:
    """The stable name under which `event` is stored."""
    return _WIRE_NAMES[type(event)]


def encode(event: Event) -> str:
    """The canonical JSON of `event`: the text that is stored and hashed."""
    return _encoder.encode(event).decode()


def decode(event_type: str, schema_version: int, data: str) -> Event:
    """The event in `data`, upcast if its schema version is old.

    Raises `UnknownEvent` if this release does not know the type or version, or `data` do not fit.
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
        # Only the place: the message may quote a value, which may be personal.
        _, found, path = str(error).rpartition(" - at ")
        raise UnknownEvent(event_type, schema_version, misfit=path if found else "`$`") from None
