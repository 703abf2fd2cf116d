"""Who may call: a bearer token, and only requests that were meant for this API.

The gate stands before all routes, so none can be forgotten. A page in the user's browser can
reach 127.0.0.1 too: it is kept out by the token, and by the names in ``Host`` and ``Origin``
(DNS rebinding makes a foreign name point here).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from core.errors import SettingsError
from core.files import make_private_dir, write_new_file
from core.settings import LOOPBACK_HOSTS, Settings
from escher_playbooks.api.problems import problem_response

TOKEN_BYTES = 32
OPEN_PATHS = frozenset({"/healthz"})
# For people with a browser, which can't send a bearer token of its own: the same token, asked
# for by the browser as the password of any user.
BROWSER_PATHS = frozenset({"/docs", "/openapi.json"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104  compared with, not bound to


def load_token(settings: Settings) -> str:
    """The API's token: the setting, else the home's own (0600), made when there is none."""
    token = settings.read_api_token()
    if token is None:
        make_private_dir(settings.home)
        try:
            made = secrets.token_urlsafe(TOKEN_BYTES)
            write_new_file(settings.api_token_path, (made + "\n").encode())
        except FileExistsError:
            pass  # another process was first: its token counts
        token = settings.read_api_token()
    if not token:
        raise SettingsError(
            f"{settings.api_token_path} is empty.", "Remove it; the next start makes a new one."
        )
    return token


def check_exposure(settings: Settings) -> None:
    """Beyond loopback the API is offered only with a token that somebody chose."""
    if settings.api_host not in LOOPBACK_HOSTS and settings.api_token is None:
        raise SettingsError(
            f"api_host is {settings.api_host!r}, which others can reach, and api_token is not set.",
            "Set ESCHER_API_TOKEN, put TLS before the API, or keep api_host at 127.0.0.1.",
        )


class Gate:
    """ASGI middleware: 421 for another host's name, 403 for a foreign origin, 401 without token."""

    def __init__(self, app: ASGIApp, *, token: str, api_host: str) -> None:
        self._app = app
        self._token = token.encode()
        # bound to every address, it has names that nobody can list here; the token still guards it
        self._hosts = None if api_host in ANY_ADDRESS else LOOPBACK_HOSTS | {api_host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope["path"], Headers(scope=scope))
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> Response | None:
        if not self._is_ours(f"http://{headers.get('host', '')}"):
            return problem_response(
                HTTPStatus.MISDIRECTED_REQUEST,
                type_="MisdirectedRequest",
                title="Not this host",
                detail="The Host header names another host.",
                remedy="Call http://127.0.0.1:8787 (api_host and api_port).",
            )
        origin = headers.get("origin")
        if origin is not None and not self._is_ours(origin):
            return problem_response(
                HTTPStatus.FORBIDDEN,
                type_="ForeignOrigin",
                title="Foreign origin",
                detail="Web pages of other origins may not call this API.",
            )
        if path in OPEN_PATHS or self._is_known(path, headers.get("authorization", "")):
            return None
        challenge = "Basic" if path in BROWSER_PATHS else "Bearer"
        return problem_response(
            HTTPStatus.UNAUTHORIZED,
            type_="Unauthorized",
            title="Token missing or wrong",
            detail="Every call carries Authorization: Bearer <token>.",
            remedy="The token is the setting api_token, else the file <home>/api.token.",
            headers={"WWW-Authenticate": f'{challenge} realm="escher-playbooks"'},
        )

    def _is_ours(self, url: str) -> bool:
        if self._hosts is None:
            return True
        try:
            name = urlsplit(url).hostname
        except ValueError:
            return False
        return name is not None and name in self._hosts

    def _is_known(self, path: str, authorization: str) -> bool:
        scheme, _, value = authorization.partition(" ")
        value = value.strip()
        if scheme.lower() == "basic" and path in BROWSER_PATHS:
            try:
                value = base64.b64decode(value, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(value.encode("utf-8", "replace"), self._token)
