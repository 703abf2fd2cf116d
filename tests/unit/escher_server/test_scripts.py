from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

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


def test_latest_is_the_highest_that_is_not_hidden(server: Any) -> None:
    for version in ("1.9.0", "1.10.0", "2.0.0"):
        server.member.publish(version=version)
    server.reviewer.set_status("stop", "2.0.0", "rejected")
    assert ask(server, playbook_id="stop", version="latest").json()["version"] == "1.10.0"


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
    found = server.member.post(
        "/api/playbook/search", {"tenant_id": "acme", "query": "stop", "filters": {}, "limit": 5}
    ).json()["results"]
    assert [(hit["playbook_id"], hit["source"]) for hit in found] == [
        ("escher-stop", "escher_library")
    ]
