"""Webhooks call public addresses only."""

import socket

import pytest

from guestledger.adapters.webhook.addresses import AddressRefused, open_public_socket, why_refused

REFUSED = {
    "0.0.0.0": "unspecified",
    "0.1.2.3": "reserved",
    "10.0.0.1": "private",
    "100.64.0.1": "shared (CGNAT)",
    "100.127.255.255": "shared (CGNAT)",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "169.254.169.254": "link-local",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.0.0.9": "reserved",
    "192.0.2.1": "reserved",
    "192.88.99.1": "reserved",
    "192.168.1.1": "private",
    "198.18.0.1": "reserved",
    "198.51.100.1": "reserved",
    "203.0.113.7": "reserved",
    "224.0.0.1": "multicast",
    "233.252.0.1": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::": "unspecified",
    "::1": "loopback",
    "::8.8.8.8": "reserved",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:10.0.0.1": "private",
    "::ffff:100.64.0.1": "shared (CGNAT)",
    "64:ff9b::7f00:1": "NAT64",
    "64:ff9b::a9fe:a9fe": "NAT64",
    "64:ff9b::a00:1": "NAT64",
    "64:ff9b::808:808": "NAT64",
    "64:ff9b:1::808:808": "NAT64",
    "2002:808:808::1": "6to4",
    "100::1": "reserved",
    "2001::1": "reserved",
    "2001:db8::1": "reserved",
    "2002:7f00:1::": "6to4",
    "2002:a9fe:a9fe::1": "6to4",
    "2002:c0a8:101::1": "6to4",
    "3fff::1": "reserved",
    "4000::1": "reserved",
    "5f00::1": "reserved",
    "fc00::1": "private",
    "fd00:ec2::254": "private",
    "fe80::1": "link-local",
    "fe80::1%lo": "link-local",
    "fec0::1": "private",
    "ff02::1": "multicast",
    "ff0e::1": "multicast",
}
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.1",
    "172.32.0.1",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
]


@pytest.mark.parametrize("address", REFUSED)
def test_address_that_is_not_public_is_refused_by_kind(address: str) -> None:
    assert why_refused(address) == REFUSED[address]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_permitted_in_every_form(address: str) -> None:
    assert why_refused(address) is None


def test_no_socket_is_opened_for_a_refused_address() -> None:
    with pytest.raises(AddressRefused, match="not a public address") as caught:
        open_public_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("10.1.2.3", 80)))
    assert caught.value.kind == "private"
    assert "10.1.2.3" not in str(caught.value)
    with open_public_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("8.8.8.8", 80))) as opened:
        assert opened.family is socket.AF_INET
