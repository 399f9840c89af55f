"""Which network addresses a caller may make this machine talk to. Pure."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

_PUBLIC_V6: Final = IPv6Network("2000::/3")
# How networks without IPv4 reach it: the last 32 bits are the IPv4 address.
_TRANSLATED: Final = IPv6Network("64:ff9b::/96")
_NEVER: Final = (IPv4Network("0.0.0.0/8"), IPv4Network("255.255.255.255/32"))


def may_be_called(address: str, *, private: bool) -> bool:
    """Whether a connection to this address may be made for a caller.

    `private` also allows loopback and local networks, but never link-local addresses, where clouds keep credentials,
    nor multicast, broadcast, unspecified and tunnelled ones.
    """
    try:
        ip = _innermost(ip_address(address.partition("%")[0]))
    except ValueError:
        return False
    if ip.is_multicast or ip.is_unspecified or ip.is_link_local:
        return False
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _NEVER) and (ip.is_global or (private and ip.is_private))
    if ip.sixtofour is not None or ip.teredo is not None:
        return False
    return (ip.is_global and ip in _PUBLIC_V6) or (private and ip.is_private)


def _innermost(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that a packet would reach in the end, where one is written as IPv6."""
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            return ip.ipv4_mapped
        if ip in _TRANSLATED:
            return IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip
