"""Decide which URLs content is sent to and fetched from: a server that was taken over must not aim us elsewhere.

One policy for both directions. A URL is https (plain http where ``server_url`` may be so, too: to this
machine and to ``allow_http_hosts``), has no user in it, and its host is one of

- the server's own ``host:port`` (``server_url``);
- Amazon S3's own hosts, for the two buckets of the contract only;
- ``download_hosts``: ``host``, ``host:port`` or ``*.suffix[:port]``. Without a port it is the
  scheme's default one, so that a listed host does not open its other services.

A name is looked up by `UrlPolicy.addresses`, and the connection goes to one of the addresses that passed
there, so a name that answers otherwise a moment later gains nothing:

========================  =====================================================================
link-local, metadata      never
this machine              where the server itself is on it
private                   of the server itself, and of what ``download_hosts`` lists
public                    yes
========================  =====================================================================

Redirects are never followed. Through a proxy of the environment the proxy looks names up: then only what
the URL says is checked here.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from core.errors import ForbiddenUrl, SettingsError
from core.settings import LOOPBACK_HOSTS, Settings
from core.tls_policy import is_loopback

BUCKETS = frozenset({"escher-tenant-data", "escher-library"})
DEFAULT_PORTS = {"https": 443, "http": 80}
MAX_URL_CHARS = 16 * 1024
_HOST = r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\]"
# stricter than RFC 3986: what two parsers might read differently (users, spaces, backslashes) is
# no URL here, so the host that is checked is the host that is called
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?P<path>/[!\"$->@-\[\]-~]*)?(?:\?[!\"$-\[\]-~]*)?",
    re.IGNORECASE | re.ASCII,  # else ſ and the Kelvin sign are taken for s and k
)
_LISTED = re.compile(
    rf"(?P<any>\*\.)?(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?", re.IGNORECASE | re.ASCII
)
_S3 = re.compile(
    r"(?:(?P<bucket>[a-z0-9-]+)\.)?s3(?:-fips)?(?:\.dualstack)?"
    r"(?:\.[a-z]{2}(?:-[a-z]+)+-[0-9]+)?\.amazonaws\.com(?:\.cn)?"
)
# C libraries take 2852039166, 0xa9.0376.43518 and 127.1 for addresses; Python's reader does not
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)", re.IGNORECASE)
_METADATA_NAMES = frozenset({
    "metadata", "metadata.google.internal", "metadata.goog", "instance-data",
    "instance-data.ec2.internal", "metadata.azure.internal", "metadata.tencentyun.com",
})  # fmt: skip
_NEVER = tuple(
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",  # link-local; the metadata of nearly every cloud
        "fe80::/10",
        "fd00:ec2::/32",  # Amazon, over IPv6
        "fd20:ce::/32",  # Google, over IPv6
        "100.100.100.200/32",  # Alibaba
        "168.63.129.16/32",  # Azure's host agent
        "192.0.0.192/32",  # Oracle
        "0.0.0.0/8",  # "this host": the kernel takes it for loopback
        "::/128",
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "ff00::/8",
    )
)
_NAT64 = tuple(ipaddress.ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48"))
_ISATAP = 0x5EFE  # the middle of an address that ends in an IPv4 one (RFC 5214)
_COMPATIBLE = ipaddress.ip_network("::/96")
_DO_NOT_TRUST = "Do not trust this server: no setting allows such an address."
_LIST_IT = (
    "If content is kept there, add it to the setting download_hosts (ESCHER_DOWNLOAD_HOSTS); "
    "if not, do not trust this server."
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Reach(IntEnum):
    """How far away an address is, the more dangerous the higher."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    NEVER = 3


class _Place(NamedTuple):
    """A host and the port that is called."""

    host: str
    port: int


class UrlPolicy:
    """The allow-list of one process' settings; safe in threads. ``resolve``: as `socket.getaddrinfo`."""

    def __init__(
        self, settings: Settings, resolve: Callable[..., Sequence[Any]] = socket.getaddrinfo
    ) -> None:
        self._settings = settings
        self._resolve = resolve

    def check(self, url: str, doing: str = "fetched from") -> None:
        """Raise `ForbiddenUrl` unless content may be ``fetched from`` or ``sent to`` the ``url``.

        It names the host only: the rest of the URL may be a permission.
        """
        match = _URL.fullmatch(url) if len(url) <= MAX_URL_CHARS else None
        host = _plain(match["host"]) if match else ""
        if (
            match is None
            or _climbs(match["path"] or "/")
            or (_address(host) is None and (_NUMERIC.fullmatch(host) or "[" in match["host"]))
        ):
            raise ForbiddenUrl(
                f"The server wants content {doing} a URL that is none: it is malformed, holds a"
                " user, or writes an address in an unusual way.",
                "Check server_url: it must lead to an Escher server.",
            )
        scheme = match["scheme"].lower()
        place = _Place(host, int(match["port"] or DEFAULT_PORTS[scheme]))
        address = _address(host)
        reach = Reach.PUBLIC if address is None else reach_of(address)
        if host in LOOPBACK_HOSTS:
            reach = Reach.LOOPBACK
        if reach is Reach.NEVER or host in _METADATA_NAMES:
            raise ForbiddenUrl(
                f"The server wants content {doing} {host}, a link-local or metadata address.",
                _DO_NOT_TRUST,
            )
        if scheme == "http" and not self._settings.may_go_in_clear(host):
            raise ForbiddenUrl(
                f"The server wants content {doing} {host} over plain http.",
                "Content goes over https only, or over http on this machine and to a host that "
                "the setting allow_http_hosts names.",
            )
        if self._is_known(place) and self._may_reach(place, reach):
            return
        if scheme == "https" and place.port == DEFAULT_PORTS["https"]:
            found = _S3.fullmatch(host)
            if found and (found["bucket"] or (match["path"] or "/").split("/")[1]) in BUCKETS:
                return
        inside = reach is not Reach.PUBLIC
        raise ForbiddenUrl(
            f"The server wants content {doing} {host}:{place.port}"
            f"{' (an address of this machine or a private network)' if inside else ''}, which is "
            "not among the hosts that content may go to and come from.",
            _LIST_IT,
        )

    def addresses(self, host: str, port: int) -> list[str]:
        """Look up the addresses of ``host``, of a URL that passed `check`, that may be connected to.

        `ForbiddenUrl` when there is none among them; an OSError when the name is not found.
        """
        place = _Place(_plain(host), port)
        found: dict[str, Reach] = {}
        for *_, socket_address in self._resolve(place.host, port, type=socket.SOCK_STREAM):
            text = str(socket_address[0])
            address = _address(text.partition("%")[0])
            found[text] = Reach.NEVER if address is None else reach_of(address)
        allowed = [text for text, reach in found.items() if self._may_reach(place, reach)]
        if not allowed:
            never = all(reach is Reach.NEVER for reach in found.values())
            what = "link-local or metadata" if never else "this machine's or a private network's"
            raise ForbiddenUrl(
                f"The name {place.host}, which the server gave, leads to {what} address.",
                _DO_NOT_TRUST if never else _LIST_IT,
            )
        return allowed

    def _may_reach(self, place: _Place, reach: Reach) -> bool:
        if reach is Reach.LOOPBACK:
            own_machine = is_loopback(self._own.host) and self._is_known(place)
            return place == self._own or own_machine
        return reach is Reach.PUBLIC or (reach is Reach.PRIVATE and self._is_known(place))

    def _is_known(self, place: _Place) -> bool:
        """Whether it is the server's own, or listed."""
        return place in self._places or (
            _address(place.host) is None
            and any(
                place.port == port and place.host.endswith(suffix)
                for suffix, port in self._suffixes
            )
        )

    @cached_property
    def _own(self) -> _Place:
        own = urlsplit(self._settings.server_url)
        return _Place(_plain(own.hostname or ""), own.port or DEFAULT_PORTS[own.scheme])

    @cached_property
    def _places(self) -> frozenset[_Place]:
        """The server's own place and those listed by name; read late, so only transfers fail."""
        places = {self._own}
        if self._own.host in LOOPBACK_HOSTS:  # the same machine under each of its names
            places |= {_Place(name, self._own.port) for name in LOOPBACK_HOSTS}
        for any_, host, port in self._listed:
            if not any_:
                places.add(_Place(host, port))
        return frozenset(places)

    @cached_property
    def _suffixes(self) -> tuple[tuple[str, int], ...]:
        return tuple(("." + host, port) for any_, host, port in self._listed if any_)

    @cached_property
    def _listed(self) -> tuple[tuple[bool, str, int], ...]:
        listed = []
        for entry in self._settings.download_hosts:
            match = _LISTED.fullmatch(entry)
            if match is None:
                raise SettingsError(
                    f"download_hosts holds {entry!r}, which is no host.",
                    "Write host, host:port or *.suffix, such as scripts.example.com:8443.",
                )
            host = _plain(match["host"])
            default = DEFAULT_PORTS["http" if host in LOOPBACK_HOSTS else "https"]
            listed.append((bool(match["any"]), host, int(match["port"] or default)))
        return tuple(listed)


def reach_of(address: Address) -> Reach:
    """How far away an address is; one that carries an IPv4 address is judged by that, too."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return reach_of(address.ipv4_mapped)
        inside = _carried(address)
        own = _reach(address)
        # the prefix of a translation is nobody's address: what it translates to counts
        if any(address in network for network in _NAT64):
            own = Reach.PUBLIC
        return max([own, *(reach_of(it) for it in inside)])
    return _reach(address)


def _reach(address: Address) -> Reach:
    if address.is_loopback:
        return Reach.LOOPBACK
    if any(address.version == net.version and address in net for net in _NEVER):
        return Reach.NEVER
    return Reach.PUBLIC if address.is_global else Reach.PRIVATE


def _carried(address: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that the forms for the change to IPv6 hold."""
    last = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    carried = [address.sixtofour] if address.sixtofour is not None else []
    carried += address.teredo or ()
    compatible = address in _COMPATIBLE and int(address) > 1
    isatap = (int(address) >> 32) & 0xFDFF_FFFF == _ISATAP
    if compatible or isatap or any(address in network for network in _NAT64):
        carried.append(last)
    return carried


def _plain(host: str) -> str:
    return host.lower().strip("[]")


def _climbs(path: str) -> bool:
    """Whether a part of the path is ``.`` or ``..``, which is resolved on its way out."""
    return any(part in {".", ".."} for part in re.split(r"[/\\]", unquote(unquote(path))))


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
