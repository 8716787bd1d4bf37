"""Which addresses may be dialled. The list is written out, because every library means something else by "private".

Pure. It doesn't resolve: the caller hands in all answers for a name and dials only what came back from `permitted`.
"""

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# 192.0.2/24, 198.51.100/24 and 203.0.113/24 are missing on purpose: labs and build farms use these documentation
# ranges for stand-ins of public servers, and nothing private has its address there.
_REFUSED_V4: dict[str, str] = {
    "0.0.0.0/8": "unspecified",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "carrier-grade NAT",  # also 100.100.100.200, a metadata service
    "127.0.0.0/8": "loopback",
    "168.63.129.16/32": "metadata",  # a cloud's host agent, on an otherwise public range
    "169.254.0.0/16": "link-local",  # also 169.254.169.254 and .170.2, the usual metadata services
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "reserved",  # also 192.0.0.192, a metadata service
    "192.88.99.0/24": "6to4 relay",
    "192.168.0.0/16": "private",
    "198.18.0.0/15": "synthetic",  # the resolver's own answers
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
}
# Outside 2000::/3 lies everything that isn't global unicast: ::, ::1, mapped, NAT64, ULA, link-local, multicast.
_GLOBAL_V6 = IPv6Network("2000::/3")
_REFUSED_V6: dict[str, str] = {
    "2001::/23": "special",  # Teredo (embeds an IPv4 address), ORCHID, benchmarking
    "2001:db8::/32": "documentation",
    "2002::/16": "6to4",  # embeds an IPv4 address
    "3fff::/20": "documentation",
}
# Not even a name that may be private leads there: these are no servers, or hand out the machine's credentials.
_NEVER = ("unspecified", "multicast", "synthetic", "metadata", "link-local")

_NETWORKS_V4 = [(IPv4Network(text), kind) for text, kind in _REFUSED_V4.items()]
_NETWORKS_V6 = [(IPv6Network(text), kind) for text, kind in _REFUSED_V6.items()]


class Refused(Exception):
    """A name must not be dialled, because of where it leads. The message names the address and why."""


def kind(address: Address) -> str | None:
    """What makes this address not public, or None if it is public."""
    if isinstance(address, IPv4Address):
        return next((kind for network, kind in _NETWORKS_V4 if address in network), None)
    if address not in _GLOBAL_V6:
        return _kind_of_special_v6(address)
    return next((kind for network, kind in _NETWORKS_V6 if address in network), None)


def _kind_of_special_v6(address: IPv6Address) -> str:
    if address.ipv4_mapped is not None:
        return kind(address.ipv4_mapped) or "IPv4-mapped"
    for what in ("unspecified", "loopback", "multicast", "link_local"):
        if getattr(address, f"is_{what}"):
            return what.replace("_", "-")
    return "private" if address in IPv6Network("fc00::/7") else "reserved"


def permitted(
    answers: Iterable[str],
    own: Collection[Address],
    *,
    may_be_private: bool,
    private_networks: Collection[Network] = (),
) -> list[Address]:
    """All answers as addresses, if every single one may be dialled; raises Refused otherwise.

    `may_be_private` and `private_networks` are the administrator's leave, for the name and for single addresses.
    One bad answer spoils all: a name that resolves to a public and a private address is an attack or a mistake.
    """
    addresses = list(dict.fromkeys(ip_address(answer.partition("%")[0]) for answer in answers))
    if not addresses:
        raise Refused("it has no address")
    for address in addresses:
        what = kind(address)
        if what not in _NEVER:
            if may_be_private or any(address in network for network in private_networks):
                continue
            what = "one of this host's own addresses" if address in own else what
        if what is not None:
            raise Refused(f"it resolves to {address} ({what}), and only public addresses can be reached")
    return addresses
