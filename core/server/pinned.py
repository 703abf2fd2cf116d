"""Connections to addresses that were checked: the name is looked up once, and not again to connect.

`requests` looks a name up inside its connection, after any check of ours, and the owner of the name may
answer differently each time. Here the connection itself asks for the addresses that may be called and
connects to one of them; the certificate and the ``Host`` header are still those of the name.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

Addresses = Callable[[str, int], list[str]]


def pinned_adapter(addresses: Addresses, connections: int) -> HTTPAdapter:
    """An adapter whose direct connections go only to what ``addresses(host, port)`` answers.

    What that raises comes out of the call. Through a proxy it is not asked: the proxy looks up.
    """

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, addresses)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, addresses)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    return Adapter(pool_connections=8, pool_maxsize=connections, max_retries=0, pool_block=False)


def _connect(connection: HTTPConnection, addresses: Addresses) -> socket.socket:
    """As urllib3 connects, with the look-up replaced; its own exceptions, so that callers know them."""
    host, port = connection.host, connection.port
    try:
        allowed = addresses(host, port)
    except socket.gaierror as error:
        raise NameResolutionError(host, connection, error) from error
    failure: OSError | None = None
    for address in allowed:
        try:
            return create_connection(
                (address, port),
                connection.timeout,
                source_address=connection.source_address,
                socket_options=connection.socket_options,
            )
        except OSError as error:
            failure = error
    if isinstance(failure, TimeoutError):
        raise ConnectTimeoutError(connection, "The connection timed out.") from failure
    raise NewConnectionError(connection, "No connection.") from failure
