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


def test_executions_of_a_deleted_version_do_not_count_for_the_next(server: Any) -> None:
    server.member.publish()
    url = "/api/playbook/stats/acme/stop/1.0.0"
    run = {"execution_id": "a", "success": True, "duration_ms": 10, "at": 100}
    server.member.post(url, {"executions": [run]})
    server.member.delete("stop", "1.0.0", 1)
    assert server.member.post(url, {"executions": [run]}).status_code == 404
    server.member.publish()
    other = run | {"execution_id": "b", "success": False}
    answer = server.member.post(url, {"executions": [other]}).json()
    assert (answer["execution_count"], answer["success_count"]) == (1, 0)


def test_a_stats_call_changes_the_feed_once(server: Any) -> None:
    server.member.publish()
    cursor = server.member.changes()["cursor"]
    run = {"execution_id": "a", "success": True, "duration_ms": 10, "at": 100}
    url = "/api/playbook/stats/acme/stop/1.0.0"
    server.member.post(url, {"executions": [run, run]})
    page = server.member.changes(cursor)
    assert [change["metadata"]["execution_count"] for change in page["changes"]] == [1]
    server.member.post(url, {"executions": [run]})
    assert server.member.changes(page["cursor"])["changes"] == []


def test_statistics_are_the_tenants_own(server: Any) -> None:
    server.member.publish()
    run = {"execution_id": "a", "success": True, "duration_ms": 10, "at": 100}
    body = {"executions": [run]}
    assert server.other.post("/api/playbook/stats/acme/stop/1.0.0", body).status_code == 403
    for wrong in ({"success": "yes"}, {"at": -1}, {"execution_id": ""}, {"duration_ms": 2**60}):
        refused = server.member.post(
            "/api/playbook/stats/acme/stop/1.0.0", {"executions": [run | wrong]}
        )
        assert refused.status_code == 400, wrong
    assert server.member.feed()["stop", "1.0.0"]["metadata"]["execution_count"] == 0


def test_a_rejection_tells_its_reason_and_deprecates_nothing(server: Any) -> None:
    for version in ("1.0.0", "1.1.0"):
        server.member.publish(version=version)
    server.reviewer.set_status("stop", "1.1.0", "rejected", "It stops production, too.")
    feed = server.member.feed()
    rejected = feed["stop", "1.1.0"]
    assert (rejected["status"], rejected["storage_strategy"]) == ("rejected", "uploaded_for_review")
    assert rejected["metadata"]["deprecation_reason"] == "It stops production, too."
    assert feed["stop", "1.0.0"]["status"] == "pending_review"
    server.reviewer.set_status("stop", "1.1.0", "approved")
    approved = server.member.feed()["stop", "1.1.0"]
    assert "deprecation_reason" not in approved["metadata"]
    assert (approved["status"], approved["storage_strategy"]) == ("approved", "uploaded_trusted")


def test_a_deprecated_version_names_its_successor_until_it_is_approved_again(server: Any) -> None:
    for version in ("1.0.0", "1.1.0"):
        server.member.publish(version=version)
    server.reviewer.set_status("stop", "1.0.0", "approved")
    server.reviewer.set_status("stop", "1.1.0", "approved")
    assert server.member.feed()["stop", "1.0.0"]["metadata"]["deprecated_by"] == "1.1.0"
    server.reviewer.set_status("stop", "1.0.0", "approved")
    again = server.member.feed()["stop", "1.0.0"]
    assert again["status"] == "approved"
    assert "deprecated_by" not in again["metadata"]


def test_no_members_token_approves_by_whatever_way(server: Any) -> None:
    server.member.publish(storage_strategy="uploaded_trusted", status="approved")
    change = server.member.feed()["stop", "1.0.0"]
    assert (change["status"], change["storage_strategy"]) == (
        "pending_review",
        "uploaded_for_review",
    )
    for status in ("approved", "active", "rejected", "deprecated"):
        assert server.member.set_status("stop", "1.0.0", status).status_code == 403
    assert server.other.set_status("stop", "1.0.0", "approved").status_code in {403, 404}
    assert server.member.feed()["stop", "1.0.0"]["revision"] == 1
