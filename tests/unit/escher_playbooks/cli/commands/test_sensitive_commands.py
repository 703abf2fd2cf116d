"""Sensitive content on the command line: held edits are taken or dropped, declassify asks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.playbooks import draft, write_folder

REF = "stop-idle-databases@1.0.0"


@pytest.fixture
def stored(run, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sensitive playbook's folder in the home."""
    monkeypatch.setenv("ESCHER_EDIT_QUIET_SECONDS", "0")
    source = write_folder(tmp_path / "source", draft(sensitive=True))
    assert run("create", source, "--json").code == 0
    return home / "playbooks" / "local" / "stop-idle-databases" / "v1.0.0"


def lay_clear_text(run, stored: Path) -> None:
    (stored / "shell/main.sh").write_bytes(b"echo CANARY\n")
    run("sync", "--wait")


class TestHeld:
    def test_it_is_told(self, run, stored):
        lay_clear_text(run, stored)
        assert run("status", "--json").json["journal"]["held"] == 1
        problems = run("verify", "--json").json["problems"]
        assert [p["ref"] for p in problems if "was tampered with" in p["what"]] == [REF]

    @pytest.mark.parametrize("target", ["stop-idle-databases", REF])
    def test_it_is_taken(self, run, stored, target):
        lay_clear_text(run, stored)
        before = run("show", REF, "--json").json["content_digest"]
        assert run("update", target, "--json").json["version"] == "1.0.0"
        shown = run("show", REF, "--json").json
        assert shown["content_digest"] != before
        assert shown["metadata"]["sensitive"] is True
        assert b"CANARY" not in (stored / "shell/main.sh").read_bytes()

    def test_it_is_dropped(self, run, stored):
        lay_clear_text(run, stored)
        before = run("show", REF, "--json").json["content_digest"]
        assert run("update", "stop-idle-databases", "--discard").code == 0
        assert run("show", REF, "--json").json["content_digest"] == before
        assert run("status", "--json").json["journal"]["held"] == 0

    @pytest.mark.parametrize(
        ("more", "code"), [((), 3), (("--discard",), 3), (("--version", "2.0.0"), 2)]
    )
    def test_nothing_is_held(self, run, stored, more, code):
        assert run("update", "stop-idle-databases", *more).code == code

    def test_a_folder_and_discard_are_two_things(self, run, stored):
        assert run("update", "stop-idle-databases", stored, "--discard").code == 2


class TestDeclassify:
    def test_without_a_terminal_it_takes_yes(self, run, stored):
        assert run("declassify", REF).code == 2
        assert run("declassify", REF, "--json").code == 2
        assert run("show", REF, "--json").json["metadata"]["sensitive"] is True
        done = run("declassify", REF, "--yes", "--json")
        assert (done.code, done.json["version"]) == (0, "1.0.0")
        assert run("show", REF, "--json").json["metadata"]["sensitive"] is False
        assert (stored / "shell/main.sh").read_bytes().startswith(b"#!")

    @pytest.mark.parametrize(("target", "code"), [(REF[:-6], 2), ("nobody@1.0.0", 3)])
    def test_it_names_a_version_that_is_there(self, run, stored, target, code):
        assert run("declassify", target, "--yes").code == code

    def test_what_is_not_sensitive_is_refused(self, run, folder):
        run("create", folder, "--json")
        assert run("declassify", REF, "--yes").code == 5


class TestWhatAFileAsksFor:
    @pytest.fixture
    def asking(self, tmp_path: Path) -> Path:
        fields = {"storage_strategy": "uploaded_trusted", "status": "approved"}
        return write_folder(tmp_path / "asking" / "one", draft(**fields))

    def test_create_says_it_and_keeps_it_private(self, run, asking):
        done = run("create", asking)
        assert "asks for uploaded_trusted" in done.err
        assert run("show", REF, "--json").json["asked"] == {
            "storage_strategy": "uploaded_trusted",
            "status": "approved",
        }
        assert "by its file; not followed" in run("show", REF).out
        disk = json.loads(run("show", REF, "--json").out)["metadata"]
        assert (disk["storage_strategy"], disk["status"]) == ("local_only", "ready")
        assert run("publish", "--all", "--json").json["left_out"][REF].startswith("local_only")

    def test_import_says_how_many(self, run, asking):
        done = run("import", asking.parent)
        assert "kept private: 1 that ask to be uploaded" in done.err
        assert run("import", asking.parent, "--strategy", "trusted").code == 2

    def test_trusted_is_not_for_all(self, run, asking):
        run("create", asking)
        assert run("publish", "--all", "--as", "trusted").code == 2
        run("create", asking, "--version", "1.1.0")
        assert run("publish", "stop-idle-databases", "--as", "trusted").code == 2
        assert run("publish", REF, "--as", "trusted", "--json").json["accepted"] == [REF]
