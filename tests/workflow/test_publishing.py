"""Flow 2 with real workers, a real broker and the reference server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.playbooks import draft, write_folder
from support.postgres import on_both_engines
from support.server_side import assert_server_equals_disk
from support.service import ServiceUnderTest, eventually

from core.models import Area, Ref, Strategy, SyncState


@on_both_engines
def test_examples_reach_the_server_byte_for_byte_and_only_once(
    service: ServiceUnderTest, examples: Path, tmp_path: Path
) -> None:
    folders = [
        folder
        for folder in examples.glob("*/v*")
        if not json.loads((folder / "metadata.json").read_text()).get("sensitive")
    ]
    for folder in folders:
        target = tmp_path / "in" / folder.parent.name / folder.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, target)
    report = service.json("import", str(tmp_path / "in"))
    assert report["imported"] == len(folders)
    job = service.json("publish", "--all", "--as", "review", "--wait")
    assert job["state"] == "succeeded", job

    assert service.counts()["published"] == len(folders)
    assert not any((service.home / "playbooks" / "local").iterdir())
    assert_server_equals_disk(service, len(folders))

    before = service.server_stats()
    assert before["revisions"] == len(folders)
    again = service.json("publish", "--all", "--as", "review", "--wait")
    after = service.server_stats()
    assert again["total"] == 0
    assert after["revisions"] == before["revisions"]
    assert after["bytes_received"] == before["bytes_received"]


def test_a_created_playbook_is_searchable_and_published_at_once(
    service: ServiceUnderTest, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "p", draft("Rotate stale access keys"))
    made = service.json("create", str(folder), "--strategy", "review")
    ref = Ref(made["playbook_id"], made["version"])
    eventually(lambda: service.counts()["published"] == 1, 60, "published after create")
    shown = service.json("show", str(ref))
    assert shown["metadata"]["status"] == "pending_review"
    assert shown["sync"] == {
        "state": "published", "revision": 1, "error": None, "next_attempt_at": None,
    }  # fmt: skip
    found = eventually(
        lambda: service.json("search", "access keys nobody rotated")["results"], 60, "search"
    )
    assert found[0]["playbook_id"] == ref.playbook_id
    assert found[0]["warning"]  # pending review


def test_private_and_sensitive_playbooks_never_leave(
    service: ServiceUnderTest, tmp_path: Path
) -> None:
    private = write_folder(tmp_path / "a", draft("Private thing"))
    secret = write_folder(tmp_path / "b", draft("Secret thing", sensitive=True))
    for folder in (private, secret):
        service.json("create", str(folder), "--strategy", "keep")
    job = service.json("publish", "--all", "--wait")
    assert job["total"] == 0
    refused = service.json("publish", "secret-thing", "--as", "review", "--wait", code=5)
    assert "sensitive" in refused["error"]["detail"]
    assert service.server_stats().get("versions", 0) == 0
    assert service.counts()["local"] == 2


def test_workers_apply_the_stricter_secrets_gate_of_whoever_asked(
    service: ServiceUnderTest, tmp_path: Path
) -> None:
    leak = b"export AWS_ACCESS_KEY_ID=" + b"AKIA" + b"IOSFODNN7EXAMPLE\n"
    service.env["ESCHER_SECRETS_GATE"] = "block"  # of the commands; the workers' own is `warn`
    for number, text in enumerate((leak, leak.decode().encode("utf-16"), b"\0" + leak)):
        folder = write_folder(
            tmp_path / f"p{number}", draft(f"Leaky thing {number}", files={"shell/main.sh": text})
        )
        made = service.json("create", str(folder), "--strategy", "review")
        assert "certain" in {finding["degree"] for finding in made["findings"]}
    eventually(lambda: service.counts()["failed"] == 3, 60, "refused by the workers")
    assert service.server_stats().get("versions", 0) == 0
    assert service.server_stats().get("bytes_received", 0) == 0
    shown = service.json("show", "leaky-thing-1@1.0.0")
    assert "AWS Access Key" in shown["sync"]["error"]
    assert "AKIA" not in service.logs()


def test_a_bad_item_does_not_hold_back_its_batch(
    new_service: Callable[..., ServiceUnderTest], tmp_path: Path
) -> None:
    service = new_service(edit_quiet_seconds="3600")  # no sync takes it for an edit meanwhile
    service.up()
    for number in range(6):
        folder = write_folder(tmp_path / f"p{number}", draft(f"Playbook number {number}"))
        service.json("create", str(folder), "--strategy", "keep")
    # bytes that are no longer what the journal knows: never published
    script = service.home / "playbooks/local/playbook-number-3/v1.0.0/shell/main.sh"
    script.write_text("echo tampered\n")
    job = service.json("publish", "--all", "--as", "review", "--wait", code=1)
    assert (job["state"], job["succeeded"], job["failed"]) == ("partial", 5, 1)
    failed = [item for item in job["items"] if item["state"] == "failed"]
    assert [item["ref"] for item in failed] == ["playbook-number-3@1.0.0"]
    assert failed[0]["error"]
    shown = service.json("show", "playbook-number-3")
    assert shown["sync"]["state"] == "failed"
    assert shown["sync"]["error"]


def test_work_waits_while_the_server_is_away_and_goes_out_when_it_returns(
    service: ServiceUnderTest, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "p", draft("Wait for the server"))
    service.kill("server")
    made = service.json("create", str(folder), "--strategy", "review")
    assert made["playbook_id"] == "wait-for-the-server"
    # the supervisor brings the server back; the sync does the rest
    eventually(
        lambda: service.counts()["published"] == 1, 120, "published after the server's return"
    )
    assert service.server_stats()["revisions"] == 1


@pytest.mark.parametrize("door", ["http", "celery", "library"])
def test_every_door_makes_the_same_job(
    service: ServiceUnderTest, tmp_path: Path, door: str
) -> None:
    folder = write_folder(tmp_path / "p", draft("Come through any door"))
    service.json("create", str(folder), "--strategy", "keep")
    if door == "http":
        with service.api as api:
            body = {"kind": "publish", "refs": ["come-through-any-door"], "as": "review"}
            headers = {"Idempotency-Key": "one"}
            first = api.post("/v1/jobs", json=body, headers=headers)
            second = api.post("/v1/jobs", json=body, headers=headers)
            assert first.status_code == 202
            assert first.json()["job_id"] == second.json()["job_id"]
    elif door == "celery":
        from celery import Celery

        app = Celery(broker=service.settings.effective_broker_url)
        app.send_task(
            "playbooks.submit", args=["publish", ["come-through-any-door"], False, "review"],
            queue="control",
        )  # fmt: skip
    else:
        with service.service() as opened:
            plan = opened.request_publish(["come-through-any-door"], Strategy.REVIEW)
            assert [str(ref) for ref in plan.accepted] == ["come-through-any-door@1.0.0"]
    eventually(lambda: service.counts()["published"] == 1, 60, f"published through {door}")
    with service.service() as opened:
        record = opened.journal.versions.get(Ref("come-through-any-door", "1.0.0"))
    assert record is not None
    assert (record.area, record.sync_state) == (Area.SYNCED, SyncState.PUBLISHED)
