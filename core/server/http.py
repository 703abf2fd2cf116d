"""One HTTP exchange: the session, its timeouts, its limits, and failures in words.

No retries here (`core.server.retry` is the one layer for them) and no redirects. The token is
given with each call, so that a pre-signed URL never sees it.

Proxies and certificate bundles come from the environment (``trust_env``), as companies set them
there; ``~/.netrc`` does not, since `requests` would put its password in place of the token: a call
always brings its own ``auth``. Loopback never goes through a proxy.

An exception of `requests` or `urllib3` holds the whole URL with its signature, and one about a
header holds the header. They are turned into words of ours and dropped: no ``__cause__``, no
``__context__``.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from core.errors import EscherError, NotEscherServer, ServerUnreachable, TransferInterrupted
from core.server.problems import CHECK_URL
from core.server.retry import Deadline
from core.settings import LOOPBACK_HOSTS

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
MIN_TIMEOUT_SECONDS = 0.05
READ_CHUNK_BYTES = 1 << 16
SEND_CHUNK_BYTES = 1 << 16
MAX_ANSWER_BYTES = 32 << 20
USER_AGENT = "escher-playbook-service"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; ``body`` is at most the cap that was given."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_ok(self) -> bool:
        return 200 <= self.status < 300  # noqa: PLR2004 — RFC 9110's success class


class _Auth(AuthBase):
    """The bearer token, or deliberately nothing."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


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
        while piece := self.read(SEND_CHUNK_BYTES):
            yield piece

    def read(self, size: int = SEND_CHUNK_BYTES) -> bytes:
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

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self._session: requests.Session | None = None
        self._pid = 0
        self._lock = threading.Lock()

    def send(
        self,
        method: str,
        url: str,
        *,
        deadline: Deadline,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> Answer:
        """Send one request and read its whole answer, whatever the status.

        `ServerUnreachable` without an answer, `TransferInterrupted` when one ended early or took
        too long, `NotEscherServer` when it is larger than ``max_bytes`` or the URL is no URL.
        """
        label = url_label(url)
        failure: EscherError
        try:
            return self._exchange(method, url, deadline, token, headers, params, body, max_bytes)
        except EscherError as error:
            failure = error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            failure = _in_words(error, f"{method} {label}")
        except ValueError:  # a header or a URL that can't be sent; its text may hold a secret
            failure = NotEscherServer(f"{method} {label} can't be sent as given.", CHECK_URL)
        failure.__context__ = None
        raise failure

    def close(self) -> None:
        with self._lock:
            if self._session is not None and self._pid == os.getpid():
                self._session.close()
            self._session = None

    def _exchange(
        self,
        method: str,
        url: str,
        deadline: Deadline,
        token: str | None,
        headers: Mapping[str, str] | None,
        params: Mapping[str, str] | None,
        body: bytes | None,
        max_bytes: int,
    ) -> Answer:
        session = self._current()
        request = requests.Request(
            method,
            url,
            headers=dict(headers or {}),
            params=dict(params or {}),
            # empty bytes as None: an empty stream would go out chunked, which S3 refuses
            data=_Body(body, deadline) if body else None,
            auth=_Auth(token),
        )
        prepared = session.prepare_request(request)
        response = session.send(
            prepared,
            stream=True,
            allow_redirects=False,
            timeout=_timeouts(deadline),
            **self._environment(session, url),
        )
        try:
            content = _read(response, deadline, max_bytes, f"{method} {url_label(url)}")
            return Answer(response.status_code, response.headers, content)
        finally:
            response.close()

    def _current(self) -> requests.Session:
        with self._lock:
            if self._session is None or self._pid != os.getpid():
                self._session = self._make()  # a parent's sockets are not the child's to use
                self._pid = os.getpid()
            return self._session

    def _make(self) -> requests.Session:
        # its debug lines hold every URL with its query, so with its signature
        logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)
        session = requests.Session()
        session.headers = requests.structures.CaseInsensitiveDict({
            "User-Agent": USER_AGENT, "Accept-Encoding": "identity",
        })  # fmt: skip
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = HTTPAdapter(
            pool_connections=8, pool_maxsize=self._connections, max_retries=0, pool_block=False
        )
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        return session

    @staticmethod
    def _environment(session: requests.Session, url: str) -> dict[str, Any]:
        if is_loopback(url):
            return {"proxies": {}}
        merged = session.merge_environment_settings(url, {}, stream=True, verify=None, cert=None)
        return {name: merged[name] for name in ("proxies", "verify", "cert")}


def is_loopback(url: str) -> bool:
    return (urlsplit(url).hostname or "") in LOOPBACK_HOSTS


def may_carry_content(url: str) -> bool:
    """Whether a pre-signed URL is one that content may go to: https, or http on this machine."""
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.username or parts.password:
            return False
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(url))


def url_label(url: str) -> str:
    """A URL as it may be shown: no query, no fragment, no user."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "a malformed URL"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path}"


def _timeouts(deadline: Deadline) -> tuple[float, float]:
    left = max(deadline.remaining(), MIN_TIMEOUT_SECONDS)
    return min(CONNECT_SECONDS, left), min(READ_SECONDS, left)


def _read(response: requests.Response, deadline: Deadline, max_bytes: int, what: str) -> bytes:
    """The body as it arrives, so that a slow drip meets the deadline and not only the timeout."""
    content = bytearray()
    while piece := response.raw.read1(READ_CHUNK_BYTES, decode_content=False):
        content += piece
        if len(content) > max_bytes:
            raise NotEscherServer(f"{what} answered more than {max_bytes} bytes.", CHECK_URL)
        if deadline.is_over:
            raise TransferInterrupted(
                f"The answer to {what} took longer than its deadline.", "It is retried."
            )
    return bytes(content)


def _in_words(error: Exception, what: str) -> EscherError:
    """What went wrong without the exception's own text, which holds the URL."""
    interrupted = (
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ContentDecodingError,
        urllib3.exceptions.IncompleteRead,
        urllib3.exceptions.ProtocolError,
    )
    wrong_url = (
        requests.exceptions.InvalidURL,
        requests.exceptions.InvalidSchema,
        requests.exceptions.MissingSchema,
        requests.exceptions.InvalidHeader,
    )
    later = "It is tried again later; what waits for the server stays queued."
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
        case _ if isinstance(error, wrong_url):
            return NotEscherServer(f"{what} can't be sent as given.", CHECK_URL)
        case _ if isinstance(error, interrupted):
            return TransferInterrupted(f"{what}: the answer ended early.", later)
        case _:
            return ServerUnreachable(f"{what}: no connection, or it was cut.", later)
