"""Which of the addresses behind one name are connected to: none whose bytes were wrong, while there is another.

A CDN is many machines under one name, and connections are spread over them. One that sends wrong bytes would spoil
every try at a large file, for some connection always meets it. Nobody can tell which one it was, so all that were met
are suspected, and then they are asked one by one. That bytes were wrong is the engine's word (ports.Origin.distrust).

And nobody is asked at an address of a private network because a public Hub said so: what a name leads to is known only
now, and may be another address each time it is looked up.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from aiohttp.tracing import Trace

from qwen_daemon.shell.newest import Newest

NAMES_MAX = 1000
ADDRESSES_MAX = 1000
DNS_TTL_S = 60
_SITE_LOCAL = ipaddress.IPv6Network("fec0::/10")  # RFC 3879: no more, but nobody else's either
# IPv4 addresses in the last bytes: compatible and mapped ones (RFC 4291), those behind a NAT64 (RFC 6052, RFC 8215)
_HOLDING_IPV4 = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")))
_only_public: ContextVar[bool] = ContextVar("only_public", default=False)


class PrivateAddress(aiohttp.ClientConnectionError):
    """The name of a stranger leads into a private network; nothing was asked there."""


@lru_cache(maxsize=256)  # of the Hub and its addresses it is asked with every file
def is_private(host: str) -> bool:
    """Whether this name or address is of one's own machine or network, as far as it can be seen from it alone."""
    host = host.removesuffix(".")  # of a name that is complete
    if "." not in host and ":" not in host:  # localhost, and names that only one's own network knows
        return True
    if host.endswith((".localhost", ".local", ".lan", ".internal", ".home.arpa")):
        return True
    address = _address(host)
    return address is not None and (not address.is_global or address.is_multicast or address in _SITE_LOCAL)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IPv4 address if it is one in IPv6's clothes; None of a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        with suppress(OSError):  # 127.1 and 0x7f.1, which whoever looks names up reads as numbers
            return ipaddress.IPv4Address(socket.inet_aton(host))
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.sixtofour is not None:
            return address.sixtofour
        if any(address in network for network in _HOLDING_IPV4):
            return ipaddress.IPv4Address(address.packed[-4:])
    return address


@contextmanager
def only_public(only: bool) -> Iterator[None]:
    """Inside, connecting to a private address raises PrivateAddress (if `only`); a proxy is one's own choice."""
    before = _only_public.set(only)
    try:
        yield
    finally:
        _only_public.reset(before)


def trusted(addresses: Collection[str], lies: Mapping[str, int]) -> frozenset[str]:
    """Those that never lied; if all of them have, the one that did least often."""
    fewest = min((lies.get(address, 0) for address in addresses), default=0)
    best = sorted(address for address in addresses if lies.get(address, 0) == fewest)
    return frozenset(best[:1] if fewest else best)


class Edges(aiohttp.TCPConnector):
    """Makes the connections of a session; `limit` at most. `trust`: whose certificates are, if not the system's."""

    def __init__(
        self, *, limit: int, resolver: AbstractResolver | None = None, trust: ssl.SSLContext | None = None
    ) -> None:
        self._lies = Newest[str, int](ADDRESSES_MAX)
        self._met = Newest[tuple[str, str], None](ADDRESSES_MAX)  # by name: who was connected to since its last lie
        self._names = _Names(resolver or ThreadedResolver(), self._lies)
        super().__init__(limit=limit, ssl=trust or True, resolver=self._names, ttl_dns_cache=DNS_TTL_S)

    def lied(self, name: str) -> None:
        """What came from this name was wrong; it must not come from the same addresses once more."""
        for met in [met for met in self._met if met[0] == name]:
            del self._met[met]
            self._lies[met[1]] = self._lies.get(met[1], 0) + 1
        self.clear_dns_cache()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        """As aiohttp; a connection that was kept, to an address that has lied since, is closed."""
        name = req.url.host or ""
        while True:
            try:
                connection = await super().connect(req, traces, timeout)
            except aiohttp.ClientConnectorDNSError:
                raise  # which says nothing about any address
            except (aiohttp.ClientConnectorError, TimeoutError):
                self._forgive(name)
                raise
            address = _peer(connection)
            if not address:  # reset by now
                connection.close()
                raise aiohttp.ServerDisconnectedError
            if _only_public.get() and req.proxy is None and is_private(address):
                connection.close()
                raise PrivateAddress(f"{name} is at a private address")
            if self._names.trusts(name, address):
                self._met[name, address] = None
                return connection
            connection.close()
            self.clear_dns_cache()  # a look-up that was under way may have put it there

    def is_private(self, name: str) -> bool:
        """Whether the name itself is, or all addresses it led to when it was last looked up: one could be a lure."""
        behind = self._names.behind(name)
        return is_private(name) or (bool(behind) and all(map(is_private, behind)))

    def _forgive(self, name: str) -> None:
        """Those who never lied cannot be reached: rather ask all of them again than nobody."""
        for address in self._names.behind(name):
            if self._lies.pop(address, 0):
                self.clear_dns_cache()


class _Names(AbstractResolver):
    """Looks names up, and gives the trusted ones of their addresses."""

    def __init__(self, resolver: AbstractResolver, lies: Mapping[str, int]) -> None:
        self._resolver = resolver
        self._lies = lies
        self._behind = Newest[str, frozenset[str]](NAMES_MAX)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """See aiohttp."""
        found = await self._resolver.resolve(host, port, family)
        self._behind[host] = frozenset(one["host"] for one in found)
        chosen = trusted(self._behind[host], self._lies)
        return [one for one in found if one["host"] in chosen]

    async def close(self) -> None:
        """See aiohttp."""
        await self._resolver.close()

    def behind(self, name: str) -> frozenset[str]:
        """All addresses of the name, as it was last looked up."""
        return self._behind.get(name, frozenset())

    def trusts(self, name: str, address: str) -> bool:
        """False only for one that lied, while another has the name."""
        return not self._lies.get(address) or address in trusted(self.behind(name) | {address}, self._lies)


def _peer(connection: aiohttp.connector.Connection) -> str:
    transport = connection.transport
    peer = transport.get_extra_info("peername") if transport is not None else None
    return peer[0] if peer else ""
