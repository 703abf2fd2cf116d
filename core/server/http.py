"""Send HTTP requests and try them again: one session, its limits, and its failures in words.

`Http` makes one exchange. No redirect is followed, and the token is given with each call, so that a
pre-signed URL never sees it. Proxies and certificate bundles come from the environment
(``trust_env``), as companies set them there; ``~/.netrc`` does not, since `requests` would put its
password in place of the token. Loopback never goes through a proxy. A ``pinned`` call connects to
addresses that were checked: `requests` looks a name up inside its connection, after any check of
ours, and the owner of the name may answer differently each time. The certificate and the ``Host``
header are still those of the name.

`Retrier` is the one layer that retries in place. Every call of the contract is harmless to repeat
(announcing and PUTs are addressed by content, publishing carries an ``Idempotency-Key``, deleting an
``If-Match``), so all transient failures are retried: at most `RetryPolicy.tries` times, within one
total deadline, put off as `core.backoff` says. What still fails is left to a later sync.

An exception of `requests` or `urllib3` holds the whole URL with its signature, and one about a header
holds the header. They are turned into words of ours and dropped: no ``__cause__``, no ``__context__``.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Self, TypedDict, TypeVar, Unpack
from urllib.parse import urlencode, urlsplit

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

from core.backoff import Backoff
from core.errors import (
    EscherError,
    NotEscherServer,
    ServerBusy,
    ServerUnreachable,
    TransferInterrupted,
    TransientError,
)
from core.processes import OpenedHere
from core.server.answers import CHECK_URL
from core.tls_policy import is_loopback

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
MIN_TIMEOUT_SECONDS = 0.05
CHUNK_BYTES = 1 << 16
MAX_ANSWER_BYTES = 32 << 20
USER_AGENT = "escher-playbook-service"
RETRIED: tuple[type[TransientError], ...] = (ServerUnreachable, ServerBusy, TransferInterrupted)
IN_PLACE = Backoff(0.2, 5.0, retry_after_cap_seconds=10.0)
_PINNED = "pinned:"  # no URL begins so: the session only keeps and closes it
_HEADERS = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}

Addresses = Callable[[str, int], list[str]]
"""Where a connection to ``(host, port)`` may go; what it raises comes out of the call."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a call is tried, and how long; times in seconds."""

    tries: int = 4
    deadline_seconds: float = 60.0
    backoff: Backoff = IN_PLACE


class Deadline:
    """The moment by which a call, all its tries together, must be over."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock() + seconds

    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._at - self._clock())

    @property
    def is_over(self) -> bool:
        return self.remaining() <= 0


class Retrier:
    """Runs a call under a `RetryPolicy`; sleep, clock and random are given by tests."""

    def __init__(
        self,
        policy: RetryPolicy | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy or RetryPolicy()
        self._sleep = sleep
        self._clock = clock
        self._random = random

    def call(self, attempt: Callable[[Deadline], T], *, extra_seconds: float = 0.0) -> T:
        """Call ``attempt(deadline)`` until it returns; its last error when it never does.

        ``extra_seconds`` is added to the deadline, for bodies whose size sets the time they need.
        """
        deadline = Deadline(self._policy.deadline_seconds + extra_seconds, self._clock)
        failures = 0
        while True:
            try:
                return attempt(deadline)
            except RETRIED as error:
                failures += 1
                delay = self._policy.backoff.seconds(failures - 1, error.retry_after, self._random)
                if failures >= self._policy.tries or delay >= deadline.remaining():
                    raise
            self._sleep(delay)


class Sent(TypedDict, total=False):
    """What a request may hold beside method and URL.

    ``pinned`` is for URLs that a server named: it connects to what ``addresses`` answers.
    """

    token: str | None
    headers: Mapping[str, str]
    params: Mapping[str, str] | None
    body: bytes | None
    pinned: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; ``body`` is at most the cap that was given."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_ok(self) -> bool:
        return 200 <= self.status < 300  # noqa: PLR2004 — RFC 9110's success class


class Incoming:
    """An answer whose body is read piece by piece; leaving its ``with`` lets the connection go.

    A connection whose answer was read to its end is used again; otherwise it is closed.
    """

    def __init__(self, response: requests.Response, deadline: Deadline, what: str) -> None:
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._deadline = deadline
        self._what = what

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()

    def read(self) -> bytes:
        """The bytes that arrive next, at most 64 KiB, as sent and never unpacked; b"" at the end.

        A slow drip meets the deadline, not only the timeout. Fails as `Http.send` does.
        """
        return _in_words(self._read, self._what)

    def _read(self) -> bytes:
        piece: bytes = self._response.raw.read1(CHUNK_BYTES, decode_content=False)
        if piece and self._deadline.is_over:
            raise TransferInterrupted(
                f"The answer to {self._what} took longer than its deadline.", "It is retried."
            )
        return piece


class _Body:
    """Bytes sent in pieces that look at the clock.

    In pieces, since ``socket.sendall`` takes its timeout for the whole of what it is given, and
    urllib3 sends under the connect timeout: 8 MiB in one call would have to be gone within 5 s.
    """

    def __init__(self, content: bytes, deadline: Deadline) -> None:
        self._content = memoryview(content)
        self._position = 0
        self._deadline = deadline

    def __len__(self) -> int:
        return len(self._content)

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(CHUNK_BYTES):
            yield piece

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        if self._deadline.is_over:
            raise TransferInterrupted("Sending took longer than its deadline.", "It is retried.")
        end = len(self._content) if size < 0 else self._position + size
        piece = bytes(self._content[self._position : end])
        self._position += len(piece)
        return piece


class Http:
    """A `requests.Session` of this process, made at the first call and again after a fork.

    Threads may share it: after it is made nothing in it changes (cookies are refused, headers
    belong to the request), and urllib3's pool of ``connections`` is thread-safe.
    """

    def __init__(
        self,
        connections: int,
        read_seconds: float = READ_SECONDS,
        *,
        addresses: Addresses | None = None,
    ) -> None:
        """``read_seconds``: how long a connection may be silent; ``addresses``: for pinned calls."""
        self._connections = connections
        self._addresses = addresses
        self._read_seconds = read_seconds
        self._session: requests.Session | None = None
        self._opened = OpenedHere("The connection to the server")
        self._lock = threading.Lock()

    def send(
        self,
        method: str,
        url: str,
        *,
        deadline: Deadline,
        max_bytes: int = MAX_ANSWER_BYTES,
        **sent: Unpack[Sent],
    ) -> Answer:
        """Send one request and read its whole answer, whatever the status.

        `ServerUnreachable` without an answer, `TransferInterrupted` when one ended early or took
        too long, `NotEscherServer` when it is larger than ``max_bytes`` or the URL is no URL.
        """
        with self.open(method, url, deadline=deadline, **sent) as incoming:
            content = bytearray()
            while piece := incoming.read():
                content += piece
                if len(content) > max_bytes:
                    raise NotEscherServer(
                        f"{method} {url_label(url)} answered more than {max_bytes} bytes.",
                        CHECK_URL,
                    )
            return Answer(incoming.status, incoming.headers, bytes(content))

    def open(self, method: str, url: str, *, deadline: Deadline, **sent: Unpack[Sent]) -> Incoming:
        """Send one request; its answer, whose body is still on its way. Fails as `send` does."""
        session, body, params = self._current(), sent.get("body"), sent.get("params")
        adapter = session.adapters[_PINNED] if sent.get("pinned") else session.get_adapter(url)

        def exchange() -> requests.Response:
            # Past the session: its merging of settings takes as long as the sending, and it reads
            # the whole body of a redirect, however long.
            request = _prepared(
                method,
                f"{url}?{urlencode(params)}" if params else url,
                {**_HEADERS, **sent.get("headers", {})},
                sent.get("token"),
                # empty bytes as None: an empty stream would go out chunked, which S3 refuses
                _Body(body, deadline) if body else None,
            )
            return adapter.send(
                request,
                stream=True,
                timeout=self._timeouts(deadline),
                **self._environment(session, url),
            )

        what = f"{method} {url_label(url)}"
        return Incoming(_in_words(exchange, what), deadline, what)

    def close(self) -> None:
        if not self._opened.is_so:
            return
        with self._lock:
            if self._session is not None:
                self._session.close()
            self._session = None

    def _current(self) -> requests.Session:
        self._opened.check()  # a parent's sockets are not the child's to use
        with self._lock:
            if self._session is None:
                self._session = self._make()
            return self._session

    def _make(self) -> requests.Session:
        # its debug lines hold every URL with its query, so with its signature
        logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)
        session = requests.Session()
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = HTTPAdapter(
            pool_connections=8, pool_maxsize=self._connections, max_retries=0, pool_block=False
        )
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        if self._addresses is not None:
            session.mount(_PINNED, _pinned_adapter(self._addresses, self._connections))
        return session

    def _timeouts(self, deadline: Deadline) -> tuple[float, float]:
        left = max(deadline.remaining(), MIN_TIMEOUT_SECONDS)
        return min(CONNECT_SECONDS, left), min(self._read_seconds, left)

    @staticmethod
    def _environment(session: requests.Session, url: str) -> dict[str, Any]:
        # what goes without TLS stays here or in a network of the user's own: no proxy reads it
        parts = urlsplit(url)
        if parts.scheme == "http" or is_loopback(parts.hostname or ""):
            return {"proxies": {}}
        merged = session.merge_environment_settings(url, {}, stream=True, verify=None, cert=None)
        return {name: merged[name] for name in ("proxies", "verify", "cert")}


def _prepared(
    method: str, url: str, headers: dict[str, str], token: str | None, body: _Body | None
) -> requests.PreparedRequest:
    """In steps, leaving out what no call of ours has: cookies, hooks, a user in the URL or netrc."""
    request = requests.PreparedRequest()
    request.prepare_method(method)
    request.prepare_url(url, None)
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request.prepare_headers(headers)
    request.prepare_body(body, None)
    return request


def url_label(url: str) -> str:
    """Make of a URL what may be shown: no query, no fragment, no user."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "a malformed URL"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path}"


def _in_words(call: Callable[[], T], what: str) -> T:
    """``call()``; a failure of the network comes out as one of ours, with nothing of the URL."""
    failure: EscherError
    try:
        return call()
    except EscherError as error:
        failure = error
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        failure = _transport_failure(error, what)
    failure.__context__ = None
    raise failure


def _transport_failure(error: Exception, what: str) -> EscherError:
    """Say what went wrong without the exception's own text, which holds the URL."""
    later = "Jobs that wait for the server stay queued; ask for anything else again later."
    match error:
        case requests.exceptions.SSLError():
            return ServerUnreachable(
                f"{what}: the certificate was not accepted.",
                "Check server_url, the clock, and REQUESTS_CA_BUNDLE for a private authority.",
            )
        case requests.exceptions.ProxyError():
            return ServerUnreachable(f"{what}: the proxy failed.", "Check HTTPS_PROXY.")
        case requests.exceptions.ConnectTimeout():
            return ServerUnreachable(f"{what}: no connection within {CONNECT_SECONDS:g} s.", later)
        case requests.exceptions.Timeout() | urllib3.exceptions.TimeoutError() | TimeoutError():
            return ServerUnreachable(f"{what}: no answer in time.", later)
        case (
            requests.exceptions.ChunkedEncodingError()
            | requests.exceptions.ContentDecodingError()
            | urllib3.exceptions.ProtocolError()
            | urllib3.exceptions.IncompleteRead()
        ):
            return TransferInterrupted(f"{what}: the answer ended early.", later)
        case ValueError():  # a header or a URL that can't be sent; its text may hold a secret
            return NotEscherServer(f"{what} can't be sent as given.", CHECK_URL)
        case _:
            return ServerUnreachable(f"{what}: no connection, or it was cut.", later)


def _pinned_adapter(addresses: Addresses, connections: int) -> HTTPAdapter:
    """Make an adapter whose direct connections go only to what ``addresses`` answers.

    Through a proxy it is not asked: the proxy looks up.
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
