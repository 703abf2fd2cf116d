from __future__ import annotations

import shutil

import pytest
import typer
from support.playbooks import draft, write_folder

from escher_playbooks.cli import output, playbook_commands


def test_create_answers_with_the_body_of_the_http_answer(run, folder):
    made = run("create", folder, "--strategy", "keep", "--json").json
    assert (made["playbook_id"], made["version"]) == ("stop-idle-databases", "1.0.0")
    assert made["warnings"] == []
    assert run("jobs", "show", made["job_id"], "--json").json["kind"] == "embed"


def test_create_prints_the_version_and_says_what_is_queued(run, folder):
    done = run("create", folder, "--id", "mine", "--version", "2.0.0", "--strategy", "review")
    assert done.code == 0
    assert done.out.strip() == "mine@2.0.0"
    assert "queued: publishing" in done.err


def test_what_exists_is_refused_with_5(run, folder):
    run("create", folder)
    done = run("create", folder, "--json")
    assert done.code == 5
    assert done.error["type"] == "AlreadyExists"
    assert "stop-idle-databases@1.0.0" in done.error["detail"]


def test_an_unknown_strategy_is_wrong_usage(run, folder):
    assert run("create", folder, "--strategy", "share").code == 2


def test_a_question_is_asked_at_a_terminal_only(run, folder, monkeypatch):
    asked = []

    def prompt(text, default, value_proc):
        asked.append(text)
        return value_proc("2")

    monkeypatch.setattr(typer, "prompt", prompt)
    monkeypatch.setattr(output, "is_interactive", lambda: True)
    done = run("create", folder)
    assert "Upload for review" in done.out
    shown = run("show", "stop-idle-databases", "--json").json
    assert shown["metadata"]["storage_strategy"] == "uploaded_for_review"
    run("create", folder, "--version", "1.0.1", "--json")
    run("create", folder, "--version", "1.0.2", "--strategy", "keep")
    run("create", folder, "--version", "1.0.3", "--author", "ai_generated")
    assert len(asked) == 1


def test_an_answer_is_a_number_or_a_name():
    assert playbook_commands._read_answer("3") == "trusted"
    assert playbook_commands._read_answer("review") == "review"
    with pytest.raises(typer.BadParameter):
        playbook_commands._read_answer("4")


def test_import_reports_the_bad_ones_and_takes_the_rest(run, tmp_path):
    root = tmp_path / "many"
    for name in ("Alpha thing", "Beta thing"):
        write_folder(root / name.split()[0].lower(), draft(name))
    (root / "broken").mkdir()
    (root / "broken" / "metadata.json").write_text("{")
    done = run("import", root)
    assert done.code == 1
    assert "imported 2" in done.out
    assert "failed 1" in done.out
    assert "broken" in done.err
    again = run("import", root, "--json")
    assert again.code == 1
    assert again.json["imported"] == 0
    assert "broken" in [item["name"] for item in again.json["failed"]]


def test_import_of_another_tools_runbooks_says_what_it_drops(run, tmp_path):
    jobs = "- name: Restart it\n  schedule: {time: {hour: '3'}}\n  sequence: {commands: [{exec: 'true'}]}\n"
    root = tmp_path / "runbooks"
    root.mkdir()
    (root / "jobs.yaml").write_text(jobs)
    (root / "other.yaml").write_text("a: 1\n")
    done = run("import", "--from", "rundeck", root)
    assert done.code == 0
    assert "imported 1" in done.out
    assert "restart-it@1.0.0: dropped: the schedule" in done.err
    assert "skipped: other.yaml" in done.err
    again = run("import", "--from", "rundeck", root, "--json").json
    assert (again["imported"], again["existing"], again["skipped"]) == (0, 1, ["other.yaml"])
    assert run("import", "--from", "chef", root).code == 2


def test_import_says_what_is_odd_in_words_and_once(run, tmp_path):
    root = tmp_path / "many"
    for number in range(25):
        folder = write_folder(root / f"{number:02d}", draft(f"Odd {number:02d}"))
        (folder / "shell" / "main.sh").write_bytes(b"#!/bin/sh\r\necho\r\n")
        (folder / "shell" / "main.sh~").write_bytes(b"old\n")
    done = run("import", root)
    assert done.code == 0
    told = [line for line in done.err.splitlines() if "CRLF" in line]
    assert told[0].startswith("odd-00@1.0.0: shell/main.sh:1: ")
    assert len(told) == 20
    assert "and 5 more warnings: `escher-playbooks show` tells those of each" in done.err
    assert done.err.count("odd-00@1.0.0: left out: shell/main.sh~") == 1
    for folder in root.iterdir():
        shutil.rmtree(folder)
    folder = write_folder(root / "one", draft("Odd one"))
    (folder / "shell" / "main.sh").write_bytes(b"#!/bin/sh\r\necho\r\n")
    body = run("import", root, "--json").json
    assert (body["warnings"], list(body["warned"])) == (1, ["odd-one@1.0.0"])
    assert "CRLF" in body["warned"]["odd-one@1.0.0"][0]


def test_import_makes_one_job_for_all(run, tmp_path):
    for number in range(5):
        write_folder(tmp_path / "many" / str(number), draft(f"Playbook {number}"))
    body = run("import", tmp_path / "many", "--strategy", "keep", "--json").json
    assert body["imported"] == 5
    jobs = run("jobs", "ls", "--json").json["items"]
    assert [(job["job_id"], job["total"]) for job in jobs] == [(body["job_id"], 5)]


def test_update_replaces_in_place_while_unpublished(run, folder):
    run("create", folder)
    before = run("show", "stop-idle-databases", "--json").json["content_digest"]
    (folder / "shell" / "main.sh").write_text("#!/usr/bin/env bash\necho other\n")
    made = run("update", "stop-idle-databases", folder, "--json").json
    assert made["version"] == "1.0.0"
    assert run("show", "stop-idle-databases", "--json").json["content_digest"] != before


def test_delete_of_an_id_is_all_its_versions(run, folder):
    run("create", folder)
    run("create", folder, "--version", "2.0.0")
    run("create", folder, "--version", "3.0.0")
    assert run("delete", "stop-idle-databases@2.0.0", "--json").json["deleted"] == [
        "stop-idle-databases@2.0.0"
    ]
    assert run("delete", "stop-idle-databases").code == 0
    assert run("list", "--json").json["items"] == []


def test_status_set(run, folder):
    run("create", folder)
    done = run("status-set", "stop-idle-databases@1.0.0", "archived", "--json")
    assert done.json["metadata"]["status"] == "archived"
    assert run("status-set", "stop-idle-databases", "archived").code == 2


@pytest.mark.parametrize("command", ["create", "import", "update"])
def test_what_is_left_out_is_named_once(run, tmp_path, command):
    folder = write_folder(tmp_path / "in", draft("Grow disks"))
    arguments = [tmp_path] if command == "import" else [folder]
    if command == "update":
        run("create", folder)
        arguments.insert(0, "grow-disks")
    for path in ("shell/main.sh~", "shell/.DS_Store", "shell/.venv/bin/python"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")
    done = run(command, *arguments)
    assert done.code == 0, done.err
    assert "left out: shell/.DS_Store, shell/.venv, shell/main.sh~" in done.err
    assert done.err.count("main.sh~") == 1
