"""Where traffic may go without TLS: to this machine, and to the hosts of ``allow_http_hosts``.

One rule for everything that carries tokens or playbooks: the Escher server, Redis, PostgreSQL and
Qdrant. Each check raises ``ValueError`` with words for the setting at hand, and no secret in them.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from urllib.parse import parse_qs, unquote, urlsplit

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
BROKER_SCHEMES = frozenset({"redis", "rediss", "redis+socket", "sentinel"})
ENCRYPTED_POSTGRESQL = frozenset({"require", "verify-ca", "verify-full"})
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|[0-9a-f:.]+")


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine, by its name or its address."""
    if host in LOOPBACK_HOSTS:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_allowed_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the hosts in lower case; each is a name or an address, and neither a URL nor a pattern."""
    plain = tuple(host.lower().strip("[]").rstrip(".") for host in hosts)
    wrong = [host for host in plain if not _HOST.fullmatch(host)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no host; write names such as redis, qdrant.internal")
    return plain


def may_go_in_clear(host: str, allowed: tuple[str, ...]) -> bool:
    """Whether ``host`` is spoken to without TLS: this machine, or an allowed one."""
    host = host.lower().rstrip(".")
    return is_loopback(host) or host in allowed


def check_http(url: str, allowed: tuple[str, ...]) -> None:
    """Check an http(s) URL, which may have no user in it."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in {"http", "https"}:
        raise ValueError(f"{_without_user(url)!r} is not an http(s) URL")
    if parts.scheme == "http":
        _check_host(host, allowed, "https")
    if parts.username or parts.password:
        raise ValueError("put the secret into its own setting, not into the URL")  # it is shown


def check_redis(url: str, allowed: tuple[str, ...]) -> None:
    """Check a Redis URL, or several between ``;`` as kombu takes them."""
    for part in url.split(";"):
        scheme, _, rest = part.partition("://")
        if scheme not in BROKER_SCHEMES:
            raise ValueError(f"it is no Redis: {', '.join(sorted(BROKER_SCHEMES))}")
        if scheme == "redis+socket":
            if not rest.rpartition("@")[2].startswith("/"):
                raise ValueError("the socket's path is relative; write redis+socket:///whole/path")
        elif scheme != "rediss":
            for host in _redis_hosts(rest):
                _check_host(host or "localhost", allowed, "rediss")


def check_journal(url: str, allowed: tuple[str, ...]) -> None:
    """Check ``sqlite:////whole/path``, or a PostgreSQL that is here, allowed or spoken to with TLS."""
    scheme, separator, rest = url.partition("://")
    backend = scheme.partition("+")[0]
    if not separator or backend not in {"sqlite", "postgresql"}:
        raise ValueError("write sqlite:////whole/path or postgresql+psycopg://user@host/name")
    if backend == "sqlite":
        path = rest.partition("?")[0].removeprefix("/")
        if path and not path.startswith(("/", ":memory:", "file:")):
            raise ValueError("the database's path is relative; write sqlite:////whole/path")
        return
    for host in _postgresql_hosts(url):
        if host and not host.startswith(("/", "@")):  # sockets
            _check_host(_host_of(host), allowed, "sslmode=verify-full (or require)")


def _postgresql_hosts(url: str) -> list[str]:
    """Where libpq may connect to without TLS; none where the URL asks for TLS."""
    from sqlalchemy.engine import (
        make_url,
    )  # who connects reads the URL: a password may hold / and ?
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError(
            "write sqlite:////whole/path or postgresql+psycopg://user@host/name"
        ) from None
    options = parts.normalized_query
    if set(options.get("sslmode", ("",))) <= ENCRYPTED_POSTGRESQL:
        return []
    named = [*options.get("host", ()), parts.host or ""]
    hosts = [host for several in named for host in several.split(",") if host]
    if "service" in options or (not hosts and os.environ.get("PGSERVICE")):
        raise ValueError("a service may lie anywhere; add sslmode=verify-full")
    # libpq's own defaults; without them it is this machine's socket. An address goes before a name.
    addresses = options.get("hostaddr", (os.environ.get("PGHOSTADDR", ""),))
    return [
        *(hosts or os.environ.get("PGHOST", "").split(",")),
        *(host for several in addresses for host in several.split(",")),
    ]


def _check_host(host: str, allowed: tuple[str, ...], instead: str) -> None:
    if not may_go_in_clear(host, allowed):
        raise ValueError(
            f"what goes to {host} would not be encrypted; use {instead}, or, in a network of your "
            f"own, name the host in allow_http_hosts"
        )


def _redis_hosts(rest: str) -> Iterator[str]:
    """The hosts of what stands behind ``scheme://``; several stand between commas.

    An option of that name goes before them, as Celery's result backend has it.
    """
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    for place in authority.split(","):
        yield _host_of(unquote(place))
    yield from parse_qs(rest.partition("?")[2].partition("#")[0]).get("host", [])


def _host_of(place: str) -> str:
    if place.startswith("["):
        return place[1:].partition("]")[0]
    return place if place.count(":") > 1 else place.partition(":")[0]


def _without_user(url: str) -> str:
    return re.sub(r"//[^/?#]*@", "//…@", url)
