from __future__ import annotations

from support.playbooks import draft, write_folder


def test_a_private_playbook_is_not_published_unless_the_user_chooses(run, folder):
    run("create", folder, "--strategy", "keep")
    refused = run("publish", "stop-idle-databases", "--json")
    assert refused.code == 5
    assert "local_only" in refused.error["detail"]
    chosen = run("publish", "stop-idle-databases", "--as", "review", "--json")
    assert chosen.code == 0
    assert chosen.json["accepted"] == ["stop-idle-databases@1.0.0"]
    job = run("jobs", "show", chosen.json["job_id"], "--json").json
    assert (job["kind"], job["state"], job["total"]) == ("publish", "queued", 1)


def test_a_sensitive_playbook_is_refused_whoever_asks(run, tmp_path):
    run("create", write_folder(tmp_path / "s", draft("Secret thing", sensitive=True)))
    done = run("publish", "secret-thing", "--as", "trusted", "--json")
    assert done.code == 5
    assert "sensitive" in done.error["detail"]


def test_all_takes_what_may_go_and_says_what_may_not(run, tmp_path):
    run("create", write_folder(tmp_path / "a", draft("Private thing")), "--strategy", "keep")
    run("create", write_folder(tmp_path / "b", draft("Shared thing")), "--strategy", "review")
    done = run("publish", "--all")
    assert done.code == 0
    assert "accepted 1" in done.out
    assert "queued" in done.out
    assert "left out private-thing@1.0.0: local_only" in done.err


def test_all_with_nothing_to_do_is_done(run, home):
    assert run("publish", "--all").out.strip() == "nothing to publish"
    body = run("publish", "--all", "--wait", "--json")
    assert (body.code, body.json["total"], body.json["state"]) == (0, 0, "succeeded")


def test_many_of_the_same_reason_are_one_line(run, tmp_path):
    for number in range(8):
        write_folder(tmp_path / "many" / str(number), draft(f"Playbook {number}"))
    run("import", tmp_path / "many", "--strategy", "keep")
    lines = run("publish", "--all").err.strip().splitlines()
    assert len(lines) == 1
    assert "left out 8" in lines[0]


def test_publish_takes_names_or_all(run, folder):
    assert run("publish").code == 2
    assert run("publish", "x", "--all").code == 2
    assert run("publish", "nope").code == 3
    run("create", folder)
    assert run("publish", "stop-idle-databases", "--as", "keep").code == 2


def test_sync_without_up_is_queued(run, home):
    done = run("sync", "--json")
    assert done.code == 0
    assert run("jobs", "show", done.json["job_id"], "--json").json["kind"] == "sync"
    assert "queued" in run("sync").out
