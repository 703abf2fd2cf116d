"""Pre-signed URLs of the server's own object routes: HMAC-SHA256 with a real expiry.

``<public_url>/<path>?expires=<unix seconds>&<claims>&signature=<hex>``; signed are the action,
the path and every other query parameter. A wrong or expired signature is 403.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlencode

from escher_server.problems import Problem

Action = Literal["put", "part", "complete", "get"]
_SECRET_BYTES = 32


def load_secret(data_dir: Path) -> bytes:
    """The signing secret of ``data_dir``, made at the first start (mode 0600)."""
    path = data_dir / "signing.key"
    if not path.exists():
        draft = data_dir / f".signing-{secrets.token_hex(8)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        # link, not rename: of two first starts at once, the first one's secret stays
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_bytes()


class UrlSigner:
    """Makes and checks the URLs of this server's object routes."""

    def __init__(self, secret: bytes, public_url: str) -> None:
        self._secret = secret
        self._public_url = public_url.rstrip("/")

    def url(self, action: Action, path: str, *, expires_at: int, **claims: str | int) -> str:
        """A URL for ``path`` (unquoted, with its leading slash), valid until ``expires_at``."""
        query = {"expires": str(expires_at), **{key: str(value) for key, value in claims.items()}}
        query["signature"] = self._signature(action, path, query)
        return f"{self._public_url}{quote(path)}?{urlencode(query)}"

    def check(
        self, action: Action, path: str, query: Mapping[str, str], *, expired: bool = False
    ) -> None:
        """Raise 403 unless ``query`` carries a valid signature; ``expired`` forces the expiry."""
        given = dict(query)
        signature = given.pop("signature", "")
        expected = self._signature(action, path, given)
        if not hmac.compare_digest(signature.encode(), expected.encode()):
            raise Problem(403, "The signature of this URL is not valid.")
        if expired or int(given["expires"]) <= time.time():
            raise Problem(403, "This URL has expired; ask for a new one.")

    def _signature(self, action: str, path: str, query: Mapping[str, str]) -> str:
        signed = "\n".join([action, path, urlencode(sorted(query.items()))])
        return hmac.new(self._secret, signed.encode(), hashlib.sha256).hexdigest()
