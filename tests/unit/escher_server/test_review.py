from __future__ import annotations

import time
from typing import Any

import pytest

from escher_server.tenants import ensure_tenant


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
    digest = server.member.feed()["stop", "1.0.0"]["content_digest"]
    stale = server.reviewer.delete("stop", "1.0.0", 1)
    assert stale.status_code == 412
    assert stale.json()["server"]["revision"] == 2
    assert server.reviewer.delete("stop", "1.0.0", 2).status_code == 200
    assert server.reviewer.delete("stop", "1.0.0", 2).status_code == 200  # a lost answer
    change = server.member.feed()["stop", "1.0.0"]
    assert (change["deleted"], change["files"], change["revision"]) == (True, [], 3)
    assert change["content_digest"] == digest
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


class TestDeleting:
    def test_an_approved_version_asks_for_a_reviewer(self, server: Any) -> None:
        server.member.publish()
        server.reviewer.set_status("stop", "1.0.0", "approved")
        assert server.member.delete("stop", "1.0.0", 2).status_code == 403
        assert not server.member.feed()["stop", "1.0.0"]["deleted"]
        assert server.reviewer.delete("stop", "1.0.0", 2).is_success

    @pytest.mark.parametrize("later", ["deprecated", "rejected", "broken", "archived"])
    def test_so_does_one_that_was_approved_once(self, server: Any, later: str) -> None:
        server.member.publish()
        server.reviewer.set_status("stop", "1.0.0", "active")
        server.reviewer.set_status("stop", "1.0.0", later)
        assert server.member.delete("stop", "1.0.0", 3).status_code == 403

    def test_so_does_one_that_a_higher_approval_deprecated(self, server: Any) -> None:
        server.member.publish()
        server.reviewer.set_status("stop", "1.0.0", "approved")
        server.reviewer.publish(version="2.0.0", storage_strategy="uploaded_trusted")
        assert server.member.delete("stop", "1.0.0", 3).status_code == 403

    def test_a_member_deletes_what_that_member_published_and_no_other_s(
        self, server: Any, make_client: Any
    ) -> None:
        ensure_tenant(server.data_dir, "acme", "member", "second-token", "second")
        second = make_client(server.http, "second-token")
        second.publish("theirs")
        server.member.publish("ours")
        assert server.member.delete("theirs", "1.0.0", 1).status_code == 403
        assert second.delete("theirs", "1.0.0", 1).is_success
        server.reviewer.set_status("ours", "1.0.0", "rejected")
        assert server.member.delete("ours", "1.0.0", 2).is_success


class TestAStatus:
    def test_is_set_only_for_the_content_that_was_judged(self, server: Any) -> None:
        server.member.publish()
        digest = server.member.feed()["stop", "1.0.0"]["content_digest"]
        path = "/api/playbook/metadata/acme/stop/1.0.0/status"
        for other in ("sha256:" + "0" * 64, digest[:-1] + ("0" if digest[-1] != "0" else "1")):
            body = {"status": "approved", "reason": None, "content_digest": other}
            answer = server.reviewer.post(path, body)
            assert answer.status_code == 409
            assert answer.json()["server"]["content_digest"] == digest
        assert server.reviewer.post(path, {**body, "content_digest": "x"}).status_code == 400
        assert server.member.feed()["stop", "1.0.0"]["status"] == "pending_review"
        assert server.reviewer.post(path, {**body, "content_digest": digest}).is_success


class TestExecutionsThatOneMemberReports:
    URL = "/api/playbook/stats/acme/stop/1.0.0"

    def runs(self, prefix: str, count: int, at: int = 100) -> dict[str, Any]:
        return {
            "executions": [
                {"execution_id": f"{prefix}-{number}", "success": True, "duration_ms": 1, "at": at}
                for number in range(count)
            ]
        }

    def test_are_bounded_a_day_and_leave_the_others_theirs(self, start_server: Any) -> None:
        server = start_server(max_executions_per_member_day=5)
        server.member.publish()
        assert server.member.post(self.URL, self.runs("a", 5)).is_success
        refused = server.member.post(self.URL, self.runs("b", 1))
        assert refused.status_code == 429
        assert 0 < int(refused.headers["retry-after"]) <= 86400
        assert server.member.post(self.URL, self.runs("a", 5)).json()["accepted"] == 0  # again
        assert server.member.post(self.URL, self.runs("c", 900)).status_code == 429
        assert server.member.feed()["stop", "1.0.0"]["metadata"]["execution_count"] == 5
        assert server.reviewer.post(self.URL, self.runs("d", 2)).json()["execution_count"] == 7

    def test_can_not_have_been_later_than_now(self, server: Any) -> None:
        server.member.publish()
        answer = server.member.post(self.URL, self.runs("a", 1, at=2**50)).json()
        assert answer["last_executed"] <= time.time()
