"""Who may send: pairs of AE title and address. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from app.model.errors import ConfigError

AE_TITLE = re.compile(r"[ -\[\]-~]{1,16}")
"""PS3.5 6.2: at most 16 characters of the default repertoire, without control characters and backslash."""
ANY = "*"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Peer:
    """An AE title at an address or in a network; None stands for any."""

    ae_title: str | None
    network: Network | None


@dataclass(frozen=True, slots=True)
class Peers:
    """The peers that may send; an empty list admits everyone."""

    listed: tuple[Peer, ...]

    @classmethod
    def parsed(cls, entries: Iterable[str]) -> Peers:
        """Return the peers of entries such as `CT1@10.0.0.5`, `*@10.0.0.0/24` and `CT1@*`.

        Raises
        ------
        ConfigError : an entry is not of this form
        """
        return cls(tuple(map(_peer, entries)))

    def admits_address(self, address: str) -> bool:
        """Return whether any peer may connect from an address."""
        return not self.listed or any(_covers(peer, address) for peer in self.listed)

    def admits(self, ae_title: str, address: str) -> bool:
        """Return whether this AE title may send from this address."""
        return not self.listed or any(
            peer.ae_title in (None, ae_title.strip()) and _covers(peer, address) for peer in self.listed
        )


def _peer(entry: str) -> Peer:
    title, at, address = entry.rpartition("@")
    try:
        network = None if address == ANY else ipaddress.ip_network(address, strict=False)
    except ValueError:
        at = ""
    if not at or not AE_TITLE.fullmatch(title):
        raise ConfigError(
            f"dimse.peers: {entry!r} is not AE@ADDRESS, with * for any AE title or address;"
            " write CT1@10.0.0.5 or *@10.0.0.0/24"
        )
    return Peer(None if title == ANY else title.strip(), network)


def _covers(peer: Peer, address: str) -> bool:
    if peer.network is None:
        return True
    found: Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:  # a socket of both families
        found = found.ipv4_mapped
    return found in peer.network
