from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from fastapi.testclient import TestClient

FILES = {
    "parameters.json": b"{}",
    "shell/lib.sh": b"# lib",
    "shell/main.sh": b"echo 0123456789",
    "terraform/b.tf": b"b",
}
BASE = "s3://escher-tenant-data/tenants/acme/playbooks/stop/v1.0.0"


@pytest.fixture
def published(server: Any) -> Any:
    server.member.publish(files=FILES)
    return server


def digest_of(answer: Mapping[str, Any]) -> str:
    """Written from the contract, not from the server's code."""
    owned = {
        "status", "storage_strategy", "deprecated_by", "deprecation_reason", "created_at",
        "updated_at", "execution_count", "success_count", "last_executed",
    }  # fmt: skip
    document = {
        "metadata": {key: value for key, value in answer["metadata"].items() if key not in owned},
        "files": sorted(answer["manifest"]),
    }
    return "sha256:" + hashlib.sha256(rfc8785.dumps(document)).hexdigest()


def ask(server: Any, **params: str) -> Any:
    return server.member.get("/api/script/download", **params)


def test_a_format_s_files_come_with_their_entry_script(published: Any) -> None:
    answer = ask(published, playbook_id="stop", version="1.0.0", format="shell").json()
    assert [file["path"] for file in answer["files"]] == ["shell/lib.sh", "shell/main.sh"]
    assert (answer["format"], answer["entry_point"]) == ("shell", "shell/main.sh")
    for file in answer["files"]:
        content = published.http.get(file["url"]).content
        assert content == FILES[file["path"]]
        assert file["checksum"] == "sha256:" + hashlib.sha256(content).hexdigest()
        assert file["size_bytes"] == len(content)
    assert published.member.stats()["bytes_sent"] == len(b"# lib") + len(b"echo 0123456789")


@pytest.mark.parametrize(
    ("files", "named", "format_", "expected"),
    [
        (["backend/main.tf", "main.tf"], {}, "terraform", "terraform/main.tf"),
        (["a.sh", "main.sh"], {"shell": "shell/a.sh"}, "shell", "shell/a.sh"),
        (["a.sh", "run.sh"], {"shell": "shell/gone.sh"}, "shell", "shell/run.sh"),
        (["main.json", "main.py"], {}, "python", "python/main.py"),
        (
            ["template.params.json", "template.yaml"],
            {},
            "cloudformation",
            "cloudformation/template.yaml",
        ),
        (["go", "notes"], {}, "shell", "shell/go"),
        (["notes", "notes.txt"], {}, "shell", None),
        (["__init__.py"], {}, "python", None),
    ],
)
def test_the_entry_script_is_what_the_metadata_says_else_the_rule_s(
    server: Any, files: list[str], named: dict[str, str], format_: str, expected: str | None
) -> None:
    content = {
        f"{format_}/{name}": b"#!/bin/sh" if name == "go" else name.encode() for name in files
    }
    server.member.publish(files=content, **({"entry_points": named} if named else {}))
    answer = ask(server, playbook_id="stop", version="1.0.0", format=format_)
    assert answer.status_code == 200
    assert answer.json()["entry_point"] == expected


def test_bytes_are_in_the_statistics_before_they_are_with_the_client(published: Any) -> None:
    listed = ask(published, playbook_id="stop", version="1.0.0", format="shell").json()["files"]
    application, counted = published.http.app, []

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def look(message: Any) -> None:
            if message.get("body"):
                stats = application.state.services.counters.stats("acme")
                counted.append((stats["bytes_sent"], len(message["body"])))
            await send(message)

        await application(scope, receive, look)

    TestClient(watched, base_url="http://testserver").get(listed[0]["url"])
    assert counted == [(len(b"# lib"), len(b"# lib"))]


@pytest.mark.parametrize(
    ("s3_path", "paths"),
    [
        (f"{BASE}/shell/lib.sh", ["shell/lib.sh"]),
        (f"{BASE}/shell", ["shell/lib.sh", "shell/main.sh"]),
        (f"{BASE}/parameters.json", ["parameters.json"]),
        (f"{BASE}/", sorted(FILES)),
        (BASE, sorted(FILES)),
    ],
)
def test_an_s3_path_names_a_file_a_folder_or_all(
    published: Any, s3_path: str, paths: list[str]
) -> None:
    answer = ask(published, s3_path=s3_path).json()
    assert [file["path"] for file in answer["files"]] == paths


def test_what_is_not_there_or_not_ours_is_refused(published: Any) -> None:
    assert ask(published, playbook_id="stop", version="2.0.0").status_code == 404
    no_arm = ask(published, playbook_id="stop", version="1.0.0", format="arm")
    assert no_arm.status_code == 404
    assert ask(published, s3_path=BASE.replace("acme", "other")).status_code == 403
    assert ask(published, s3_path="s3://elsewhere/x").status_code == 400
    assert ask(published).status_code == 400


def test_ranges_with_a_strong_etag(published: Any) -> None:
    url = ask(published, s3_path=f"{BASE}/shell/main.sh").json()["files"][0]["url"]
    whole = published.http.get(url)
    etag = whole.headers["etag"]
    assert etag == '"' + hashlib.sha256(FILES["shell/main.sh"]).hexdigest() + '"'
    part = published.http.get(url, headers={"Range": "bytes=5-", "If-Range": etag})
    assert (part.status_code, part.content) == (206, b"0123456789")
    assert part.headers["content-range"] == "bytes 5-14/15"
    changed = published.http.get(url, headers={"Range": "bytes=5-", "If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, FILES["shell/main.sh"])
    assert published.http.get(url, headers={"Range": "bytes=99-"}).status_code == 416


def test_an_expired_download_is_403(start_server: Any) -> None:
    server = start_server(download_url_ttl_seconds=0)
    server.member.publish(files=FILES)
    url = ask(server, s3_path=f"{BASE}/shell/lib.sh").json()["files"][0]["url"]
    answer = server.http.get(url)
    assert answer.status_code == 403
    assert answer.json()["status"] == 403


class TestLatest:
    def ask(self, server: Any, format_: str = "shell") -> str | None:
        answer = ask(server, playbook_id="stop", version="latest", format=format_)
        return answer.json().get("version")

    def test_it_is_the_highest_that_is_approved_or_active(self, server: Any) -> None:
        for version in ("1.9.0", "1.10.0", "2.0.0", "3.0.0"):
            server.member.publish(version=version)
        assert self.ask(server) is None  # nobody has approved any
        server.reviewer.set_status("stop", "1.9.0", "approved")
        assert self.ask(server) == "1.9.0"
        server.reviewer.set_status("stop", "1.10.0", "active")
        assert self.ask(server) == "1.10.0"
        server.reviewer.set_status("stop", "2.0.0", "rejected")
        assert self.ask(server) == "1.10.0"

    @pytest.mark.parametrize("status", ["deprecated", "broken", "archived", "needs_update"])
    def test_what_is_no_longer_good_is_passed_over(self, server: Any, status: str) -> None:
        for version in ("1.0.0", "1.1.0"):
            server.member.publish(version=version)
            server.reviewer.set_status("stop", version, "active")
        server.reviewer.set_status("stop", "1.1.0", status)
        assert self.ask(server) == "1.0.0"

    def test_it_has_the_format_that_is_asked_for(self, server: Any) -> None:
        server.member.publish(version="1.0.0", files=FILES)
        server.member.publish(version="1.1.0", files={"terraform/a.tf": b"a"})
        for version in ("1.0.0", "1.1.0"):
            server.reviewer.set_status("stop", version, "active")
        assert self.ask(server) == "1.0.0"
        assert self.ask(server, "terraform") == "1.1.0"
        assert self.ask(server, "arm") is None

    def test_a_pre_release_only_where_no_release_is(self, server: Any) -> None:
        for version in ("2.0.0-rc.1", "2.0.0-rc.2", "1.0.0"):
            server.member.publish(version=version)
        for version in ("2.0.0-rc.1", "2.0.0-rc.2"):
            server.reviewer.set_status("stop", version, "active")
        assert self.ask(server) == "2.0.0-rc.2"
        server.reviewer.set_status("stop", "1.0.0", "active")
        assert self.ask(server) == "1.0.0"


def test_an_answer_tells_the_whole_version_so_that_its_digest_can_be_computed(
    server: Any,
) -> None:
    server.member.publish(files=FILES, storage_strategy="uploaded_trusted")
    server.reviewer.set_status("stop", "1.0.0", "approved")
    change = server.member.feed()["stop", "1.0.0"]
    answer = ask(server, playbook_id="stop", version="1.0.0", format="terraform").json()
    assert [file["path"] for file in answer["files"]] == ["terraform/b.tf"]
    for name in ("status", "published_by", "content_digest", "metadata"):
        assert answer[name] == change[name], name
    assert answer["status"] == "approved"
    assert answer["published_by"]
    assert answer["manifest"] == [
        [file["path"], file["checksum"]] for file in sorted(change["files"], key=itemgetter("path"))
    ]
    assert digest_of(answer) == answer["content_digest"]


def test_an_executable_file_is_told_and_covered_by_the_digest(server: Any) -> None:
    files = {"shell/main.sh": b"#!/bin/sh\n", "shell/lib.sh": b"# lib\n"}
    server.member.upload("stop", "1.0.0", files)
    checksums = {path: "sha256:" + hashlib.sha256(files[path]).hexdigest() for path in files}
    announced = {
        "tenant_id": "acme",
        "playbook_id": "stop",
        "version": "1.0.0",
        "files": [
            {"path": path, "size_bytes": len(files[path]), "checksum": checksums[path],
             "executable": path == "shell/main.sh"}
            for path in files
        ],
    }  # fmt: skip
    assert server.member.post("/api/playbook/upload", announced).status_code == 200
    metadata = server.member.metadata("stop", "1.0.0")
    manifest = [
        ["shell/lib.sh", checksums["shell/lib.sh"]],
        ["shell/main.sh", checksums["shell/main.sh"], "x"],
    ]
    digest = digest_of({"metadata": metadata, "manifest": manifest})
    body = server.member.publish_body(metadata, files, content_digest=digest)
    assert server.member.send_publish(body).status_code == 200
    answer = ask(server, playbook_id="stop", version="1.0.0").json()
    assert answer["manifest"] == manifest
    assert {file["path"]: file["executable"] for file in answer["files"]} == {
        "shell/main.sh": True, "shell/lib.sh": False,
    }  # fmt: skip
    feed = server.member.feed()["stop", "1.0.0"]
    assert {file["path"]: file["executable"] for file in feed["files"]}["shell/main.sh"] is True


class TestASignedGet:
    def test_fails_once_its_version_is_deleted(self, server: Any) -> None:
        server.member.publish(files=FILES)
        server.member.publish(version="1.1.0", files=FILES)
        urls = {
            version: ask(server, playbook_id="stop", version=version).json()["files"][0]["url"]
            for version in ("1.0.0", "1.1.0")
        }
        assert server.member.delete("stop", "1.0.0", 1).is_success
        assert server.http.get(urls["1.0.0"]).status_code == 410
        head = server.http.head(urls["1.0.0"])
        assert head.status_code == 410
        assert server.http.get(urls["1.1.0"]).is_success  # the same bytes, of a version that lives

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("version=1.0.0", "version=1.1.0"),
            ("expires=", "expires=9"),
            ("signature=", "signature=0"),
            ("/objects/tenants/acme/", "/objects/tenants/other/"),
            ("playbook_id=stop", "playbook_id=start"),
        ],
    )
    def test_is_bound_to_what_it_was_made_for(self, published: Any, old: str, new: str) -> None:
        url = ask(published, playbook_id="stop", version="1.0.0").json()["files"][0]["url"]
        assert old in url
        assert published.http.get(url.replace(old, new, 1)).status_code == 403
        assert published.http.put(url, content=b"x").status_code == 403  # another method


def test_the_library_is_read_but_not_written(start_server: Any, tmp_path: Path) -> None:
    folder = tmp_path / "library" / "escher-stop" / "v1.0.0"
    (folder / "shell").mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps({"name": "Stop", "status": "active"}))
    (folder / "shell" / "a b.sh").write_bytes(b"echo library")
    server = start_server(library_dir=tmp_path / "library")
    answer = ask(server, playbook_id="escher-stop", version="1.0.0", format="shell").json()
    assert answer["entry_point"] == "shell/a b.sh"
    assert server.http.get(answer["files"][0]["url"]).content == b"echo library"
    everything = ask(server, s3_path="s3://escher-library/playbooks/escher-stop/v1.0.0").json()
    assert [file["path"] for file in everything["files"]] == ["metadata.json", "shell/a b.sh"]
    assert [entry[0] for entry in everything["manifest"]] == ["shell/a b.sh"]
    assert digest_of(everything) == everything["content_digest"]
    assert (everything["status"], everything["published_by"]) == ("active", "escher-library")
    found = server.member.post(
        "/api/playbook/search", {"tenant_id": "acme", "query": "stop", "filters": {}, "limit": 5}
    ).json()["results"]
    assert [(hit["playbook_id"], hit["source"]) for hit in found] == [
        ("escher-stop", "escher_library")
    ]
