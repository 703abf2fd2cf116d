"""The link against the reference server, and against servers that mean no good."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from core.errors import SettingsError, StorageError
from core.files import sha256_bytes
from core.models import FileEntry, Ref, content_digest
from core.server.agent_link import AT_ONCE, AgentLink, Timing, link_url
from core.server.client import EscherServer
from core.settings import Settings

RESULT = {"playbook_id": "mine", "version": "1.0.0", "score": 0.5, "status": "ready"}
TOKEN = "CANARY-TOKEN"


def until(check: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


@dataclass
class Client:
    """What a link was asked and told; it sleeps no back-off."""

    results: list[dict[str, Any]] = field(default_factory=lambda: [RESULT])
    queries: list[tuple[str, Any, int]] = field(default_factory=list)
    changes: list[tuple[str, str, int]] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    reconnects: int = 0
    proceed: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.proceed.set()

    def search(self, query: str, filters: Any, limit: int) -> list[dict[str, Any]]:
        self.queries.append((query, filters, limit))
        assert self.proceed.wait(20)
        if self.error is not None:
            raise self.error
        return self.results

    def changed(self, *change: Any) -> None:
        self.changes.append(change)

    def reconnected(self) -> None:
        self.reconnects += 1

    async def sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        await asyncio.sleep(0.01)

    @contextlib.contextmanager
    def linking(self, settings: Settings, **timing: float) -> Iterator[AgentLink]:
        """A link in a thread of its own, stopped at the end."""
        link = AgentLink(
            settings,
            "home.1",
            search=self.search,
            changed=self.changed,
            reconnected=self.reconnected,
            timing=Timing(**{"close": 0.2, **timing}),
            sleep=self.sleep,
            random=lambda: 1.0,
        )
        loop = asyncio.new_event_loop()
        running = loop.create_task(link.run())

        def run() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(running)
            loop.close()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield link
        finally:
            self.proceed.set()
            loop.call_soon_threadsafe(running.cancel)
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def client() -> Client:
    return Client()


# -- the reference server -----------------------------------------------------------------------
def ask(settings: Settings, query: str = "stop") -> list[dict[str, Any]]:
    assert settings.server_token is not None
    answer = requests.post(
        f"{settings.server_url}/api/playbook/search",
        json={
            "tenant_id": settings.tenant_id,
            "query": query,
            "filters": {"cloud_provider": "aws"},
        },
        headers={"Authorization": f"Bearer {settings.server_token.get_secret_value()}"},
        timeout=10,
    )
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def publish(settings: Settings, ref: Ref) -> None:
    server = EscherServer(settings)
    files = {"shell/stop.sh": b"echo\n"}
    metadata = {
        "playbook_id": ref.playbook_id,
        "version": ref.version,
        "name": "Stop",
        "description": "Stops.",
        "cloud_provider": ["aws"],
        "storage_strategy": "uploaded_for_review",
        "status": "ready",
    }
    entries = [FileEntry(path, len(body), sha256_bytes(body)) for path, body in files.items()]
    server.publish(
        ref,
        metadata=metadata,
        vector=[0.5] * 384,
        embedding_model="m",
        content_digest=content_digest(metadata, entries),
        s3_paths=server.upload(ref, files),
        base_revision=None,
    )
    server.close()


def test_a_search_on_the_server_is_answered_from_here(
    client: Client, tenant_settings: Settings
) -> None:
    with client.linking(tenant_settings) as link:
        until(lambda: link.is_up)
        (found,) = ask(tenant_settings, "idle databases")
    assert client.queries == [("idle databases", {"cloud_provider": ["aws"]}, 10)]
    assert found == RESULT | {"source": "client", "warning": None}


def test_a_change_on_the_server_is_heard_of(client: Client, tenant_settings: Settings) -> None:
    with client.linking(tenant_settings) as link:
        until(lambda: link.is_up)
        publish(tenant_settings, Ref("stop", "1.0.0"))
        until(lambda: client.changes)
    assert client.changes == [("stop", "1.0.0", 1)]


def test_a_wrong_token_is_tried_again_ever_more_slowly(
    client: Client, tenant_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = tenant_settings.model_copy(update={"tenant_id": "another"})
    with client.linking(wrong) as link:
        until(lambda: len(client.delays) > 8)
        assert not link.is_up
    assert client.delays[:7] == [2.0, 3.0, 5.0, 9.0, 17.0, 33.0, 60.0]
    assert set(client.delays[7:]) == {60.0}
    warnings = [it for it in caplog.records if it.levelno >= logging.WARNING]
    assert len(warnings) == 1, "the same words once"
    assert "another tenant" in warnings[0].getMessage()


# -- scripted servers ---------------------------------------------------------------------------
class Hostile:
    """A WebSocket server that does what the test says on each connection."""

    def __init__(self) -> None:
        self.connections: list[ServerConnection] = []
        self.hellos: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.script: Callable[[ServerConnection], None] = lambda socket: None
        self._server = serve(self._handle, "127.0.0.1", 0, ping_interval=None, max_size=None)
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _handle(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.tokens.append(socket.request.headers.get("Authorization"))
        self.connections.append(socket)
        self.hellos.append(json.loads(socket.recv(timeout=10)))
        self.script(socket)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(10)


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    server = Hostile()
    yield server
    server.close()


@pytest.fixture
def settings(hostile: Hostile, tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path,
        server_url=f"http://127.0.0.1:{hostile.port}",
        tenant_id="acme",
        server_token=TOKEN,
    )


def welcome(socket: ServerConnection) -> None:
    socket.send(json.dumps({"type": "welcome", "id": "h"}))


def receive(socket: ServerConnection) -> dict[str, Any]:
    frame: dict[str, Any] = json.loads(socket.recv(timeout=10))
    return frame


def search(frame_id: str, **changes: Any) -> str:
    body = {"query": "stop", "filters": {}, "limit": 10, "deadline_ms": 10_000}
    return json.dumps({"type": "search.request", "id": frame_id, **body, **changes})


def is_alive(socket: ServerConnection) -> bool:
    socket.send('{"type": "ping", "id": "still there?"}')
    return receive(socket) == {"type": "pong", "id": "still there?"}


class Script:
    """Runs a conversation once; its outcome, or what went wrong, reaches the test."""

    def __init__(self, talk: Callable[[ServerConnection], Any]) -> None:
        self._talk = talk
        self._done = threading.Event()
        self._outcome: Any = None
        self._error: BaseException | None = None

    def __call__(self, socket: ServerConnection) -> None:
        if self._done.is_set():
            return
        welcome(socket)
        try:
            self._outcome = self._talk(socket)
        except BaseException as error:
            self._error = error
        self._done.set()

    def outcome(self) -> Any:
        assert self._done.wait(20)
        if self._error is not None:
            raise self._error
        return self._outcome


def test_hello_says_who_and_for_what(client: Client, hostile: Hostile, settings: Settings) -> None:
    hostile.script = Script(is_alive)
    with client.linking(settings):
        assert hostile.script.outcome()
    hello = hostile.hellos[0]
    assert hostile.tokens[0] == f"Bearer {TOKEN}"
    assert {name: hello[name] for name in ("type", "tenant_id", "client_id", "protocol")} == {
        "type": "hello",
        "tenant_id": "acme",
        "client_id": "home.1",
        "protocol": 1,
    }
    assert hello["collections"] == ["user_playbooks"]


def test_only_metadata_and_scores_leave(
    client: Client, hostile: Hostile, settings: Settings
) -> None:
    client.results = [
        RESULT | {"name": "Mine", "script": "CANARY-SCRIPT", "encrypted_data": "x"},
        RESULT | {"description": "d" * 9000, "warning": {"nested": "CANARY-SCRIPT"}},
        RESULT | {"score": float("nan")},
        *[RESULT] * 20,
    ]

    def talk(socket: ServerConnection) -> dict[str, Any]:
        socket.send(search("1", limit=3))
        return receive(socket)

    hostile.script = Script(talk)
    with client.linking(settings):
        frame = hostile.script.outcome()
    assert (frame["type"], frame["id"], len(frame["results"])) == ("search.response", "1", 3)
    assert "CANARY-SCRIPT" not in json.dumps(frame)
    names = {"playbook_id", "version", "name", "description", "score", "status", "warning"}
    assert all(set(result) == names for result in frame["results"])
    assert len(frame["results"][1]["description"]) == 500


@pytest.mark.parametrize(
    "message",
    [
        b"\x00\x01",
        "no json",
        "[]",
        "[" * 100_000,
        '{"type": "ping"}',
        '{"type": "ping", "id": ""}',
        '{"type": "ping", "id": "1", "at": Infinity}',
        search("1", query=" "),
        search("1", query="q" * 5000),
        search("1", query=["stop"]),
        search("1", filters=["aws"]),
        search("1", filters={"status": {"not": "a list"}}),
        search("1", limit=0),
        search("1", limit=10**9),
        search("1", limit=True),
        search("1", deadline_ms=-1),
        search("1", deadline_ms="soon"),
        '{"type": "playbook.changed", "id": "1"}',
        '{"type": "playbook.changed", "id": "1", "playbook_id": "../x", "version": "1.0.0"}',
        '{"type": "playbook.changed", "id": "1", "playbook_id": "x", "version": "1.0.0"}',
    ],
    ids=range(20),
)
def test_a_malformed_frame_gets_an_error_and_the_link_lives_on(
    client: Client, hostile: Hostile, settings: Settings, message: str | bytes
) -> None:
    def talk(socket: ServerConnection) -> tuple[dict[str, Any], bool]:
        socket.send(message)
        return receive(socket), is_alive(socket)

    hostile.script = Script(talk)
    with client.linking(settings):
        frame, alive = hostile.script.outcome()
    assert frame["type"] == "error"
    assert alive
    assert not client.queries
    assert not client.changes


def test_unknown_types_and_errors_are_not_answered(
    client: Client, hostile: Hostile, settings: Settings
) -> None:
    def talk(socket: ServerConnection) -> bool:
        socket.send('{"type": "of.tomorrow", "id": "1"}')
        socket.send('{"type": "error", "id": "1", "detail": "your \\u001b[31mfault"}')
        socket.send('{"type": "pong", "id": "never asked"}')
        return is_alive(socket)

    hostile.script = Script(talk)
    with client.linking(settings):
        assert hostile.script.outcome()


def test_an_oversized_frame_ends_the_connection_and_the_next_is_made(
    client: Client, hostile: Hostile, settings: Settings
) -> None:
    def script(socket: ServerConnection) -> None:
        welcome(socket)
        if len(hostile.connections) == 1:
            socket.send("x" * ((1 << 20) + 1))
        with contextlib.suppress(ConnectionClosed):
            socket.recv(timeout=20)

    hostile.script = script
    with client.linking(settings):
        until(lambda: client.reconnects == 1)
        until(lambda: hostile.connections[0].close_code == 1009)
        assert len(client.delays) == 1


@pytest.mark.parametrize("says_welcome", [True, False])
def test_silence_is_noticed(
    client: Client, hostile: Hostile, settings: Settings, says_welcome: bool
) -> None:
    gone = threading.Event()

    def script(socket: ServerConnection) -> None:
        if says_welcome:
            welcome(socket)
        gone.wait(20)

    hostile.script = script
    with client.linking(settings, ping=0.05, welcome=0.1):
        until(lambda: len(hostile.connections) >= 2)
        gone.set()
    assert client.delays


def test_a_link_that_is_answered_pings_on(
    client: Client, hostile: Hostile, settings: Settings
) -> None:
    def talk(socket: ServerConnection) -> list[str]:
        types = []
        for _ in range(6):
            frame = receive(socket)
            types.append(frame["type"])
            socket.send(json.dumps({"type": "pong", "id": frame["id"]}))
        return types

    hostile.script = Script(talk)
    with client.linking(settings, ping=0.05) as link:
        assert hostile.script.outcome() == ["ping"] * 6
        assert link is not None
    assert len(hostile.connections) <= 2


def test_too_many_searches_are_told_so_and_the_rest_goes_on(
    client: Client, hostile: Hostile, settings: Settings
) -> None:
    client.proceed.clear()

    def talk(socket: ServerConnection) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        for number in range(AT_ONCE + 200):
            socket.send(search(str(number)))
        refused = [receive(socket) for _ in range(200)]
        assert is_alive(socket)
        client.proceed.set()
        return refused, [receive(socket) for _ in range(AT_ONCE)]

    hostile.script = Script(talk)
    with client.linking(settings):
        refused, answered = hostile.script.outcome()
    assert {(frame["type"], frame["title"]) for frame in refused} == {("error", "ServerBusy")}
    assert {frame["id"] for frame in answered} == {str(number) for number in range(AT_ONCE)}
    assert {frame["type"] for frame in answered} == {"search.response"}


def test_a_slow_search_is_an_error_within_the_deadline(
    client: Client, hostile: Hostile, settings: Settings
) -> None:
    client.proceed.clear()

    def talk(socket: ServerConnection) -> tuple[dict[str, Any], float]:
        began = time.monotonic()
        socket.send(search("1", deadline_ms=200))
        return receive(socket), time.monotonic() - began

    hostile.script = Script(talk)
    with client.linking(settings):
        frame, seconds = hostile.script.outcome()
    assert (frame["type"], frame["id"]) == ("error", "1")
    assert 0.15 < seconds < 2


@pytest.mark.parametrize("error", [StorageError("/home/me/CANARY is full"), KeyError("CANARY")])
def test_what_went_wrong_here_is_not_told_there(
    client: Client, hostile: Hostile, settings: Settings, error: Exception
) -> None:
    client.error = error

    def talk(socket: ServerConnection) -> tuple[dict[str, Any], bool]:
        socket.send(search("1"))
        return receive(socket), is_alive(socket)

    hostile.script = Script(talk)
    with client.linking(settings):
        frame, alive = hostile.script.outcome()
    assert frame["type"] == "error"
    assert alive
    assert "CANARY" not in json.dumps(frame)


def test_a_flood_of_notices_holds_nothing_up(
    client: Client, hostile: Hostile, settings: Settings
) -> None:
    notice = {"type": "playbook.changed", "id": "1", "playbook_id": "x", "version": "1.0.0"}

    def talk(socket: ServerConnection) -> bool:
        for revision in range(1, 3001):
            socket.send(json.dumps({**notice, "revision": revision}))
        return is_alive(socket)

    hostile.script = Script(talk)
    with client.linking(settings):
        assert hostile.script.outcome()
    assert [revision for _, _, revision in client.changes] == list(range(1, 3001))


def test_a_server_that_hangs_up_at_once_is_not_hammered(
    client: Client, hostile: Hostile, settings: Settings
) -> None:
    hostile.script = welcome
    with client.linking(settings):
        until(lambda: len(client.delays) >= 4)
    assert client.delays[:4] == [2.0, 3.0, 5.0, 9.0]
    assert client.reconnects >= 3


def test_no_redirect_is_followed(client: Client, hostile: Hostile, settings: Settings) -> None:
    elsewhere = f"ws://127.0.0.1:{hostile.port}/"

    def redirect(connection: ServerConnection, request: Any) -> Any:
        response = connection.respond(302, "over there")
        response.headers["Location"] = elsewhere
        return response

    server = serve(lambda _socket: None, "127.0.0.1", 0, process_request=redirect)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever)
        port = server.socket.getsockname()[1]
        here = settings.model_copy(update={"server_url": f"http://127.0.0.1:{port}"})
        with client.linking(here):
            until(lambda: len(client.delays) >= 2)
        server.shutdown()
    assert not hostile.connections


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """One that signs itself, for ``localhost``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "cert.pem", folder / "key.pem"
    public.write_bytes(signed.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return public, context


def test_over_tls_the_authorities_are_those_of_the_other_calls(
    client: Client, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public, context = certificate(tmp_path)

    def script(socket: ServerConnection) -> None:
        socket.recv(timeout=10)
        welcome(socket)
        with contextlib.suppress(ConnectionClosed):
            socket.recv(timeout=20)

    server = serve(script, "127.0.0.1", 0, ssl=context)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever)
        port = server.socket.getsockname()[1]
        here = settings.model_copy(update={"server_url": f"https://localhost:{port}"})
        with client.linking(here) as link:
            until(lambda: len(client.delays) >= 2)
            assert not link.is_up
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(public))
            until(lambda: link.is_up)
        server.shutdown()


def test_neither_token_nor_frames_are_logged(
    client: Client, hostile: Hostile, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def talk(socket: ServerConnection) -> dict[str, Any]:
        socket.send(search("1", query="CANARY-QUERY"))
        return receive(socket)

    hostile.script = Script(talk)
    with client.linking(settings):
        hostile.script.outcome()
    own = "\n".join(it.getMessage() for it in caplog.records if it.name.startswith("core"))
    assert "is up" in own
    assert TOKEN not in own
    assert "CANARY-QUERY" not in own


@pytest.mark.parametrize(
    ("server_url", "url"),
    [
        ("https://escher.example", "wss://escher.example/api/agent/ws?tenant_id=acme"),
        ("https://escher.example:8/x", "wss://escher.example:8/x/api/agent/ws?tenant_id=acme"),
        ("http://127.0.0.1:8788", "ws://127.0.0.1:8788/api/agent/ws?tenant_id=acme"),
    ],
)
def test_the_link_stands_beside_the_other_calls(
    settings: Settings, server_url: str, url: str
) -> None:
    assert link_url(settings.model_copy(update={"server_url": server_url})) == url


def test_nothing_goes_beyond_this_machine_in_the_clear(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="https"):
        link_url(settings.model_copy(update={"server_url": "http://escher.example"}))
