from __future__ import annotations

import json
from pathlib import Path

from support.playbooks import draft, write_folder


def test_what_is_not_there_is_3_and_named(run, home):
    for command in (("show", "nope"), ("versions", "nope"), ("delete", "nope@1.0.0")):
        done = run(*command)
        assert done.code == 3, command
        assert "nope" in done.err


def test_list_shows_each_playbook_by_its_latest_version_and_pages(run, folder, tmp_path):
    run("create", folder)
    run("create", folder, "--version", "1.10.0")
    run("create", write_folder(tmp_path / "b", draft("Another thing")), "--strategy", "review")
    everything = run("list", "--json").json
    assert [(p["playbook_id"], p["version"]) for p in everything["items"]] == [
        ("another-thing", "1.0.0"),
        ("stop-idle-databases", "1.10.0"),
    ]
    assert everything["next_cursor"] is None
    assert "files" not in everything["items"][0]
    first = run("list", "--limit", "1", "--json").json
    second = run("list", "--limit", "1", "--cursor", first["next_cursor"], "--json").json
    assert [p["playbook_id"] for p in first["items"] + second["items"]] == [
        "another-thing",
        "stop-idle-databases",
    ]
    kept = run("list", "--strategy", "keep", "--json").json["items"]
    assert [p["playbook_id"] for p in kept] == ["stop-idle-databases"]
    assert "stop-idle-databases@1.10.0" in run("list").out


def test_show_and_versions(run, folder):
    run("create", folder)
    run("create", folder, "--version", "2.0.0")
    shown = run("show", "stop-idle-databases@1.0.0", "--json").json
    assert shown["version"] == "1.0.0"
    assert [file["path"] for file in shown["files"]] == ["shell/main.sh"]
    assert shown["sync"]["state"] == "local"
    versions = run("versions", "stop-idle-databases", "--json").json["items"]
    assert [item["version"] for item in versions] == ["1.0.0", "2.0.0"]
    text = run("show", "stop-idle-databases").out
    assert "stop-idle-databases@2.0.0" in text
    assert "sha256:" in text


def test_resolve_prints_the_path_alone(run, folder, home):
    run("create", folder)
    done = run("resolve", "stop-idle-databases", "--format", "shell")
    path = home / "playbooks/local/stop-idle-databases/v1.0.0/shell/main.sh"
    assert done.out == f"{path}\n"
    body = run("resolve", "stop-idle-databases@1.0.0", "--format", "shell", "--json").json
    assert body["path"] == str(path)
    assert body["source"] == "local"
    assert body["size_bytes"] == path.stat().st_size
    path.write_text("echo tampered\n")
    assert run("resolve", "stop-idle-databases", "--format", "shell").code == 1
    assert run("resolve", "stop-idle-databases", "--format", "python").code == 3


def test_names_from_elsewhere_do_not_drive_the_terminal(run, tmp_path):
    source = draft("Red [bold]alert[/bold]")
    source.metadata["description"] = "before \x1b[31m after"
    run("create", write_folder(tmp_path / "red", source), "--id", "red")
    listed, shown = run("list").out, run("show", "red").out
    assert "Red [bold]alert[/bold]" in listed  # not taken for markup
    assert "\x1b" not in shown


def test_json_is_one_document_whatever_the_text(run, folder):
    metadata = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps({**metadata, "name": "Überprüfung 数据库"}))
    run("create", folder, "--id", "unicode")
    assert run("show", "unicode", "--json").json["metadata"]["name"] == "Überprüfung 数据库"


def test_resolve_of_a_sensitive_playbook_says_until_when(run, tmp_path):
    run("create", write_folder(tmp_path / "keys", draft("Rotate the keys", sensitive=True)))
    body = run("resolve", "rotate-the-keys", "--format", "shell", "--json").json
    assert Path(body["path"]).read_bytes() == draft("Rotate the keys").files["shell/main.sh"]
    assert body["expires_at"] > 0
    assert run("down").code == 0
    assert not Path(body["path"]).exists()
