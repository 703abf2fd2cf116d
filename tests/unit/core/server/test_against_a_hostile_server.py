"""What a server that was taken over can make the client do: nothing but fail."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hostile_server import (
    Answer,
    Asked,
    HostileServer,
    point_downloads_at,
    point_uploads_at,
    running_hostile,
)

from core.errors import EscherError, ForbiddenUrl, NotEscherServer, NotFound
from core.models import FileEntry, Ref, Status, content_digest
from core.server.answers import ScriptFile
from core.server.client import EscherServer
from core.server.http import Retrier, RetryPolicy
from core.server.url_policy import UrlPolicy
from core.settings import Settings

REF = Ref("stop", "1.0.0")
CONTENT = {"shell/run.sh": b"echo run\n", "parameters.json": b"{}"}


@pytest.fixture
def hostile() -> Iterator[HostileServer]:
    with running_hostile() as server:
        yield server


@pytest.fixture
def client(hostile: HostileServer, tmp_path: Path) -> Iterator[EscherServer]:
    settings = Settings(home=tmp_path, server_url=hostile.url, server_token="CANARY-TOKEN")
    client = EscherServer(settings, retrier=Retrier(sleep=lambda _: None))
    yield client
    client.close()


def test_without_lies_it_is_a_server_of_the_contract(
    hostile: HostileServer, client: EscherServer, tmp_path: Path
) -> None:
    hostile.add(REF, CONTENT, status="approved")
    [change] = client.change_page().changes
    assert isinstance(change, dict)
    script = client.script(REF, "shell")
    assert script.manifest is not None
    entries = [FileEntry(entry.path, 0, entry.checksum) for entry in script.manifest]
    assert content_digest(script.metadata or {}, entries) == change["content_digest"]
    assert script.content_digest == change["content_digest"]
    assert (script.status, script.published_by) == (Status.APPROVED, "somebody")
    client.download(script.files[0], tmp_path / "run.sh", renew=lambda: script.files[0])
    assert (tmp_path / "run.sh").read_bytes() == CONTENT["shell/run.sh"]
    other = Ref("other", "1.0.0")
    s3_paths = client.upload(other, CONTENT)
    metadata = {**change["metadata"], "playbook_id": "other"}
    published = client.publish(
        other, metadata=metadata, vector=None, embedding_model=None,
        content_digest=change["content_digest"], s3_paths=s3_paths, base_revision=None,
    )  # fmt: skip
    assert published.revision == 1
    assert client.script(Ref("stop", "latest")).version == "1.0.0"
    client.delete(other, 1)
    assert [item["deleted"] for item in client.change_page().changes] == [False, True]
    with pytest.raises(NotFound):
        client.script(other)


@pytest.mark.parametrize("lie", [{"version": "9.0.0"}, {"playbook_id": "other"}], ids=str)
def test_an_answer_about_another_version_is_refused(hostile, client, lie):
    hostile.add(REF, CONTENT, status="approved")
    hostile.lie("script", lambda honest, asked: honest | lie, times=1)
    with pytest.raises(NotEscherServer, match="another version"):
        client.script(REF, "shell")


ELSEWHERE = [
    ("https://169.254.169.254/latest?signature=CANARY", "169.254.169.254"),
    ("https://[fd00:ec2::254]/latest?signature=CANARY", "fd00:ec2::254"),
    ("https://metadata.google.internal/v1?signature=CANARY", "metadata.google.internal"),
    ("https://2852039166/latest?signature=CANARY", "malformed"),
    ("https://10.0.0.7:9200/_bulk?signature=CANARY", "10.0.0.7:9200"),
    ("http://127.0.0.1:6379/?signature=CANARY", "127.0.0.1:6379"),
    ("http://storage.example/?signature=CANARY", "storage.example over plain http"),
    ("https://evil.example/?signature=CANARY", "evil.example:443"),
]


@pytest.mark.parametrize(("url", "named"), ELSEWHERE)
class TestElsewhere:
    """Nothing is connected to, and the error names the host and no permission."""

    @pytest.fixture(autouse=True)
    def nothing_is_looked_up(self, hostile: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
        import socket

        really = socket.getaddrinfo

        def only_loopback(host: str, *args: object, **named: object) -> object:
            assert host == "127.0.0.1", host
            return really(host, *args, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(socket, "getaddrinfo", only_loopback)

    def fails(self, call: Callable[[], object], named: str) -> None:
        with pytest.raises(ForbiddenUrl) as caught:
            call()
        error = caught.value
        assert not isinstance(error, NotEscherServer)  # which a sync would try again for ever
        assert named in error.detail
        assert "CANARY" not in repr(error)

    def test_no_file_is_sent(
        self, hostile: HostileServer, client: EscherServer, url: str, named: str
    ) -> None:
        hostile.lie("upload", point_uploads_at(url))
        self.fails(lambda: client.upload(REF, CONTENT), named)
        assert client.take_sent() == 0

    @pytest.mark.parametrize("which", ["part", "complete_url"])
    def test_no_part_is_sent(
        self, hostile: HostileServer, client: EscherServer, which: str, url: str, named: str
    ) -> None:
        def in_parts(honest: Any, _asked: Asked) -> dict[str, Any]:
            own = f"{hostile.url}/complete/1"
            for target in honest["uploads"]:
                part = {"number": 1, "offset": 0, "size_bytes": 1}
                parts = [{**part, "url": url}] if which == "part" else []
                target |= {"url": None, "parts": parts}
                target["complete_url"] = url if which == "complete_url" else own
            return dict(honest)

        hostile.lie("upload", in_parts)
        self.fails(lambda: client.upload(REF, CONTENT), named)
        assert client.take_sent() == 0

    def test_nothing_is_fetched(
        self, hostile: HostileServer, client: EscherServer, tmp_path: Path, url: str, named: str
    ) -> None:
        hostile.add(REF, CONTENT, status="approved")
        hostile.lie("script", point_downloads_at(url))
        file = client.script(REF, "shell").files[0]
        self.fails(lambda: client.download(file, tmp_path / "x", renew=lambda: file), named)
        assert not (tmp_path / "x").exists()


def test_of_the_headers_asked_for_only_those_about_the_bytes_are_sent(
    hostile: HostileServer, client: EscherServer, caplog: pytest.LogCaptureFixture
) -> None:
    asked_for = {
        "Authorization": "Bearer CANARY", "Host": "metadata.google.internal", "Cookie": "CANARY=1",
        "X-aws-ec2-metadata-token-ttl-seconds": "21600", "Metadata-Flavor": "Google",
        "Metadata": "true", "Transfer-Encoding": "chunked", "Expect": "100-continue",
        "x-amz-security-token": "CANARY", "x-amz-acl": "public-read", "Connection": "close",
        "x-amz-copy-source": "/other/CANARY", "Content-Length": "999", "Proxy-Authorization": "x",
        "content-type": "text/x-sh", "Content-MD5": "abc", "X-Amz-Checksum-SHA256": "def",
        "x-amz-checksum-sha256-evil": "CANARY", "x-amz-sdk-checksum-algorithm": "SHA256",
    }  # fmt: skip
    hostile.lie("upload", point_uploads_at(f"{hostile.url}/objects/{'a' * 64}", asked_for))
    client.upload(REF, {"shell/run.sh": b"echo run\n"})
    [put] = hostile.asked_of("object_put")
    sent = {name.lower(): value for name, value in put.headers.items()}
    for name in ("content-type", "content-md5", "x-amz-checksum-sha256"):
        assert sent.pop(name)
    assert sent.pop("x-amz-sdk-checksum-algorithm") == "SHA256"
    assert sent.pop("content-length") == "9"
    assert sent.pop("host") == hostile.url.removeprefix("http://")
    assert set(sent) <= {"user-agent", "accept-encoding"}
    assert "CANARY" not in str(put.headers)
    assert "Authorization" in caplog.text
    assert "CANARY" not in caplog.text


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "é" * 3, "x" * 5000])
def test_a_header_that_can_not_be_sent_never_is(
    hostile: HostileServer, client: EscherServer, value: str
) -> None:
    url = f"{hostile.url}/objects/{'a' * 64}"
    hostile.lie("upload", point_uploads_at(url, {"Content-Type": value}))
    with contextlib.suppress(EscherError):
        client.upload(REF, {"shell/run.sh": b"echo run\n"})
    for put in hostile.asked_of("object_put"):
        assert "Content-Type" not in put.headers
        assert "X-Evil" not in put.headers


def test_more_parts_than_there_are_bytes_are_not_sent(
    hostile: HostileServer, client: EscherServer
) -> None:
    def again_and_again(honest: Any, _asked: Asked) -> dict[str, Any]:
        for target in honest["uploads"]:
            part = {"offset": 0, "size_bytes": 9, "url": f"{hostile.url}/parts/1"}
            target |= {"url": None, "complete_url": f"{hostile.url}/complete/1"}
            target["parts"] = [{**part, "number": number} for number in range(1, 1000)]
        return dict(honest)

    hostile.lie("upload", again_and_again)
    with pytest.raises(NotEscherServer, match="more parts"):
        client.upload(REF, {"shell/run.sh": b"echo run\n"})
    assert client.take_sent() == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(
    hostile: HostileServer, client: EscherServer, tmp_path: Path, status: int
) -> None:
    hostile.add(REF, CONTENT, status="approved")
    file = client.script(REF, "shell").files[0]
    away = Answer(status, b"", {"Location": f"{hostile.url}/elsewhere"})
    for route in ("object_get", "object_put", "changes"):
        hostile.lie(route, lambda *_: away)
    for call in (
        lambda: client.download(file, tmp_path / "x", renew=lambda: file),
        lambda: client.upload(REF, CONTENT),
        client.change_page,
    ):
        with pytest.raises(NotEscherServer, match="redirect"):
            call()
    assert not any(asked.path == "/elsewhere" for asked in hostile.asked)


class TestANameThatAnswersOtherwise:
    """Rebinding: what the policy looked up is what is connected to."""

    def client(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str], port: int
    ) -> EscherServer:
        import socket

        really = socket.getaddrinfo

        def resolve(host: str, asked: object, *args: object, **named: object) -> object:
            if host != "cdn.example":
                return really(host, asked, *args, **named)  # type: ignore[arg-type, call-overload]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (told.pop(0), port))]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        settings = Settings(
            home=tmp_path,
            server_url="http://127.0.0.1:1",
            download_hosts=f"cdn.example:{port}",
            allow_http_hosts="cdn.example",
        )
        policy = UrlPolicy(settings, resolve)
        monkeypatch.setattr("core.server.client.UrlPolicy", lambda _: policy)
        return EscherServer(settings, retrier=Retrier(RetryPolicy(tries=1)))

    def file(self, hostile: HostileServer, port: int) -> ScriptFile:
        [checksum] = hostile.objects
        return ScriptFile(
            path="shell/run.sh", checksum=checksum, size_bytes=9, expires_at=2**40,
            url=f"http://cdn.example:{port}/objects/{checksum[7:]}?signature=CANARY",
        )  # fmt: skip

    def test_the_first_answer_is_the_one_that_counts(
        self, hostile: HostileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hostile.add(REF, {"shell/run.sh": b"echo run\n"}, status="approved")
        port = int(hostile.url.rpartition(":")[2])
        told = ["127.0.0.1", "169.254.169.254", "169.254.169.254"]
        client = self.client(tmp_path, monkeypatch, told, port)
        file = self.file(hostile, port)
        client.download(file, tmp_path / "run.sh", renew=lambda: file)
        assert len(told) == 2  # looked up once, for check and connection both
        client.close()

    @pytest.mark.parametrize("answer", ["169.254.169.254", "0.0.0.0"])
    def test_a_bad_answer_is_not_connected_to(
        self, hostile: HostileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
    ) -> None:
        hostile.add(REF, {"shell/run.sh": b"echo run\n"}, status="approved")
        port = int(hostile.url.rpartition(":")[2])
        client = self.client(tmp_path, monkeypatch, [answer], port)
        file = self.file(hostile, port)
        with pytest.raises(ForbiddenUrl, match=r"cdn\.example.*link-local"):
            client.download(file, tmp_path / "run.sh", renew=lambda: file)
        assert hostile.asked_of("object_get") == []
        client.close()
