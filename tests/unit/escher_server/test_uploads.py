from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

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
