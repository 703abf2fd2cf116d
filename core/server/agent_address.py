"""Where the agent link goes, and whom it trusts there."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from urllib.parse import urlencode, urlsplit, urlunsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from core.errors import SettingsError
from core.settings import Settings

PATH = "/api/agent/ws"


def link_url(settings: Settings) -> str:
    """``wss://…/api/agent/ws?tenant_id=``; ``ws`` only where plain http may go, too."""
    parts = urlsplit(settings.server_url)
    if parts.scheme != "https" and not settings.may_go_in_clear(parts.hostname or ""):
        raise SettingsError(
            f"The agent link to {parts.hostname} would not be encrypted.", "Use an https URL."
        )
    scheme = "wss" if parts.scheme == "https" else "ws"
    query = urlencode({"tenant_id": settings.tenant_id})
    return urlunsplit((scheme, parts.netloc, parts.path + PATH, query, ""))


def tls_context() -> ssl.SSLContext:
    """The authorities that the other calls to the server trust, too."""
    named = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    bundle = Path(named or DEFAULT_CA_BUNDLE_PATH)
    try:
        if bundle.is_dir():
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise SettingsError(
            f"The certificates of {bundle} can't be read: {error.strerror}.",
            "Check REQUESTS_CA_BUNDLE.",
        ) from error
