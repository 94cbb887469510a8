"""A refused address is refused in every notation."""

from ipaddress import IPv4Address, IPv6Address

from hypothesis import example, given, strategies as st

from guestledger.adapters.webhook.addresses import why_refused

addresses = (
    st.ip_addresses(v=4) | st.ip_addresses(v=4, network="10.0.0.0/8") | st.ip_addresses(v=4, network="127.0.0.0/8")
)


@given(address=addresses, rest=st.integers(0, 2**80 - 1))
@example(address=IPv4Address("127.0.0.1"), rest=0)
def test_mapped_addresses_are_unwrapped_and_gateways_refused(address: IPv4Address, rest: int) -> None:
    mapped = IPv6Address((0xFFFF << 32) + int(address))
    nat64 = IPv6Address((0x64FF9B << 96) + int(address))
    by_6to4 = IPv6Address((0x2002 << 112) + (int(address) << 80) + rest)

    assert why_refused(str(mapped)) == why_refused(str(address))
    assert (why_refused(str(nat64)), why_refused(str(by_6to4))) == ("NAT64", "6to4")


@given(address=st.ip_addresses())
def test_permitted_address_is_global_in_pythons_registry(address: IPv4Address | IPv6Address) -> None:
    if why_refused(str(address)) is None:
        assert address.is_global
        assert not address.is_multicast
