"""Flow 2 with real workers, a real broker and the reference server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import httpx
import pytest
from support.playbooks import draft, write_folder
from support.postgres import on_both_engines
from support.server_side import assert_server_equals_disk
from support.service import MakeService, ServiceUnderTest, eventually

from core.models import Area, Ref, Strategy, SyncState


@pytest.fixture(scope="module")
def office(module_home: MakeService) -> ServiceUnderTest:
    """A running service that this file shares; no sync takes a test's tampering for an edit."""
    made = module_home(edit_quiet_seconds="3600", secrets_gate="warn")
    made.up()
    return made


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
    office: ServiceUnderTest, tmp_path: Path
) -> None:
    service = office
    folder = write_folder(tmp_path / "p", draft("Rotate stale access keys"))
    made = service.json("create", str(folder), "--strategy", "review")
    ref = Ref(made["playbook_id"], made["version"])
    eventually(lambda: service.sync_state(ref) == "published", 60, "published after create")
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
    office: ServiceUnderTest, tmp_path: Path
) -> None:
    service = office
    before = service.server_stats()
    private = write_folder(tmp_path / "a", draft("Private thing"))
    secret = write_folder(tmp_path / "b", draft("Secret thing", sensitive=True))
    for folder in (private, secret):
        service.json("create", str(folder), "--strategy", "keep")
    job = service.json("publish", "--all", "--wait")
    assert job["total"] == 0
    refused = service.json("publish", "secret-thing", "--as", "review", "--wait", code=5)
    assert "sensitive" in refused["error"]["detail"]
    after = service.server_stats()
    for counted in ("versions", "revisions", "bytes_received"):
        assert after[counted] == before[counted]
    for name in ("private-thing", "secret-thing"):
        assert service.sync_state(Ref(name, "1.0.0")) == "local"


def test_workers_apply_the_stricter_secrets_gate_of_whoever_asked(
    office: ServiceUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = office
    before = service.server_stats()
    leak = b"export AWS_ACCESS_KEY_ID=" + b"AKIA" + b"Q3EGZ7XN5LWTM2RB\n"
    refs = [Ref(f"leaky-thing-{number}", "1.0.0") for number in range(3)]
    # of the commands; the workers' own is `warn`
    monkeypatch.setitem(service.env, "ESCHER_SECRETS_GATE", "block")
    for ref, text in zip(refs, (leak, leak.decode().encode("utf-16"), b"\0" + leak), strict=True):
        name = ref.playbook_id.replace("-", " ").capitalize()
        folder = write_folder(
            tmp_path / ref.playbook_id, draft(name, files={"shell/main.sh": text})
        )
        made = service.json("create", str(folder), "--strategy", "review")
        assert made["playbook_id"] == ref.playbook_id
        assert "certain" in {finding["degree"] for finding in made["findings"]}
    eventually(
        lambda: all(service.sync_state(ref) == "failed" for ref in refs),
        60,
        "refused by the workers",
    )
    after = service.server_stats()
    for counted in ("versions", "bytes_received"):
        assert after[counted] == before[counted]
    shown = service.json("show", str(refs[1]))
    assert "AWS Access Key" in shown["sync"]["error"]
    assert "AKIA" not in service.logs()
    with service.api as api:  # `publish --all` would try them again
        for ref in refs:
            assert api.delete(f"/v1/playbooks/{ref.playbook_id}").is_success


def test_a_bad_item_does_not_hold_back_its_batch(office: ServiceUnderTest) -> None:
    service = office
    names = [f"playbook-number-{number}" for number in range(6)]
    with service.service() as opened:
        for number in range(len(names)):
            opened.create(draft(f"Playbook number {number}"))
    # bytes that are no longer what the journal knows: never published
    script = service.home / "playbooks/local/playbook-number-3/v1.0.0/shell/main.sh"
    script.write_text("echo tampered\n")
    job = service.json("publish", *names, "--as", "review", "--wait", code=1)
    assert (job["state"], job["succeeded"], job["failed"]) == ("partial", 5, 1)
    failed = [item for item in job["items"] if item["state"] == "failed"]
    assert [item["ref"] for item in failed] == ["playbook-number-3@1.0.0"]
    assert failed[0]["error"]
    shown = service.json("show", "playbook-number-3")
    assert shown["sync"]["state"] == "failed"
    assert shown["sync"]["error"]
    service.json("delete", "playbook-number-3")  # `publish --all` would try it again


def test_work_waits_while_the_server_is_away_and_goes_out_when_it_returns(
    office: ServiceUnderTest, tmp_path: Path
) -> None:
    service = office
    before = service.server_stats()
    folder = write_folder(tmp_path / "p", draft("Wait for the server"))
    service.kill("server")
    made = service.json("create", str(folder), "--strategy", "review")
    assert made["playbook_id"] == "wait-for-the-server"
    # the supervisor brings the server back; the sync does the rest
    eventually(
        lambda: service.sync_state(Ref("wait-for-the-server", "1.0.0")) == "published",
        120,
        "published after the server's return",
    )
    assert service.server_stats()["revisions"] == before["revisions"] + 1


@pytest.mark.parametrize("door", ["http", "celery", "library"])
def test_every_door_makes_the_same_job(office: ServiceUnderTest, tmp_path: Path, door: str) -> None:
    service = office
    folder = write_folder(tmp_path / "p", draft(f"Come through {door}"))
    name = service.json("create", str(folder), "--strategy", "keep")["playbook_id"]
    if door == "http":
        with service.api as api:
            body = {"kind": "publish", "refs": [name], "as": "review"}
            headers = {"Idempotency-Key": "one"}
            first = api.post("/v1/jobs", json=body, headers=headers)
            second = api.post("/v1/jobs", json=body, headers=headers)
            assert first.status_code == 202
            assert first.json()["job_id"] == second.json()["job_id"]
    elif door == "celery":
        from celery import Celery

        app = Celery(broker=service.settings.effective_broker_url)
        app.send_task(
            "playbooks.submit", args=["publish", [name], False, "review"], queue="control"
        )
    else:
        with service.service() as opened:
            plan = opened.request_publish([name], Strategy.REVIEW)
            assert [str(ref) for ref in plan.accepted] == [f"{name}@1.0.0"]
    ref = Ref(name, "1.0.0")
    eventually(lambda: service.sync_state(ref) == "published", 60, f"published through {door}")
    with service.service() as opened:
        record = opened.journal.versions.get(ref)
    assert record is not None
    assert (record.area, record.sync_state) == (Area.SYNCED, SyncState.PUBLISHED)


def test_flower_shows_workers_and_tasks_behind_its_password(
    office: ServiceUnderTest, tmp_path: Path
) -> None:
    service = office
    folder = write_folder(tmp_path / "p", draft("Seen in Flower"))
    service.json("create", str(folder), "--strategy", "review")
    ref = Ref("seen-in-flower", "1.0.0")
    eventually(lambda: service.sync_state(ref) == "published", 60, "published")

    with service.flower as flower:

        def queues() -> list[str]:
            workers = flower.get("/api/workers?refresh=1").json().values()
            assert len(workers) <= 2
            return sorted(queue["name"] for worker in workers for queue in worker["active_queues"])

        # a worker that takes no more of a queue for the moment (tasks/lanes.py) is not its reader
        wanted = ["control", "embed", "search", "transfer"]
        eventually(lambda: queues() == wanted, 60, "two workers read all queues")

        def published_by() -> list[str]:
            tasks = flower.get("/api/tasks").json()
            found = {
                task_id: task["state"]
                for task_id, task in tasks.items()
                if task["name"] == "playbooks.publish" and str(ref) in str(task["args"])
            }
            return list(found) if set(found.values()) == {"SUCCESS"} else []

        # Flower hears of a task's end after the journal
        task_id, *_ = eventually(published_by, 60, "the task that published it, done")
        page = flower.get("/tasks")
        assert page.status_code == 200
        shown = flower.get(f"/task/{task_id}").text
        assert "playbooks.publish" in shown
        assert str(ref) in shown
    refused = httpx.get(f"http://127.0.0.1:{service.flower_port}/api/tasks")
    assert refused.status_code == 401
