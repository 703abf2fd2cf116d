from __future__ import annotations

from typing import Any


def test_approval_trusts_and_deprecates_lower_versions_by_precedence(server: Any) -> None:
    for version in ("1.9.0", "1.10.0-rc.1", "1.10.0", "2.0.0"):
        server.member.publish(version=version)
    server.reviewer.set_status("stop", "1.9.0", "rejected")
    answer = server.reviewer.set_status("stop", "1.10.0", "approved").json()
    assert (answer["status"], answer["storage_strategy"]) == ("approved", "uploaded_trusted")
    feed = server.member.feed()
    assert feed["stop", "1.10.0-rc.1"]["status"] == "deprecated"
    assert feed["stop", "1.10.0-rc.1"]["metadata"]["deprecated_by"] == "1.10.0"
    assert feed["stop", "2.0.0"]["status"] == "pending_review"
    assert feed["stop", "1.9.0"]["status"] == "rejected"  # deprecating would show it again


def test_only_a_reviewer_reviews(server: Any) -> None:
    server.member.publish()
    assert server.member.set_status("stop", "1.0.0", "approved").status_code == 403
    assert server.reviewer.set_status("stop", "1.0.0", "draft").status_code == 400
    assert server.reviewer.set_status("stop", "9.0.0", "approved").status_code == 404


def test_the_same_decision_again_is_no_revision(server: Any) -> None:
    server.member.publish()
    first = server.reviewer.set_status("stop", "1.0.0", "approved").json()
    assert server.reviewer.set_status("stop", "1.0.0", "approved").json() == first


def test_an_approval_changes_no_digest(server: Any) -> None:
    server.member.publish()
    before = server.member.feed()["stop", "1.0.0"]
    server.reviewer.set_status("stop", "1.0.0", "approved")
    after = server.member.feed()["stop", "1.0.0"]
    assert after["content_digest"] == before["content_digest"]
    assert after["revision"] == before["revision"] + 1


def test_deleting_asks_for_the_revision_and_leaves_a_tombstone(server: Any) -> None:
    server.member.publish()
    server.reviewer.set_status("stop", "1.0.0", "approved")
    stale = server.member.delete("stop", "1.0.0", 1)
    assert stale.status_code == 412
    assert stale.json()["server"]["revision"] == 2
    assert server.member.delete("stop", "1.0.0", 2).status_code == 200
    assert server.member.delete("stop", "1.0.0", 2).status_code == 200  # a lost answer
    change = server.member.feed()["stop", "1.0.0"]
    assert (change["deleted"], change["files"], change["revision"]) == (True, [], 3)
    assert server.member.stats()["versions"] == 0
    assert server.member.delete("never", "1.0.0", 1).status_code == 404


def test_a_deleted_version_can_be_published_again_even_with_the_old_key(server: Any) -> None:
    files = {"shell/stop.sh": b"echo stop\n"}
    server.member.upload("stop", "1.0.0", files)
    body = server.member.publish_body(server.member.metadata("stop", "1.0.0"), files)
    server.member.send_publish(body, key="k")
    server.member.delete("stop", "1.0.0", 1)
    assert server.member.send_publish(body, key="k").json()["revision"] == 3
    assert server.member.stats()["versions"] == 1


def test_if_match_is_asked_for(server: Any) -> None:
    server.member.publish()
    url = "/api/playbook/metadata/acme/stop/1.0.0"
    assert server.http.delete(url, headers=server.member.headers).status_code == 428


def test_executions_count_once_by_their_id(server: Any) -> None:
    server.member.publish()
    runs = [
        {"execution_id": "a", "success": True, "duration_ms": 10, "at": 100},
        {"execution_id": "b", "success": False, "duration_ms": 10, "at": 200},
    ]
    url = "/api/playbook/stats/acme/stop/1.0.0"
    assert server.member.post(url, {"executions": runs}).json()["accepted"] == 2
    again = server.member.post(url, {"executions": runs}).json()
    assert again == {
        "accepted": 0,
        "execution_count": 2,
        "success_count": 1,
        "last_executed": 200,
    }
    change = server.member.feed()["stop", "1.0.0"]
    assert change["metadata"]["execution_count"] == 2
    assert change["revision"] == 1
    missing = server.member.post("/api/playbook/stats/acme/no/1.0.0", {"executions": runs})
    assert missing.status_code == 404
