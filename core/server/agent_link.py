"""Keep the client's end of the agent link (WebSocket): searches are answered, changes passed on.

::

    run ── connect ── hello / welcome ─┬─ read ── search.request ──► search(…) in a thread
     ▲                                 │       └─ playbook.changed ─► changed(…)
     │                                 └─ ping every 20 s
     └── full jitter, 1 s to 60 s ◄──── two pongs missed, or the connection is gone

It knows neither Celery nor the disk: both callables are given. Exceptions of `websockets` may hold
what the server said, or headers of ours, so they are turned into errors of ours and dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import ssl
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from core.backoff import Backoff
from core.errors import (
    EscherError,
    NotEscherServer,
    ServerBusy,
    ServerRejected,
    ServerUnreachable,
    SettingsError,
    UsageError,
)
from core.server import agent_frames as frames
from core.server.agent_frames import Frame, SearchRequest
from core.server.answers import CHECK_URL, api_error, clean_words
from core.settings import LOOPBACK_HOSTS, Settings

PATH = "/api/agent/ws"
COLLECTIONS = ("user_playbooks",)
AT_ONCE = 4  # searches
WAY_BACK = 0.1  # of the time of a search, for the answer to travel
LATER = "It is tried again; sync goes on without the link, every sync_interval_minutes."
Search = Callable[[str, Mapping[str, Any], int], Sequence[Mapping[str, Any]]]
Changed = Callable[[str, str, int], None]
_log = logging.getLogger(__name__)
_wire = logging.getLogger(__name__ + ".wire")
_wire.setLevel(logging.INFO)  # its debug lines hold the token and every frame


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds; ``missed_pongs`` in a row end a connection."""

    open: float = 10.0
    welcome: float = 10.0
    ping: float = 20.0
    missed_pongs: int = 2
    close: float = 2.0
    first_delay: float = 1.0
    longest_delay: float = 60.0
    steady: float = 30.0  # a link that lived so long starts its back-off anew


class Searches:
    """Runs ``search(query, filters, limit)`` in threads, each within its deadline; for one event loop."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="agent-search")
        self._running = 0

    @property
    def are_full(self) -> bool:
        """Whether every thread searches, some perhaps for nobody any more."""
        return self._running >= AT_ONCE

    def begin(self, request: SearchRequest) -> Coroutine[Any, Any, Frame]:
        """Take a thread now; to be awaited: the results, else an ``error``, both in time."""
        search = asyncio.get_running_loop().run_in_executor(
            self._pool, self._search, request.query, request.filters, request.limit
        )
        self._running += 1
        search.add_done_callback(self._ended)
        return self._reply(request, search)

    async def _reply(self, request: SearchRequest, search: asyncio.Future[Any]) -> Frame:
        seconds = request.deadline_ms / 1000 * (1 - WAY_BACK)
        try:
            # shielded, since a thread can't be cancelled: it counts until it has ended
            results = await asyncio.wait_for(asyncio.shield(search), seconds)
            return frames.response(request.id, results, request.limit)
        except EscherError as error:
            return frames.failure(request.id, error)
        except TimeoutError:
            return frames.failure(request.id, UsageError("Not found within deadline_ms."))
        except Exception as error:  # noqa: BLE001  the link outlives a search that fails
            _log.warning("a search of the agent failed: %s", type(error).__name__)
            return frames.failure(request.id, EscherError("The search failed."))

    def close(self) -> None:
        """Take no more; what is under way ends by itself, and nobody waits for it."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ended(self, search: asyncio.Future[Any]) -> None:
        self._running -= 1
        if not search.cancelled():
            search.exception()  # of one that came too late: looked at, so nobody complains


class _Connect(connect):
    """Follows no redirect: the token and the answers are for ``server_url`` alone."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class AgentLink:
    """Keeps a link to the settings' server.

    ``search(query, filters, limit)`` runs in threads and gives results that may leave this
    machine. ``changed(playbook_id, version, revision)`` and ``reconnected()`` (notices may have
    been missed) must return at once.
    """

    def __init__(
        self,
        settings: Settings,
        client_id: str,
        *,
        search: Search,
        changed: Changed,
        reconnected: Callable[[], None] = lambda: None,
        timing: Timing | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._client_id = client_id
        self._changed = changed
        self._reconnected = reconnected
        self._timing = timing or Timing()
        self._sleep = sleep
        self._random = random
        self._url = link_url(settings)
        self._searches = Searches(search)
        self._answers: set[asyncio.Task[None]] = set()
        self._missed = 0
        self._up_since: float | None = None
        self._was_up = False

    @property
    def is_up(self) -> bool:
        """Whether the server has said welcome and the connection stands."""
        return self._up_since is not None

    async def run(self) -> None:
        """Connect, and again whenever the connection ends; until cancelled."""
        failures, last_words = 0, ""
        clock = asyncio.get_running_loop().time
        try:
            while True:
                error = await self._one_link()
                lived = 0.0 if self._up_since is None else clock() - self._up_since
                if self._up_since is not None:
                    last_words = ""
                self._up_since = None
                failures = 0 if lived >= self._timing.steady else failures + 1
                delay = self._delay(max(0, failures - 1))
                level = logging.DEBUG if str(error) == last_words else logging.WARNING
                _log.log(level, "no link: %s Next try in %.0f s.", error.detail, delay)
                last_words = str(error)
                await self._sleep(delay)
        finally:
            self._searches.close()

    def _delay(self, failures_before: int) -> float:
        first, longest = self._timing.first_delay, self._timing.longest_delay
        return first + Backoff(first, longest - first).seconds(failures_before, None, self._random)

    # -- one connection ---------------------------------------------------------------------
    async def _one_link(self) -> EscherError:
        """Hold one connection for as long as it lasts; why it ended."""
        what = f"The agent link to {self._settings.server_url}"
        token: str | None = None
        try:
            token = self._settings.read_server_token()
            if token is None:
                raise SettingsError(f"{what} needs a token.", "Set ESCHER_SERVER_TOKEN.")
            async with self._connection(token) as socket:
                await self._greet(socket)
                self._up_since = asyncio.get_running_loop().time()
                _log.info("the link to %s is up", self._settings.server_url)
                if self._was_up:
                    self._reconnected()
                self._was_up = True
                await self._converse(socket)
        except EscherError as error:
            return error
        except InvalidStatus as error:
            answer = error.response
            body = bytes(answer.body or b"")
            return api_error(answer.status_code, answer.headers, body, f"GET {PATH}", token)
        except ConnectionClosed as error:
            words = clean_words(error.rcvd.reason, token) if error.rcvd is not None else ""
            return ServerUnreachable(f"{what} was closed{f': {words}' if words else ''}.", LATER)
        except ssl.SSLError:
            remedy = "Check server_url, the clock, and REQUESTS_CA_BUNDLE."
            return ServerUnreachable(f"{what}: the certificate was not accepted.", remedy)
        except OSError:  # a TimeoutError, too
            return ServerUnreachable(f"{what}: no connection, or it was cut.", LATER)
        except ValueError:  # a token or a URL that can't be sent; its text may hold it
            return NotEscherServer(f"{what} can't be made as set.", "Check ESCHER_SERVER_TOKEN.")
        except WebSocketException as error:
            kind = type(error).__name__
            return NotEscherServer(f"{what}: no WebSocket there ({kind}).", CHECK_URL)
        return ServerUnreachable(f"{what} was closed.", LATER)

    def _connection(self, token: str) -> connect:
        parts = urlsplit(self._url)
        return _Connect(
            self._url,
            additional_headers={"Authorization": f"Bearer {token}"},
            proxy=None if parts.scheme == "ws" or parts.hostname in LOOPBACK_HOSTS else True,
            ssl=tls_context() if parts.scheme == "wss" else None,
            open_timeout=self._timing.open,
            close_timeout=self._timing.close,
            ping_interval=None,  # the contract has pings of its own
            max_size=frames.MAX_FRAME_BYTES,
            compression=None,  # frames are small
            logger=_wire,
        )

    async def _greet(self, socket: ClientConnection) -> None:
        """Say hello and wait for ``welcome``; nothing else is listened to before."""
        hello: Frame = {
            "type": "hello",
            "id": uuid.uuid4().hex,
            "tenant_id": self._settings.tenant_id,
            "client_id": self._client_id,
            "protocol": frames.PROTOCOL,
            "collections": list(COLLECTIONS),
        }
        async with asyncio.timeout(self._timing.welcome):
            await socket.send(frames.to_text(hello))
            async for message in socket:
                try:
                    frame = frames.read_frame(message)
                except UsageError:
                    continue
                if frame["type"] == "welcome":
                    return
                if frame["type"] == "error":
                    words = clean_words(str(frame.get("detail", "")))
                    raise ServerRejected(f"The server refused the agent link: {words}")

    async def _converse(self, socket: ClientConnection) -> None:
        """Read and ping side by side; the first that ends, ends both."""
        self._missed = 0
        parts = [asyncio.create_task(self._read(socket)), asyncio.create_task(self._ping(socket))]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            ending = [*parts, *self._answers]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    async def _ping(self, socket: ClientConnection) -> None:
        while True:
            await asyncio.sleep(self._timing.ping)
            if self._missed >= self._timing.missed_pongs:
                raise ServerUnreachable(f"{self._missed} pongs are missing.", LATER)
            self._missed += 1
            ping = {"type": "ping", "id": uuid.uuid4().hex}
            async with asyncio.timeout(self._timing.ping):  # a server that reads no more
                await socket.send(frames.to_text(ping))

    async def _read(self, socket: ClientConnection) -> None:
        """Take frames one at a time: a flood waits in the server's own buffers."""
        async for message in socket:
            frame_id: str | None = None
            try:
                frame = frames.read_frame(message)
                frame_id = frame["id"]
                reply = self._take(socket, frame)
            except UsageError as error:
                reply = frames.failure(frame_id, error)
            if reply is not None:
                await socket.send(frames.to_text(reply))

    def _take(self, socket: ClientConnection, frame: Frame) -> Frame | None:
        """Act on a frame; what is to be answered at once."""
        match frame["type"]:
            case "ping":
                return {"type": "pong", "id": frame["id"]}
            case "pong":
                self._missed = 0
            case "playbook.changed":
                change = frames.read_change(frame)
                self._changed(change.ref.playbook_id, change.ref.version, change.revision)
            case "search.request":
                request = frames.read_search(frame)
                if self._searches.are_full:
                    return frames.failure(request.id, ServerBusy("Too many searches at once."))
                task = asyncio.create_task(self._answer(socket, self._searches.begin(request)))
                self._answers.add(task)
                task.add_done_callback(self._answers.discard)
            case "error":  # answering it could go on for ever
                _log.warning("the server: %s", clean_words(str(frame.get("detail", ""))))
        return None  # unknown types are of a newer protocol

    async def _answer(self, socket: ClientConnection, reply: Awaitable[Frame]) -> None:
        frame = await reply
        with contextlib.suppress(ConnectionClosed):  # the reader tells
            await socket.send(frames.to_text(frame))


def link_url(settings: Settings) -> str:
    """Make ``wss://…/api/agent/ws?tenant_id=``; ``ws`` only where plain http may go, else `SettingsError`."""
    parts = urlsplit(settings.server_url)
    if parts.scheme != "https" and not settings.may_go_in_clear(parts.hostname or ""):
        raise SettingsError(
            f"The agent link to {parts.hostname} would not be encrypted.", "Use an https URL."
        )
    scheme = "wss" if parts.scheme == "https" else "ws"
    query = urlencode({"tenant_id": settings.tenant_id})
    return urlunsplit((scheme, parts.netloc, parts.path + PATH, query, ""))


def tls_context() -> ssl.SSLContext:
    """Trust the authorities that the other calls to the server trust; raises `SettingsError`."""
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
