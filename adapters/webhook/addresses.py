"""Permit public addresses only (SSRF). Each is checked when its socket is opened: DNS rebinding has no effect."""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import AddrInfoType

_CGNAT = ip_network("100.64.0.0/10")  # RFC 6598
# RFC 1918, RFC 4193; fec0::/10 is deprecated (RFC 3879).
_PRIVATE = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10")))
# Global in some releases of `ipaddress`: RFC 6890, 7526, 9637.
_RESERVED = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # RFC 4291, section 2.4
# Gateways may lead back into a private network: RFC 6052, 8215, 3056.
_GATEWAYS = {
    "NAT64": (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48")),
    "6to4": (IPv6Network("2002::/16"),),
}


class AddressRefused(PermissionError):
    """The address is not public. All have one text: asyncio then raises one of them, not a list."""

    def __init__(self, kind: str) -> None:
        super().__init__("not a public address")
        self.kind = kind


def open_public_socket(address: AddrInfoType) -> socket.socket:
    """A socket for `address`, an entry of `getaddrinfo`. Raise `AddressRefused`."""
    family, kind, protocol, _, target = address
    refused = why_refused(str(target[0]))
    if refused is not None:
        raise AddressRefused(refused)
    return socket.socket(family=family, type=kind, proto=protocol)


def why_refused(address: str) -> str | None:
    """The kind of an IP address that is not public, such as `loopback`. `None` if it is public."""
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        for kind, networks in _GATEWAYS.items():
            if any(found in network for network in networks):
                return kind
        found = found.ipv4_mapped or found  # RFC 4291
    for kind in ("unspecified", "loopback", "link-local", "multicast"):
        if getattr(found, f"is_{kind.replace('-', '_')}"):
            return kind
    if found in _CGNAT:
        return "shared (CGNAT)"
    if any(found in network for network in _PRIVATE):
        return "private"
    return "reserved" if _is_reserved(found) else None


def _is_reserved(address: IPv4Address | IPv6Address) -> bool:
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return True
    return address.is_reserved or not address.is_global or any(address in network for network in _RESERVED)
