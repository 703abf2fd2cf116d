from __future__ import annotations

from typing import Any

import pytest


def test_pages_hold_every_version_once_and_end(server: Any) -> None:
    for number in range(5):
        server.member.publish(f"p{number}")
    cursor, seen, pages = None, [], 0
    more = True
    while more:
        page = server.member.changes(cursor, limit=2)
        seen += [change["playbook_id"] for change in page["changes"]]
        cursor, more = page["cursor"], page["more"]
        pages += 1
    assert seen == [f"p{number}" for number in range(5)]
    assert pages == 3
    assert server.member.changes(cursor)["changes"] == []


def test_what_changes_while_paging_comes_later_and_not_less(server: Any) -> None:
    for number in range(4):
        server.member.publish(f"p{number}")
    first = server.member.changes(limit=2)
    server.reviewer.set_status("p0", "1.0.0", "approved")
    server.member.delete("p3", "1.0.0", 1)
    rest = server.member.changes(first["cursor"])["changes"]
    assert [(c["playbook_id"], c["deleted"]) for c in rest] == [
        ("p2", False),
        ("p0", False),
        ("p3", True),
    ]


def test_a_change_is_complete_and_its_digest_is_that_of_what_it_shows(
    server: Any, request: pytest.FixtureRequest
) -> None:
    files = {"shell/stop.sh": b"echo stop\n", "parameters.json": b"{}"}
    server.member.publish(files=files, created_at=7)
    server.reviewer.set_status("stop", "1.0.0", "approved")
    change = server.member.feed()["stop", "1.0.0"]
    shown = server.member.publish_body(change["metadata"], files)
    assert shown["content_digest"] == change["content_digest"]
    assert change["metadata"]["status"] == change["status"] == "approved"
    assert change["metadata"]["created_at"] == 7
    assert [file["path"] for file in change["files"]] == ["parameters.json", "shell/stop.sh"]
    assert set(change["files"][0]) == {
        "path", "size_bytes", "checksum", "executable", "s3_path",
    }  # fmt: skip


def test_a_cursor_of_another_life_starts_from_the_beginning(
    start_server: Any, tmp_path: Any
) -> None:
    first = start_server(data_dir=tmp_path / "one")
    first.member.publish()
    cursor = first.member.changes()["cursor"]
    second = start_server(data_dir=tmp_path / "two")
    second.member.publish()
    assert len(second.member.changes(cursor)["changes"]) == 1


def test_a_tenant_sees_only_its_own(server: Any) -> None:
    server.member.publish()
    assert server.other.changes()["changes"] == []
    answer = server.other.get("/api/playbook/metadata/changes", tenant_id="acme")
    assert answer.status_code == 403


def test_nonsense_is_no_cursor(server: Any) -> None:
    answer = server.member.get(
        "/api/playbook/metadata/changes", tenant_id="acme", since="nonsense!"
    )
    assert answer.status_code == 400
