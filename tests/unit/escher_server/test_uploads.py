from __future__ import annotations

import base64
import hashlib
from typing import Any

import httpx
import pytest

from core import limits

ANY = "sha256:" + "a" * 64
FILES = {"shell/stop.sh": b"echo stop\n", "parameters.json": b"{}"}


def test_announced_files_get_targets_at_the_contract_s_place(server: Any) -> None:
    answer = server.member.announce("stop", "1.0.0", FILES).json()
    base = "s3://escher-tenant-data/tenants/acme/playbooks/stop/v1.0.0"
    assert answer["s3_base_path"] == base
    target = answer["uploads"][0]
    assert target["s3_path"] == f"{base}/shell/stop.sh"
    digest = hashlib.sha256(FILES["shell/stop.sh"]).digest()
    assert target["headers"] == {
        "x-amz-checksum-sha256": base64.b64encode(digest).decode(),
        "Content-Length": "10",
    }


def test_bytes_the_tenant_holds_are_not_asked_for_again(server: Any) -> None:
    server.member.upload("stop", "1.0.0", FILES)
    before = server.member.stats()
    targets = server.member.announce("another", "2.0.0", FILES).json()["uploads"]
    assert [target["url"] for target in targets] == [None, None]
    assert server.member.stats()["bytes_received"] == before["bytes_received"]
    # what another tenant holds is none of this one's business
    others = server.other.announce("stop", "1.0.0", FILES).json()["uploads"]
    assert all(target["url"] for target in others)


@pytest.mark.parametrize("content", [b"echo STOP\n", b"echo stop\n\n", b"echo"])
def test_other_bytes_than_announced_are_refused_and_leave_nothing(
    server: Any, content: bytes
) -> None:
    target = server.member.announce("stop", "1.0.0", FILES).json()["uploads"][0]
    pinned = {"x-amz-checksum-sha256": target["headers"]["x-amz-checksum-sha256"]}
    answer = server.http.put(target["url"], content=content, headers=pinned)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert list((server.data_dir / "incoming").iterdir()) == []
    assert server.member.announce("stop", "1.0.0", FILES).json()["uploads"][0]["url"]


def test_an_expired_url_is_403_and_so_is_a_changed_one(start_server: Any) -> None:
    server = start_server(upload_url_ttl_seconds=0)
    target = server.member.announce("stop", "1.0.0", FILES).json()["uploads"][0]
    content, headers = FILES["shell/stop.sh"], target["headers"]
    assert server.http.put(target["url"], content=content, headers=headers).status_code == 403
    later = target["url"].replace("expires=1", "expires=9")
    assert server.http.put(later, content=content, headers=headers).status_code == 403


def test_an_empty_file_is_a_file(server: Any) -> None:
    server.member.publish(files={"shell/empty.sh": b""})
    assert server.member.stats()["objects"] == 1


@pytest.mark.parametrize(
    "path", ["../up.sh", "/etc/passwd", "a//b", "shell\\stop.sh", "", "shell/\x00", "C:/x"]
)
def test_paths_that_leave_their_folder_are_refused(server: Any, path: str) -> None:
    assert server.member.announce("stop", "1.0.0", {path: b"x"}).status_code == 400


def test_too_large_a_file_is_refused_by_its_announcement(start_server: Any) -> None:
    server = start_server(max_file_bytes=4)
    assert server.member.announce("stop", "1.0.0", FILES).status_code == 413


def test_a_file_over_the_limit_of_both_sides_names_it(server: Any) -> None:
    body = {
        "tenant_id": "acme",
        "playbook_id": "stop",
        "version": "1.0.0",
        "files": [{"path": "shell/big", "size_bytes": limits.FILE_BYTES + 1, "checksum": ANY}],
    }
    answer = server.member.post("/api/playbook/upload", body)
    assert answer.status_code == 413
    assert str(limits.FILE_BYTES) in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("shell/\u06af\u0632\u0627\u0631\u0634\u200c\u0647\u0627.sh", 200),
        ("shell/\U0001f469\u200d\U0001f4bb-oncall.sh", 200),
        ("shell/pru\u0308fung.sh", 200),  # a version from before may be called so
        ("shell/a\u202ehs.sh", 400),
        ("shell/a\u200b.sh", 400),
        ("shell/a\u2028.sh", 400),
        ("shell/a\x1b.sh", 400),
        ("shell/" + "a" * 300, 400),
        ("shell" + "/a" * 600, 400),
    ],
)  # fmt: skip
def test_names_are_judged_as_clients_judge_them(server: Any, path: str, status: int) -> None:
    assert server.member.announce("stop", "1.0.0", {path: b"x"}).status_code == status


# -- pieces -----------------------------------------------------------------------------------
def published(server: Any, files: dict[str, bytes]) -> httpx.Response:
    metadata = server.member.metadata("stop", "1.0.0")
    return server.member.send_publish(server.member.publish_body(metadata, files))


def test_the_announcements_of_one_version_add_up(server: Any) -> None:
    files = {f"shell/{number}.sh": b"#\n" for number in range(1300)}
    paths = sorted(files)
    whole = server.member.announce("stop", "1.0.0", files)
    assert whole.status_code == 413
    assert str(limits.ANNOUNCED_FILES) in whole.json()["detail"]
    for piece in (paths[:1000], paths[1000:]):
        server.member.upload("stop", "1.0.0", {path: files[path] for path in piece})
    assert published(server, files).status_code == 200
    assert len(server.member.feed()["stop", "1.0.0"]["files"]) == 1300


def test_pieces_of_several_clients_do_not_mix(server: Any) -> None:
    """Two machines announce different content for one name at once, each in two pieces."""
    paths = [f"shell/{number}.sh" for number in range(4)]
    one, two = (dict.fromkeys(paths, content) for content in (b"one\n", b"two\n"))
    for piece in (paths[:2], paths[2:]):
        for files in (one, two):
            server.member.upload("stop", "1.0.0", {path: files[path] for path in piece})
    assert published(server, one).status_code == 200


def test_more_files_than_a_version_may_have_are_refused_by_name(server: Any) -> None:
    files = {f"shell/{number}.sh": b"#\n" for number in range(limits.FILES + 1)}
    answer = published(server, files)
    assert answer.status_code == 413
    assert str(limits.FILES) in answer.json()["detail"]


def test_metadata_over_its_limit_is_refused_by_name(server: Any) -> None:
    files = {"shell/stop.sh": b"#\n"}
    server.member.upload("stop", "1.0.0", files)
    metadata = server.member.metadata("stop", "1.0.0", notes="x" * limits.METADATA_BYTES)
    answer = server.member.send_publish(server.member.publish_body(metadata, files))
    assert answer.status_code == 413
    assert str(limits.METADATA_BYTES) in answer.json()["detail"]
