"""Which guest's sessions are wanted."""

from ipaddress import ip_address
from typing import NamedTuple

from guestledger.engine.domain.personal import Guarded, Personal


class GuestFilter(Guarded, frozen=True, kw_only=True):
    """The sessions of one guest: all that is given must match. Erased guests match nothing.

    The log holds no personal data, so an index of keyed hashes is searched: the key vault is needed. Raises `ValueError`
    for a text that is no IP address.
    """

    subject_id: Personal | None = None
    """The caller's id of the person, as in the request."""
    ip_address: Personal | None = None
    fingerprint: Personal | None = None

    def __post_init__(self) -> None:
        if self.ip_address is not None:
            try:
                ip_address(self.ip_address)
            except ValueError:
                raise ValueError("the address is not an IPv4 or IPv6 address") from None

    def __bool__(self) -> bool:
        return any(value is not None for value in (self.subject_id, self.ip_address, self.fingerprint))


class GuestHashes(NamedTuple):
    """The keyed hashes of what a `GuestFilter` names. `None`: not asked for."""

    subject: bytes | None
    ip_address: bytes | None
    fingerprint: bytes | None
