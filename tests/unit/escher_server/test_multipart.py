from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

CONTENT = bytes(range(256)) * 10  # 2560 bytes: three parts of at most 1000
FILES = {"python/big.bin": CONTENT}


@pytest.fixture
def small_parts(start_server: Any) -> Any:
    return start_server(multipart_over_bytes=2000, part_bytes=1000)


def send_part(server: Any, part: dict[str, Any], content: bytes = CONTENT) -> Any:
    data = content[part["offset"] : part["offset"] + part["size_bytes"]]
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    return server.http.put(part["url"], content=data, headers={"x-amz-checksum-sha256": digest})


def announce(server: Any) -> dict[str, Any]:
    target: dict[str, Any] = server.member.announce("big", "1.0.0", FILES).json()["uploads"][0]
    return target


def test_an_interrupted_upload_resumes_where_it_stopped(small_parts: Any) -> None:
    target = announce(small_parts)
    assert "url" not in target
    assert [(p["number"], p["offset"], p["size_bytes"]) for p in target["parts"]] == [
        (1, 0, 1000),
        (2, 1000, 1000),
        (3, 2000, 560),
    ]
    assert send_part(small_parts, target["parts"][1]).status_code == 200
    early = small_parts.http.post(target["complete_url"])
    assert early.status_code == 424
    assert early.json()["missing_parts"] == [1, 3]

    target = announce(small_parts)
    assert [part["number"] for part in target["parts"]] == [1, 3]
    for part in target["parts"]:
        send_part(small_parts, part)
    assert small_parts.http.post(target["complete_url"]).status_code == 200
    assert small_parts.http.post(target["complete_url"]).status_code == 200  # a lost answer
    assert announce(small_parts)["url"] is None
    assert small_parts.member.stats()["bytes_received"] == len(CONTENT)
    assert small_parts.member.publish("big", files=FILES)["revision"] == 1


def test_a_part_carries_its_own_checksum(small_parts: Any) -> None:
    part = announce(small_parts)["parts"][0]
    assert small_parts.http.put(part["url"], content=CONTENT[:1000]).status_code == 400
    wrong = {"x-amz-checksum-sha256": base64.b64encode(bytes(32)).decode()}
    answer = small_parts.http.put(part["url"], content=CONTENT[:1000], headers=wrong)
    assert answer.status_code == 400


def test_the_whole_is_checked_and_wrong_parts_are_dropped(small_parts: Any) -> None:
    target = announce(small_parts)
    for part in target["parts"]:
        assert send_part(small_parts, part, CONTENT[::-1]).status_code == 200
    assert small_parts.http.post(target["complete_url"]).status_code == 400
    assert len(announce(small_parts)["parts"]) == 3
