"""Downloads over a network that drops, stalls and lies: the right bytes, or a clear error."""

from __future__ import annotations

import gzip
import logging
import os
import random
import resource
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from unittest.mock import patch

import pytest

from core.errors import (
    EscherError,
    ForbiddenUrl,
    IntegrityError,
    NotEscherServer,
    ServerBusy,
    ServerRejected,
    ServerUnreachable,
    StorageError,
    TransferInterrupted,
    TransientError,
)
from core.files import sha256_bytes
from core.models import Ref
from core.server.answers import ScriptFile
from core.server.client import EscherServer
from core.server.downloads import Downloads
from core.server.http import Http, Incoming, Retrier, RetryPolicy
from core.server.url_policy import UrlPolicy
from core.settings import Settings

CONTENT = random.Random(7).randbytes(20_000)
SIZE = len(CONTENT)
ETAG = '"one"'
SECRET = "?signature=CANARY"
WRITE = os.write
Answer = Callable[[BaseHTTPRequestHandler], None]


def listed(url: str, content: bytes = CONTENT) -> ScriptFile:
    return ScriptFile(
        path="shell/stop.sh",
        url=url,
        checksum=sha256_bytes(content),
        size_bytes=len(content),
        expires_at=1,
    )


def storage(
    content: bytes = CONTENT,
    *,
    etag: str | None = ETAG,
    cut: int | None = None,
    then: Answer | None = None,
    **headers: str,
) -> Answer:
    """One answer as S3 gives it, ranges too; ``cut`` bytes of it, then the end or ``then``."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if asked and handler.headers.get("If-Range") != etag:
            start, asked = 0, None
        body, status = content[start:], 206 if asked else 200
        named = {"Content-Length": str(len(body))}
        if asked and not body:
            status, named["Content-Range"] = 416, f"bytes */{len(content)}"
        elif asked:
            named["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if etag:
            named["ETag"] = etag
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        handler.send_response(status)
        for name, value in named.items():
            handler.send_header(name, value)
        handler.end_headers()
        if cut is None:
            handler.wfile.write(body)
            return
        handler.wfile.write(body[:cut])
        handler.wfile.flush()
        if then is not None:
            then(handler)
        handler.close_connection = True

    return answer


def reset(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


@contextmanager
def counted() -> Iterator[list[int]]:
    """How many bytes of files arrive, piece by piece."""
    received: list[int] = []
    read = Incoming.read

    def counting(self: Incoming) -> bytes:
        piece = read(self)
        is_file = "json" not in self.headers.get("Content-Type", "")
        if 200 <= self.status < 300 and is_file:
            received.append(len(piece))
        return piece

    with patch.object(Incoming, "read", counting):
        yield received


class Case:
    """One download of CONTENT from a scripted storage."""

    def __init__(self, scripted, folder: Path, policy: RetryPolicy | None) -> None:
        self.scripted = scripted
        self.target = folder / "stop.sh"
        self.sleeps: list[float] = []
        self.written = 0
        self.at_write: Callable[[], None] = lambda: None
        self.renewals: list[ScriptFile] = []
        retrier = Retrier(policy, sleep=self.sleeps.append, random=lambda: 1.0)
        self.serve_from(scripted.url, retrier)

    def serve_from(self, url: str, retrier: Retrier) -> None:
        policy = UrlPolicy(Settings(server_url=url))
        self.http = Http(4, read_seconds=0.5, addresses=policy.addresses)
        self._downloads = Downloads(self.http, retrier, policy)

    @property
    def url(self) -> str:
        return self.scripted.url + "/o" + SECRET

    @property
    def ranges(self) -> list[str | None]:
        return [asked.headers.get("Range") for asked in self.scripted.asked]

    def fetch(self, *answers: Answer, content: bytes = CONTENT, **kwargs) -> int:
        self.scripted.answers.extend(answers)

        def renew() -> ScriptFile:
            return self.renewals.pop(0)

        def write(fd: int, piece: bytes) -> int:
            self.at_write()
            written = WRITE(fd, piece)
            self.written += written
            # what is announced is all that is ever written
            assert self.target.stat().st_size <= len(content)
            return written

        kwargs = {"renew": renew} | kwargs
        file = kwargs.pop("file", None) or listed(self.url, content)
        with patch("core.server.downloads.os.write", write), counted() as received:
            self._downloads.fetch(file, self.target, **kwargs)
        assert self.target.read_bytes() == content
        assert sum(received) >= self.written
        assert not self.scripted.answers, "fewer requests than expected"
        return sum(received)

    def fails(self, kind: type[EscherError], *answers: Answer, **kwargs) -> EscherError:
        with pytest.raises(kind) as caught:
            self.fetch(*answers, **kwargs)
        assert type(caught.value) is kind
        assert not self.target.exists()
        assert not self.scripted.answers, "fewer requests than expected"
        seen: BaseException | None = caught.value
        while seen is not None:
            assert "CANARY" not in f"{seen} {seen!r} {seen.args}"
            seen = seen.__cause__ or seen.__context__
        return caught.value


@pytest.fixture
def new_case(scripted, tmp_path: Path, caplog) -> Iterator[Callable[..., Case]]:
    caplog.set_level(logging.DEBUG)
    made: list[Case] = []

    def make(policy: RetryPolicy | None = None) -> Case:
        made.append(Case(scripted, tmp_path, policy))
        return made[-1]

    yield make
    for case in made:
        case.http.close()
    assert "CANARY" not in caplog.text


@pytest.fixture
def case(new_case) -> Case:
    return new_case()


# -- as it should go --------------------------------------------------------------------------------
def test_a_whole_answer_is_one_request_without_a_token(case, scripted):
    assert case.fetch(storage()) == SIZE
    assert stat.S_IMODE(case.target.stat().st_mode) == 0o600
    (asked,) = scripted.asked
    assert asked.headers["Accept-Encoding"] == "identity"
    assert not {"Range", "If-Range", "Authorization"} & set(asked.headers)
    assert case.sleeps == []


def test_downloads_share_a_connection(case, scripted):
    for _ in range(3):
        case.fetch(storage())
        case.written = 0
        case.target.unlink()
    assert len({asked.connection for asked in scripted.asked}) == 1


def test_an_empty_file_needs_no_request(case):
    assert case.fetch(content=b"") == 0


def test_a_body_in_chunks_of_no_announced_length(case):
    assert case.fetch(chunked(CONTENT)) == SIZE


def chunked(content: bytes, *, ended: bool = True) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.send_header("ETag", ETAG)
        handler.end_headers()
        for at in range(0, len(content), 7000):
            piece = content[at : at + 7000]
            handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        if ended:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = not ended

    return answer


# -- interrupted ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "offset", [0, 1, 2, 4095, 8192, SIZE - 1, *random.Random(3).sample(range(SIZE), 24)]
)
def test_a_cut_at_any_byte_is_resumed_there(case, scripted, offset):
    assert case.fetch(storage(cut=offset), storage()) == SIZE
    assert case.ranges == [None, f"bytes={offset}-" if offset else None]
    assert scripted.asked[1].headers.get("If-Range") == (ETAG if offset else None)
    assert case.sleeps == [0.2]


def test_several_cuts_waste_nothing(case):
    count = case.fetch(storage(cut=5000), storage(cut=1), storage(cut=9000), storage())
    assert count == SIZE
    assert case.ranges == [None, "bytes=5000-", "bytes=5001-", "bytes=14001-"]


def test_a_reset_in_the_body_is_resumed(case):
    assert case.fetch(storage(cut=9000, then=reset), storage()) == SIZE


def test_cuts_without_end_are_given_up_and_leave_nothing(case):
    case.fails(TransferInterrupted, *[storage(cut=10)] * 4)
    assert len(case.sleeps) == 3


def test_a_chunked_body_cut_behind_its_last_byte_is_whole(case):
    assert case.fetch(chunked(CONTENT, ended=False)) == SIZE
    assert case.ranges == [None]


@pytest.mark.parametrize("offset", [0, 10_000])
def test_a_stall_in_the_body_ends_with_the_read_timeout(case, offset):
    released = threading.Event()
    try:
        stalled = storage(cut=offset, then=lambda _: released.wait(30) and None)
        assert case.fetch(stalled, storage()) == SIZE
    finally:
        released.set()
    assert case.ranges[1:] == [f"bytes={offset}-" if offset else None]


def test_a_drip_ends_with_the_deadline(new_case):
    case = new_case(RetryPolicy(deadline_seconds=0.2))
    released = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        while not released.wait(0.02):
            handler.wfile.write(b"x")

    try:
        case.fails(TransferInterrupted, storage(cut=0, then=drip))
    finally:
        released.set()


@pytest.mark.parametrize("etag", [None, 'W/"weak"', "one", '"a"\x7f', '"' + "x" * 300 + '"'])
def test_without_a_strong_etag_it_starts_over(case, etag):
    count = case.fetch(storage(cut=5000, etag=etag), storage(etag=etag))
    assert count == SIZE + 5000
    assert case.ranges == [None, None]


# -- resumed, and something else comes ----------------------------------------------------------------
def test_bytes_that_changed_meanwhile_start_over(case):
    count = case.fetch(storage(b"?" * SIZE, cut=5000, etag='"old"'), storage())
    assert count == SIZE + 5000
    assert case.ranges == [None, "bytes=5000-"]


def test_a_storage_that_knows_no_ranges_starts_over(case):
    def whole(handler: BaseHTTPRequestHandler) -> None:
        del handler.headers["Range"]
        storage()(handler)

    assert case.fetch(storage(cut=5000), whole) == SIZE + 5000


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Range": f"bytes 4999-{SIZE - 1}/{SIZE}"},
        {"Content_Range": f"bytes 5001-{SIZE - 1}/{SIZE}"},
        {"Content_Range": f"bytes 5000-{SIZE}/*"},
        {"Content_Range": f"bytes 5000-{SIZE - 1}/{SIZE + 1}"},
        {"Content_Range": f"bytes 5000-{SIZE - 1}/5"},
        {"Content_Range": "bytes 5000-" + "9" * 5000 + f"/{SIZE}"},
        {"Content_Range": "items 1-2/3"},
        {"Content_Range": ""},
        {"ETag": '"two"'},
    ],
)
def test_a_wrong_range_is_not_put_behind_the_bytes(case, headers):
    # it is cut once more: ranges of this storage are not asked for again
    wrong = storage(**{"Content_Range": f"bytes 5000-{SIZE - 1}/{SIZE}", **headers})
    count = case.fetch(storage(cut=5000), wrong, storage(cut=3000), storage())
    assert case.ranges[:3] == [None, "bytes=5000-", None]
    assert count - SIZE in {5000, 8000}


def test_a_range_answer_to_no_range_is_no_answer(case):
    wrong = storage(Content_Range=f"bytes 0-{SIZE - 1}/{SIZE}")

    def unasked(handler: BaseHTTPRequestHandler) -> None:
        send = handler.send_response
        handler.send_response = lambda _: send(206)
        wrong(handler)

    assert case.fetch(unasked, storage()) == SIZE


# -- busy, expired, refused ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "headers", "slept"),
    [
        (503, {"Retry_After": "3"}, 3),
        (429, {"Retry_After": "3600"}, 10),
        (500, {}, 0.2),
        (408, {}, 0.2),
    ],
)
def test_a_busy_storage_is_waited_for(case, scripted, status, headers, slept):
    scripted.says(status, b"{}", **headers)
    assert case.fetch(storage()) == SIZE
    assert case.sleeps == [slept]


def test_busy_in_between_costs_no_bytes(case, scripted):
    scripted.answers.append(storage(cut=5000))
    scripted.says(503, b"x" * 100_000, Retry_After="1")
    assert case.fetch(storage()) == SIZE
    assert case.ranges == [None, "bytes=5000-", "bytes=5000-"]


def test_busy_for_good_is_given_up(case, scripted):
    for _ in range(4):
        scripted.says(503, Retry_After="2")
    assert case.fails(ServerBusy).retry_after == 2
    assert case.sleeps == [2, 2, 2]


def test_an_expired_url_is_renewed_and_resumed(case, scripted):
    scripted.answers.append(storage(cut=5000))
    scripted.says(403)
    case.renewals = [listed(scripted.url + "/new" + SECRET)]
    assert case.fetch(storage()) == SIZE
    assert case.ranges == [None, "bytes=5000-", "bytes=5000-"]
    assert scripted.asked[2].path.startswith("/new")
    assert case.renewals == []


def test_a_url_that_expires_twice_is_refused(case, scripted):
    scripted.says(403, b"<Error><StringToSign>CANARY</StringToSign></Error>")
    scripted.says(403)
    case.renewals = [listed(case.url)] * 2
    case.fails(ServerRejected)
    assert len(case.renewals) == 1


def test_a_renewed_url_must_be_of_the_same_bytes_and_an_allowed_host(case, scripted):
    scripted.says(403)
    case.renewals = [listed(case.url, b"other")]
    case.fails(IntegrityError)
    scripted.says(403)
    case.renewals = [listed("https://evil.example/o" + SECRET)]
    case.fails(ForbiddenUrl)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(case, scripted, status):
    scripted.says(status, Location=scripted.url + "/elsewhere" + SECRET)
    case.fails(NotEscherServer)
    assert len(scripted.asked) == 1


@pytest.mark.parametrize("status", [400, 404, 410, 416])
def test_a_refusal_is_permanent(case, scripted, status):
    scripted.says(status, b"<Signature>CANARY</Signature>")
    case.fails(ServerRejected)
    assert case.sleeps == []


def test_nobody_listening_is_transient(case):
    case.scripted.url = "http://127.0.0.1:9"
    file = listed("http://127.0.0.1:9/o" + SECRET)
    case.http.close()
    case.serve_from("http://127.0.0.1:9", Retrier(sleep=case.sleeps.append))
    assert isinstance(case.fails(ServerUnreachable, file=file), TransientError)


# -- contradicted -------------------------------------------------------------------------------------
WRONG = CONTENT[:100] + bytes([CONTENT[100] ^ 1]) + CONTENT[101:]
PAGE = b"<html>sign in</html>" * 5000
LIES = {
    "wrong byte": (lambda: storage(WRONG), SIZE),
    "wrong byte, cut": (lambda: storage(WRONG), SIZE),
    "announced longer": (lambda: storage(CONTENT + b"x" * 70_000), 0),
    "page": (lambda: storage(PAGE, etag=None), 0),
    "packed": (lambda: storage(gzip.compress(CONTENT), Content_Encoding="gzip"), 0),
    "bomb": (lambda: storage(gzip.compress(bytes(1 << 24)), Content_Encoding="gzip"), 0),
    "packed, right length": (lambda: storage(Content_Encoding="br"), 0),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_overcome_once_and_then_told(case, lie):
    make, wasted = LIES[lie]
    count = case.fetch(make(), storage())
    assert (count, case.ranges) == (SIZE + wasted, [None, None])
    assert case.sleeps == [0.2]
    case.target.unlink()
    case.written = 0
    error = case.fails(IntegrityError, make(), make())
    assert "shell/stop.sh" in error.detail
    assert case.written == 2 * wasted


def test_a_longer_body_of_no_announced_length_is_cut_off(case):
    count = case.fetch(chunked(CONTENT + b"x" * 70_000), storage())
    assert SIZE < count - SIZE <= SIZE + 70_000
    case.target.unlink()
    case.fails(IntegrityError, *[chunked(CONTENT + b"x")] * 2)


def test_a_wrong_byte_before_a_cut_costs_one_whole_download(case):
    count = case.fetch(storage(WRONG, cut=5000), storage(), storage())
    assert count == 2 * SIZE
    assert case.ranges == [None, "bytes=5000-", None]


def test_a_shorter_answer_is_continued(case):
    count = case.fetch(storage(CONTENT[:5000]), storage())
    assert count == SIZE


def test_a_storage_that_holds_less_is_told(case):
    short = storage(CONTENT[:5000])
    error = case.fails(IntegrityError, short, short, short, short)
    assert "the storage has 5000" in error.detail
    assert case.written == 10_000


def test_no_content_is_no_script(case, scripted):
    scripted.says(204)
    scripted.says(206)
    case.fails(IntegrityError)


def test_an_empty_file_of_another_digest_is_told(case):
    file = listed(case.url).model_copy(update={"size_bytes": 0})
    case.fails(IntegrityError, file=file)


# -- the disk and the caller --------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_there_already_is_left_alone(case, tmp_path, kind):
    other = tmp_path / "other"
    other.write_bytes(b"mine")
    case.target.symlink_to(other) if kind == "link" else case.target.write_bytes(b"mine")
    with pytest.raises(StorageError):
        case.fetch()
    assert case.target.read_bytes() == other.read_bytes() == b"mine"


def test_a_disk_that_takes_no_more_is_not_the_networks_fault(case):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        case.fails(StorageError, storage())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert case.sleeps == []


def test_a_caller_that_gives_up_leaves_nothing(case):
    def lost() -> None:
        raise IntegrityError("The lease was lost.")

    case.at_write = lost
    case.fails(IntegrityError, storage())
    assert case.sleeps == []


def test_a_url_that_is_not_allowed_is_never_called(case):
    case.fails(ForbiddenUrl, file=listed("http://127.0.0.1:1/o" + SECRET))
    assert case.scripted.asked == []


def test_a_listed_file_does_not_show_its_url():
    assert "CANARY" not in repr(listed("https://h/o" + SECRET))


# -- the reference server -----------------------------------------------------------------------------
REF = Ref("stop-idle-rds", "1.0.0")


@pytest.mark.parametrize(
    ("fault", "wasted"),
    [
        (None, 0),
        ({"action": "truncate_body"}, 0),
        ({"action": "truncate_body", "at": 0}, 0),
        ({"action": "stall", "at": 9000, "latency_seconds": 30}, 0),
        ({"action": "stall", "latency_seconds": 30}, 0),
        ({"action": "reset", "count": 3}, 0),
        ({"action": "status", "status": 503, "retry_after": 3}, 0),
        ({"action": "status", "status": 429, "count": 3}, 0),
        ({"action": "expire_urls"}, 0),
        ({"action": "wrong_byte"}, SIZE),
        ({"action": "short_body"}, 0),
        ({"action": "longer_body"}, 0),
        ({"action": "gzip_bomb"}, 0),
        ({"action": "html"}, None),
    ],
)
def test_faults_of_the_reference_server(reference, tenant_settings, tmp_path, fault, wasted):
    sleeps: list[float] = []
    retrier = Retrier(sleep=sleeps.append, random=lambda: 1.0)
    server = EscherServer(tenant_settings, retrier=retrier, read_seconds=1.5)
    metadata = {
        "playbook_id": REF.playbook_id,
        "version": REF.version,
        "name": "Stop idle RDS",
        "description": "Stops databases nobody uses.",
        "cloud_provider": ["aws"],
        "storage_strategy": "uploaded_for_review",
        "status": "ready",
        "created_at": 1,
        "updated_at": 1,
    }
    from core.models import FileEntry, content_digest

    entry = FileEntry("shell/stop.sh", SIZE, sha256_bytes(CONTENT))
    server.publish(
        REF,
        metadata=metadata,
        vector=None,
        embedding_model=None,
        content_digest=content_digest(metadata, [entry]),
        s3_paths=server.upload(REF, {entry.path: CONTENT}),
        base_revision=None,
    )
    (file,) = server.script(REF, "shell").files
    if fault is not None:
        reference.faults({**fault, "path": "^/objects/", "method": "GET"})
    target = tmp_path / "stop.sh"
    with counted() as received:
        server.download(file, target, renew=lambda: server.script(REF, "shell").files[0])
    assert target.read_bytes() == CONTENT
    assert sum(received) >= SIZE
    if wasted is not None:
        assert sum(received) - SIZE == wasted
    server.close()
