"""What looks like a secret is said before anything is queued, by every command that brings it on."""

from __future__ import annotations

import json

import pytest
from support.playbooks import draft, write_folder

from core.settings import load_settings
from escher_playbooks.cli import output

AWS_ID = "AKIA" + "Q3EGZ7XN5LWTM2RB"
LEAK = f"#!/usr/bin/env bash\nexport AWS_ACCESS_KEY_ID={AWS_ID}\n".encode()
MARKED = LEAK[:-1] + b"  # pragma: allowlist secret\n"
REF = "stop-idle-databases@1.0.0"


@pytest.fixture
def leaky(tmp_path):
    return write_folder(tmp_path / "leaky", draft(files={"shell/main.sh": LEAK}))


@pytest.fixture
def block(monkeypatch):
    monkeypatch.setenv("ESCHER_SECRETS_GATE", "block")


@pytest.fixture
def warn(monkeypatch):
    monkeypatch.setenv("ESCHER_SECRETS_GATE", "warn")


def key_of(run, target=REF):
    return run("show", target, "--json").json["findings"][0]["key"]


def said(done, path="shell/main.sh:2"):
    """The one line that names the finding, on standard error before what is queued."""
    lines = done.err.splitlines()
    found = [number for number, line in enumerate(lines) if "AWS Access Key" in line]
    queued = [number for number, line in enumerate(lines) if line.startswith("queued")]
    assert AWS_ID not in done.err + done.out
    assert found
    assert path in lines[found[0]]
    assert "certain" in lines[found[0]]
    assert all(number > found[0] for number in queued)
    return True


def test_create_update_and_show_name_the_line_and_never_the_value(run, leaky):
    assert said(run("create", leaky, "--strategy", "keep"))
    (leaky / "shell/main.sh").write_bytes(b"\n" + LEAK)
    assert said(run("update", "stop-idle-databases", leaky), "shell/main.sh:3")
    shown = run("show", REF)
    assert "shell/main.sh:3: AWS Access Key (certain, key " in shown.out
    assert AWS_ID not in shown.out


def test_the_json_of_create_update_and_show_has_them(run, leaky):
    made = run("create", leaky, "--strategy", "keep", "--json").json
    [finding] = made["findings"]
    assert {k: v for k, v in finding.items() if k != "key"} == {
        "path": "shell/main.sh", "line": 2, "kind": "AWS Access Key", "degree": "certain",
    }  # fmt: skip
    assert run("update", "stop-idle-databases", leaky, "--json").json["findings"] == [finding]
    assert run("show", REF, "--json").json["findings"] == [finding]


def test_import_names_them_by_playbook(run, tmp_path, leaky):
    write_folder(tmp_path / "many/clean", draft("Clean thing"))
    write_folder(tmp_path / "many/leaky", draft("Leaky thing", files={"shell/main.sh": LEAK}))
    done = run("import", tmp_path / "many", "--strategy", "review")
    assert said(done)
    assert "leaky-thing@1.0.0 shell/main.sh:2" in done.err
    write_folder(tmp_path / "more/leaky", draft("Other thing", files={"shell/main.sh": LEAK}))
    [found] = run("import", tmp_path / "more", "--json").json["findings"]
    assert (found["playbook_id"], found["line"]) == ("other-thing", 2)


def test_publish_names_them_before_it_queues(run, leaky, warn):
    run("create", leaky, "--strategy", "keep")
    done = run("publish", REF, "--as", "review")
    assert (done.code, said(done)) == (0, True)
    again = run("publish", "--all", "--json").json
    assert [(f["playbook_id"], f["line"]) for f in again["findings"]] == [
        ("stop-idle-databases", 2)
    ]


def test_decide_names_them_before_it_queues(run, tmp_path):
    folder = write_folder(
        tmp_path / "ai", draft(files={"shell/main.sh": LEAK}, author="ai_generated")
    )
    assert said(run("create", folder))
    assert said(run("decide", REF, "review"))


class TestBlock:
    def test_publish_is_refused_with_5_and_nothing_is_queued(self, run, leaky):  # the default
        run("create", leaky, "--strategy", "keep")
        done = run("publish", REF, "--as", "review", "--json")
        assert done.code == 5
        assert "shell/main.sh:2: AWS Access Key (certain" in done.error["detail"]
        assert "--accept-finding" in done.error["detail"]
        assert run("show", REF, "--json").json["sync"]["state"] == "local"
        assert all(job["kind"] != "publish" for job in run("jobs", "ls", "--json").json["items"])

    def test_create_says_that_it_is_not_going_to_be_published(self, run, leaky, block):
        done = run("create", leaky, "--strategy", "review")
        assert done.code == 0
        assert "not going to be published" in done.err
        assert "--accept-finding" in done.err

    def test_all_leaves_it_out_and_says_why(self, run, leaky, tmp_path, block):
        write_folder(tmp_path / "many/clean", draft("Clean thing"))
        run("import", tmp_path / "many", "--strategy", "review")
        run("create", leaky, "--strategy", "review")
        body = run("publish", "--all", "--json").json
        assert body["accepted"] == ["clean-thing@1.0.0"]
        assert "AWS Access Key" in body["left_out"][REF]

    def test_one_of_several_that_were_named_is_partly_failed(self, run, leaky, tmp_path, block):
        run("create", write_folder(tmp_path / "clean", draft("Clean thing")))
        run("create", leaky)
        done = run("publish", "clean-thing", REF, "--as", "review", "--json")
        assert done.code == 1  # not 0: a script that asked for both has to see it
        assert done.json["accepted"] == ["clean-thing@1.0.0"]
        assert "AWS Access Key" in done.json["left_out"][REF]

    @pytest.mark.parametrize("choice", ["review", "trusted"])
    def test_decide_is_refused_and_the_playbook_stays_undecided(self, run, tmp_path, choice, block):
        folder = write_folder(
            tmp_path / "ai", draft(files={"shell/main.sh": MARKED}, author="ai_generated")
        )
        run("create", folder)
        assert run("decide", REF, choice).code == 5
        assert run("show", REF, "--json").json["area"] == "ai-generated"
        assert run("decide", REF, "keep").code == 0

    def test_an_allow_list_comment_of_ours_passes_and_is_shown(self, run, tmp_path, block):
        folder = write_folder(tmp_path / "x", draft(files={"shell/main.sh": MARKED}))
        made = run("create", folder, "--strategy", "keep", "--json").json
        assert [finding["degree"] for finding in made["findings"]] == ["possible"]
        assert run("publish", REF, "--as", "review").code == 0

    def test_an_allow_list_comment_that_was_imported_says_nothing(self, run, tmp_path, block):
        files = {"shell/main.sh": MARKED}
        write_folder(tmp_path / "many/one", draft("Stop idle databases", files=files))
        run("import", tmp_path / "many")
        assert run("publish", REF, "--as", "review").code == 5
        edited = write_folder(tmp_path / "edited", draft(files={"shell/main.sh": b"\n" + MARKED}))
        assert run("update", "stop-idle-databases", edited).code == 0
        [finding] = run("show", REF, "--json").json["findings"]
        assert finding["degree"] == "certain"

    def test_nor_does_one_that_an_ai_wrote_whatever_the_author_is_said_to_be_later(
        self, run, tmp_path, block
    ):
        files = {"shell/main.sh": MARKED}
        folder = write_folder(tmp_path / "ai", draft(files=files, author="ai_generated"))
        run("create", folder)
        assert run("decide", REF, "keep").code == 0
        ours = write_folder(tmp_path / "ours", draft(files=files, author="user_custom"))
        assert run("update", "stop-idle-databases", ours).code == 0
        assert run("publish", REF, "--as", "review").code == 5

    def test_possible_ones_pass_and_are_shown(self, run, tmp_path, block):
        files = {"shell/main.sh": b"echo\n", "shell/tool.bin": bytes(range(256)) * 4}
        run("create", write_folder(tmp_path / "x", draft(files=files)), "--strategy", "keep")
        done = run("publish", REF, "--as", "review")
        assert done.code == 0
        assert "shell/tool.bin: Binary content (possible" in done.err


class TestAccept:
    def test_one_finding_passes_for_a_reason_that_is_kept(self, run, leaky, block):
        run("create", leaky, "--strategy", "keep")
        accept = ("--accept-finding", key_of(run), "--reason", "AWS's own example")
        assert run("publish", REF, "--as", "review", *accept).code == 2  # nobody to ask
        done = run("publish", REF, "--as", "review", *accept, "--yes", "--json")
        assert (done.code, done.json["accepted"]) == (0, [REF])
        [finding] = run("show", REF, "--json").json["findings"]
        assert finding["accepted"]["reason"] == "AWS's own example"
        assert finding["accepted"]["by"]
        assert "accepted: AWS's own example" in run("show", REF).out

    def test_it_asks_on_a_terminal(self, run, leaky, block, monkeypatch):
        run("create", leaky, "--strategy", "keep")
        asked = []

        def answer(question):
            asked.append(question)
            return len(asked) > 1

        monkeypatch.setattr(output, "is_interactive", lambda: True)
        monkeypatch.setattr(output, "confirm", answer)
        accept = ("--as", "review", "--accept-finding", key_of(run), "--reason", "an example")
        refused = run("publish", REF, *accept)
        assert refused.code == 5
        assert "shell/main.sh:2" in refused.out
        assert "accepted" not in run("show", REF, "--json").json["findings"][0]
        assert run("publish", REF, *accept).code == 0
        assert len(asked) == 2

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            ((REF, "--accept-finding", "0" * 16, "--reason", "why"), 3),
            ((REF, "--accept-finding", "KEY"), 2),
            ((REF, "--reason", "why"), 2),
            ((REF, "--accept-finding", "KEY", "--reason", " "), 2),
            (("stop-idle-databases", "--accept-finding", "KEY", "--reason", "why"), 2),
            (("--all", "--accept-finding", "KEY", "--reason", "why"), 2),
        ],
    )
    def test_what_is_wrong_accepts_nothing(self, run, leaky, block, arguments, code):
        run("create", leaky, "--strategy", "keep")
        known = key_of(run)
        given = [known if argument == "KEY" else argument for argument in arguments]
        assert run("publish", *given, "--as", "review", "--yes").code == code
        assert "accepted" not in run("show", REF, "--json").json["findings"][0]


def test_sync_names_what_an_edit_brought_before_it_goes_on(run, folder, monkeypatch):
    monkeypatch.setenv("ESCHER_EDIT_QUIET_SECONDS", "0")
    run("create", folder, "--strategy", "keep")
    path = load_settings().playbooks_path / "local/stop-idle-databases/v1.0.0/shell/main.sh"
    path.write_bytes(LEAK)
    done = run("sync", "--wait")
    assert said(done)
    path.write_bytes(b"\n" + LEAK)
    result = json.loads(run("sync", "--wait", "--json").out)["result"]
    assert [(f["playbook_id"], f["line"]) for f in result["findings"]] == [
        ("stop-idle-databases", 3)
    ]
