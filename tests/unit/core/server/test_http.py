from __future__ import annotations

import os
import socket
import struct
import time
from http.server import BaseHTTPRequestHandler

import pytest

from core.errors import (
    EscherError,
    NotEscherServer,
    ServerUnreachable,
    TransferInterrupted,
    UsageError,
)
from core.server.http import Deadline, Http, url_label


@pytest.fixture
def http():
    http = Http(connections=4)
    yield http
    http.close()


def send(http: Http, url: str, method: str = "GET", seconds: float = 5, **kwargs):
    return http.send(method, url, deadline=Deadline(seconds), **kwargs)


def test_one_connection_serves_calls_one_after_another(http, scripted):
    for _ in range(3):
        scripted.says(200, b"{}")
        assert send(http, scripted.url).body == b"{}"
    assert len({asked.connection for asked in scripted.asked}) == 1


def test_a_forked_child_does_not_use_its_parents_connection(http, scripted):
    for _ in range(2):
        scripted.says(200, b"{}")
    send(http, scripted.url)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            http.close()  # nor end it
            send(http, scripted.url)
        except UsageError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    send(http, scripted.url)
    assert len({asked.connection for asked in scripted.asked}) == 1


def test_the_token_goes_where_it_is_given_and_nowhere_else(http, scripted, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    scripted.says(200, Set_Cookie="session=1")
    scripted.says(200)
    send(http, scripted.url, token="abc")
    send(http, scripted.url)
    first, second = scripted.asked
    assert first.headers["Authorization"] == "Bearer abc"
    assert "Authorization" not in second.headers
    assert "Cookie" not in second.headers
    assert second.headers["Accept-Encoding"] == "identity"


def test_redirects_are_not_followed(http, scripted):
    scripted.says(307, Location=scripted.url + "/elsewhere")
    assert send(http, scripted.url, token="abc").status == 307
    assert len(scripted.asked) == 1


def test_bodies_arrive_whole_with_their_length(http, scripted):
    content = os.urandom(3_000_000)
    scripted.says(200)
    scripted.says(200)
    send(http, scripted.url, "PUT", body=content, headers={"Content-Length": "3000000"})
    send(http, scripted.url, "PUT", body=b"")
    whole, empty = scripted.asked
    assert whole.body == content
    assert "Transfer-Encoding" not in whole.headers
    assert empty.headers["Content-Length"] == "0"
    assert "Transfer-Encoding" not in empty.headers


def test_an_answer_larger_than_the_cap_is_refused(http, scripted):
    scripted.says(200, b"x" * 2000)
    with pytest.raises(NotEscherServer, match="more than 1000 bytes"):
        send(http, scripted.url, max_bytes=1000)


def test_a_dripping_answer_meets_the_deadline(http, scripted):
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(40):
            try:
                handler.wfile.write(b"x")
                handler.wfile.flush()
            except OSError:
                break
            time.sleep(0.05)
        handler.close_connection = True

    scripted.answers.append(drip)
    began = time.monotonic()
    with pytest.raises((TransferInterrupted, ServerUnreachable)):
        send(http, scripted.url, seconds=0.3)
    assert time.monotonic() - began < 1.5


def cut(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"only this")
    handler.close_connection = True


def reset(handler: BaseHTTPRequestHandler) -> None:
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()
    handler.close_connection = True


@pytest.mark.parametrize(
    ("answer", "kind"), [(cut, TransferInterrupted), (reset, ServerUnreachable)]
)
def test_a_cut_connection_is_transient_and_shows_no_signature(http, scripted, answer, kind):
    scripted.answers.append(answer)
    with pytest.raises(kind) as caught:
        send(http, scripted.url + "/objects/a?signature=CANARY", token="CANARY")
    assert "/objects/a" in str(caught.value)
    assert_no_canary(caught.value)


def test_nobody_listening_is_unreachable(http):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x?signature=CANARY"
        with pytest.raises(ServerUnreachable) as caught:
            send(http, url)
    assert_no_canary(caught.value)


def test_silence_ends_with_the_deadline(http):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(ServerUnreachable, match="no answer in time"):
            send(http, f"http://127.0.0.1:{mute.getsockname()[1]}", seconds=0.2)


def test_a_header_that_cannot_be_sent_does_not_show_itself(http, scripted):
    with pytest.raises(NotEscherServer) as caught:
        send(http, scripted.url, headers={"x": "CANARY\r\ny: 1"})
    assert_no_canary(caught.value)


def test_a_label_holds_no_query_and_no_user():
    assert url_label("https://u:p@h:1/p/q?signature=1#f") == "https://h:1/p/q"


def assert_no_canary(error: BaseException) -> None:
    assert isinstance(error, EscherError)
    seen: BaseException | None = error
    while seen is not None:
        assert "CANARY" not in f"{seen} {seen!r} {seen.args}"
        seen = seen.__cause__ or seen.__context__
