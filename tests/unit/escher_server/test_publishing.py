from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

FILES = {"shell/stop.sh": b"echo stop\n", "parameters.json": b"{}"}


def test_a_member_s_playbook_waits_for_review(server: Any) -> None:
    answer = server.member.publish(storage_strategy="uploaded_trusted")
    assert answer["revision"] == 1
    assert (answer["status"], answer["storage_strategy"]) == (
        "pending_review",
        "uploaded_for_review",
    )
    assert set(answer) == {"revision", "status", "storage_strategy", "published_at"}


def test_a_reviewer_s_trusted_playbook_is_approved_at_once(server: Any) -> None:
    server.member.publish(version="1.0.0")
    answer = server.reviewer.publish(version="1.1.0", storage_strategy="uploaded_trusted")
    assert (answer["status"], answer["storage_strategy"]) == ("approved", "uploaded_trusted")
    assert server.member.feed()["stop", "1.0.0"]["status"] == "deprecated"
    only_review = server.reviewer.publish(version="1.2.0")
    assert only_review["status"] == "pending_review"


def test_the_same_key_and_body_get_the_first_answer(server: Any) -> None:
    server.member.upload("stop", "1.0.0", FILES)
    body = server.member.publish_body(server.member.metadata("stop", "1.0.0"), FILES)
    first = server.member.send_publish(body, key="k").json()
    server.reviewer.set_status("stop", "1.0.0", "approved")
    assert server.member.send_publish(body, key="k").json() == first
    other = server.member.send_publish({**body, "base_revision": 2}, key="k")
    assert other.status_code == 422


def test_a_refusal_is_not_an_answer_to_repeat(server: Any) -> None:
    body = server.member.publish_body(server.member.metadata("stop", "1.0.0"), FILES)
    server.member.announce("stop", "1.0.0", FILES)
    refused = server.member.send_publish(body, key="k")
    assert refused.status_code == 424
    assert refused.json()["missing"] == ["parameters.json", "shell/stop.sh"]
    server.member.upload("stop", "1.0.0", FILES)
    assert server.member.send_publish(body, key="k").status_code == 200


def test_files_never_announced_are_missing(server: Any) -> None:
    body = server.member.publish_body(server.member.metadata("stop", "1.0.0"), FILES)
    assert server.member.send_publish(body).status_code == 424


def test_publishing_the_same_again_sends_no_byte_and_makes_no_revision(server: Any) -> None:
    server.member.publish(files=FILES)
    before = server.member.stats()
    server.member.upload("stop", "1.0.0", FILES)
    body = server.member.publish_body(
        server.member.metadata("stop", "1.0.0", updated_at=5), FILES, base_revision=1
    )
    assert server.member.send_publish(body).json()["revision"] == 1
    after = server.member.stats()
    for counter in ("bytes_received", "revisions", "versions", "objects"):
        assert after[counter] == before[counter]
    assert after["requests"] > before["requests"]


def test_republishing_does_not_undo_a_review(server: Any) -> None:
    server.member.publish(files=FILES)
    server.reviewer.set_status("stop", "1.0.0", "rejected", "no rollback")
    body = server.member.publish_body(
        server.member.metadata("stop", "1.0.0"), FILES, base_revision=2
    )
    answer = server.member.send_publish(body).json()
    assert (answer["status"], answer["revision"]) == ("rejected", 2)


@pytest.mark.parametrize("base_revision", [None, 1])
def test_a_published_version_never_changes_content(server: Any, base_revision: int | None) -> None:
    server.member.publish(files=FILES)
    digest = server.member.feed()["stop", "1.0.0"]["content_digest"]
    other = {"shell/stop.sh": b"echo other\n"}
    server.member.upload("stop", "1.0.0", other)
    body = server.member.publish_body(
        server.member.metadata("stop", "1.0.0"), other, base_revision=base_revision
    )
    answer = server.member.send_publish(body)
    assert answer.status_code == 409
    assert answer.json()["type"].endswith(":immutable")
    assert answer.json()["server"]["content_digest"] == digest
    assert answer.json()["server"]["revision"] == 1
    assert answer.json()["server"]["metadata"]["x_newer_field"] == {"kept": True}
    assert server.member.feed()["stop", "1.0.0"]["content_digest"] == digest


class TestTheNameOfADeletedVersion:
    """It belongs to the content that it had, for ever."""

    def delete(self, server: Any) -> dict[str, Any]:
        server.member.publish(files=FILES, storage_strategy="uploaded_trusted")
        server.reviewer.set_status("stop", "1.0.0", "approved")
        assert server.reviewer.delete("stop", "1.0.0", 2).is_success
        tombstone: dict[str, Any] = server.member.feed()["stop", "1.0.0"]
        return tombstone

    @pytest.mark.parametrize("base_revision", [None, 1, 2, 3])
    @pytest.mark.parametrize("what", ["a file", "a path", "the metadata"])
    def test_takes_no_other_content(
        self, server: Any, what: str, base_revision: int | None
    ) -> None:
        tombstone = self.delete(server)
        files = {
            "a file": {**FILES, "shell/stop.sh": b"rm -rf /\n"},
            "a path": {"shell/other.sh": FILES["shell/stop.sh"]},
            "the metadata": FILES,
        }[what]
        description = "Something else." if what == "the metadata" else "Stops idle instances."
        metadata = server.member.metadata("stop", "1.0.0", description=description)
        for client in (server.member, server.reviewer):
            client.upload("stop", "1.0.0", files)
            body = client.publish_body(metadata, files, base_revision=base_revision)
            answer = client.send_publish(body)
            assert answer.status_code == 409
            assert answer.json()["type"] == "urn:escher:problem:immutable"
            assert answer.json()["server"]["content_digest"] == tombstone["content_digest"]
            assert answer.json()["server"]["deleted"] is True
        assert server.member.feed()["stop", "1.0.0"] == tombstone
        assert (
            server.member.get(
                "/api/script/download", playbook_id="stop", version="1.0.0"
            ).status_code
            == 404
        )

    def test_takes_the_same_content_again_and_then_asks_for_a_review_again(
        self, server: Any
    ) -> None:
        tombstone = self.delete(server)
        again = server.member.publish(files=FILES)
        assert (again["revision"], again["status"]) == (4, "pending_review")
        feed = server.member.feed()["stop", "1.0.0"]
        assert feed["content_digest"] == tombstone["content_digest"]

    def test_keeps_it_over_a_restart_and_another_deletion(
        self, server: Any, start_server: Any
    ) -> None:
        tombstone = self.delete(server)
        server.member.publish(files=FILES)
        assert server.member.delete("stop", "1.0.0", 4).is_success
        other = {"shell/stop.sh": b"echo other\n"}
        again = start_server()
        again.member.upload("stop", "1.0.0", other)
        body = again.member.publish_body(again.member.metadata("stop", "1.0.0"), other)
        assert again.member.send_publish(body).status_code == 409
        assert again.member.feed()["stop", "1.0.0"]["content_digest"] == tombstone["content_digest"]


def test_who_published_is_told_and_stays_whoever_approves(server: Any) -> None:
    server.member.publish()
    server.reviewer.publish(version="2.0.0", storage_strategy="uploaded_trusted")
    first = server.member.feed()["stop", "1.0.0"]["published_by"]
    second = server.member.feed()["stop", "2.0.0"]["published_by"]
    assert first
    assert second
    assert first != second
    server.reviewer.set_status("stop", "1.0.0", "approved")
    assert server.reviewer.delete("stop", "1.0.0", 3).is_success
    assert server.member.feed()["stop", "1.0.0"]["published_by"] == first


def test_the_server_has_moved_past_base_revision(server: Any) -> None:
    server.member.publish(files=FILES)
    server.reviewer.set_status("stop", "1.0.0", "approved")
    body = server.member.publish_body(
        server.member.metadata("stop", "1.0.0"), FILES, base_revision=1
    )
    answer = server.member.send_publish(body)
    assert answer.status_code == 409
    assert answer.json()["server"]["revision"] == 2


def test_a_digest_of_other_content_is_refused(server: Any) -> None:
    server.member.upload("stop", "1.0.0", FILES)
    metadata = server.member.metadata("stop", "1.0.0")
    wrong = server.member.publish_body(metadata, {**FILES, "parameters.json": b"[]"})
    assert server.member.send_publish(wrong).status_code == 400
    changed = server.member.publish_body(metadata, FILES)
    changed["metadata"] = {**metadata, "description": "Something else."}
    assert server.member.send_publish(changed).status_code == 400


def test_another_announcement_in_between_does_not_spoil_a_publish(server: Any) -> None:
    server.member.upload("stop", "1.0.0", FILES)
    server.member.upload("stop", "1.0.0", {"shell/stop.sh": b"somebody else's"})
    body = server.member.publish_body(server.member.metadata("stop", "1.0.0"), FILES)
    assert server.member.send_publish(body).status_code == 200


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"sensitive": True}, 403),
        ({"storage_strategy": "local_only"}, 403),
        ({"storage_strategy": "using_default"}, 403),
        ({"name": "ab"}, 400),
        ({"description": ""}, 400),
        ({"cloud_provider": ["ibm"]}, 400),
        ({"keywords": ["k"] * 51}, 400),
        ({"playbook_id": "elsewhere"}, 400),
        ({"status": "splendid"}, 400),
        ({"too_large": 2**60}, 400),
    ],
)
def test_metadata_that_breaks_a_rule_is_refused(
    server: Any, changes: dict[str, Any], status: int
) -> None:
    server.member.upload("stop", "1.0.0", FILES)
    body = server.member.publish_body(server.member.metadata("stop", "1.0.0"), FILES)
    body["metadata"] |= changes
    answer = server.member.send_publish(body)
    assert answer.status_code == status, answer.text
    assert server.member.stats()["versions"] == 0


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "1.0.0+build", "01.0.0", "latest"])
def test_versions_are_semver_without_build(server: Any, version: str) -> None:
    assert server.member.announce("stop", version, FILES).status_code == 400


def test_library_ids_are_reserved(server: Any) -> None:
    assert server.member.announce("escher-stop", "1.0.0", FILES).status_code == 403


def test_eight_clients_with_different_content_leave_exactly_one_version(server: Any) -> None:
    def attempt(number: int) -> int:
        files = {"shell/stop.sh": f"echo {number}\n".encode()}
        server.member.upload("stop", "1.0.0", files)
        body = server.member.publish_body(server.member.metadata("stop", "1.0.0"), files)
        status: int = server.member.send_publish(body).status_code
        return status

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(attempt, range(8)))
    assert statuses == [200] + [409] * 7
    assert server.member.stats()["revisions"] == 1


def test_a_key_is_asked_for(server: Any) -> None:
    body = server.member.publish_body(server.member.metadata("stop", "1.0.0"), FILES)
    assert server.member.post("/api/playbook/metadata/publish", body).status_code == 400
