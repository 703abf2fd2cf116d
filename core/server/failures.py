"""What a failed connection means: exceptions of `requests` and `urllib3` in words of ours.

Theirs hold the whole URL with its signature, so nothing of their text is used.
"""

from __future__ import annotations

import requests
import urllib3.exceptions

from core.errors import EscherError, NotEscherServer, ServerUnreachable, TransferInterrupted
from core.server.problems import CHECK_URL

CONNECT_SECONDS = 5.0


def transport_failure(error: Exception, what: str) -> EscherError:
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
        case _ if isinstance(error, wrong_url):
            return NotEscherServer(f"{what} can't be sent as given.", CHECK_URL)
        case _ if isinstance(error, interrupted):
            return TransferInterrupted(f"{what}: the answer ended early.", later)
        case _:
            return ServerUnreachable(f"{what}: no connection, or it was cut.", later)
