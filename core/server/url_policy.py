"""Which URLs scripts are fetched from: a server that was taken over must not aim us elsewhere.

https, or http to this machine; no user in it; and a host of the allow-list:

- the server's own ``host:port`` (``server_url``);
- Amazon S3's own hosts, for the two buckets of the contract only;
- ``download_hosts``: ``host``, ``host:port`` or ``*.suffix[:port]``. Without a port it is the
  scheme's default one, so that a listed host does not open its other services.

So an address of a private network, or a cloud's metadata service, is reached only where it is
the server's own or was listed. Redirects are never followed.
"""

from __future__ import annotations

import ipaddress
import re
from functools import cached_property
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from core.errors import NotEscherServer, SettingsError
from core.settings import LOOPBACK_HOSTS, Settings

BUCKETS = frozenset({"escher-tenant-data", "escher-library"})
DEFAULT_PORTS = {"https": 443, "http": 80}
MAX_URL_CHARS = 16 * 1024
_HOST = r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\]"
# stricter than RFC 3986: what two parsers might read differently (users, spaces, backslashes) is
# no URL here, so the host that is checked is the host that is called
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?P<path>/[!\"$->@-\[\]-~]*)?(?:\?[!\"$-\[\]-~]*)?",
    re.IGNORECASE,
)
_LISTED = re.compile(rf"(?P<any>\*\.)?(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?", re.IGNORECASE)
_S3 = re.compile(
    r"(?:(?P<bucket>[a-z0-9-]+)\.)?s3(?:-fips)?(?:\.dualstack)?"
    r"(?:\.[a-z]{2}(?:-[a-z]+)+-[0-9]+)?\.amazonaws\.com(?:\.cn)?"
)
_REMEDY = (
    "If scripts are kept there, add it to the setting download_hosts (ESCHER_DOWNLOAD_HOSTS); "
    "if not, do not trust this server."
)


class _Place(NamedTuple):
    """A host and the port that is called."""

    host: str
    port: int


class UrlPolicy:
    """The allow-list of one process' settings; safe in threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def check(self, url: str) -> None:
        """`NotEscherServer` unless scripts may be fetched from ``url``; it names the host only."""
        match = _URL.fullmatch(url) if len(url) <= MAX_URL_CHARS else None
        if match is None or _climbs(match["path"] or "/"):
            raise NotEscherServer(
                "The server gave a download URL that is none: it is malformed, or holds a user.",
                "Check server_url: it must lead to an Escher server.",
            )
        scheme = match["scheme"].lower()
        host = _plain(match["host"])
        place = _Place(host, int(match["port"] or DEFAULT_PORTS[scheme]))
        if scheme == "http" and host not in LOOPBACK_HOSTS:
            raise NotEscherServer(
                f"The server wants scripts fetched from {host} over plain http.",
                "Scripts come over https only, or over http from this machine.",
            )
        if place in self._places or self._under_suffix(place):
            return
        if scheme == "https" and place.port == DEFAULT_PORTS["https"]:
            found = _S3.fullmatch(host)
            if found and (found["bucket"] or (match["path"] or "/").split("/")[1]) in BUCKETS:
                return
        inside = " (an address of this machine or a private network)" if _is_inside(host) else ""
        raise NotEscherServer(
            f"The server gave a download URL at {host}:{place.port}{inside}, which is not among "
            "the hosts that scripts may come from.",
            _REMEDY,
        )

    def _under_suffix(self, place: _Place) -> bool:
        return _address(place.host) is None and any(
            place.port == port and place.host.endswith(suffix) for suffix, port in self._suffixes
        )

    @cached_property
    def _places(self) -> frozenset[_Place]:
        """The server's own place and those listed by name; read late, so only downloads fail."""
        own = urlsplit(self._settings.server_url)
        scheme, host = own.scheme, _plain(own.hostname or "")
        places = {_Place(host, own.port or DEFAULT_PORTS[scheme])}
        if host in LOOPBACK_HOSTS:  # the same machine under each of its names
            places |= {_Place(name, own.port or DEFAULT_PORTS[scheme]) for name in LOOPBACK_HOSTS}
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


def _plain(host: str) -> str:
    return host.lower().strip("[]")


def _climbs(path: str) -> bool:
    """Whether a part of the path is ``.`` or ``..``, which is resolved on its way out."""
    return any(part in {".", ".."} for part in re.split(r"[/\\]", unquote(unquote(path))))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_inside(host: str) -> bool:
    address = _address(host)
    return host in LOOPBACK_HOSTS or (address is not None and not address.is_global)
