from __future__ import annotations

import pytest
from support.feed import at_odds, change_item, tell_theirs

from core.journal import Journal
from core.models import Ref

REF = "stop-idle-databases@1.0.0"


@pytest.fixture
def open_conflict(run, folder, home):
    run("create", folder, "--strategy", "review")
    journal = Journal(f"sqlite:///{home / 'journal.db'}")
    at_odds(journal, Ref.parse(REF))
    journal.close()


def test_none(run):
    assert run("conflicts").out.strip() == "no conflicts"
    assert run("conflicts", "--json").json == {"items": []}


def test_an_open_decision_is_listed(run, open_conflict):
    shown = run("conflicts").out
    assert REF in shown
    assert "open" in shown
    assert "with other content" in shown
    [item] = run("conflicts", "--json").json["items"]
    assert (item["state"], item["server"]["revision"]) == ("open", 1)


def test_ours_becomes_another_version(run, open_conflict):
    done = run("conflicts", "resolve", REF, "--as-version", "1.0.1")
    assert done.code == 0
    assert f"settled {REF}: ours is stop-idle-databases@1.0.1" in done.out
    assert run("show", "stop-idle-databases@1.0.1").code == 0
    assert run("conflicts").out.strip() == "no conflicts"
    assert REF in run("conflicts", "--all").out


def test_ours_becomes_another_playbook(run, open_conflict):
    body = run("conflicts", "resolve", REF, "--rename", "mine", "--json").json
    assert body["kept_as"] == "mine@1.0.0"
    assert body["job_id"]


def test_theirs_is_taken_and_the_copy_is_shown(run, open_conflict, home, monkeypatch):
    tell_theirs(monkeypatch)
    done = run("conflicts", "resolve", REF, "--take", "theirs")
    kept = home / "conflicts" / "stop-idle-databases"
    assert str(kept) in done.err
    assert str(kept) in run("conflicts").out
    assert len(list(kept.rglob("main.sh"))) == 1


def test_a_name_is_given_other_content_only_after_both_digests_were_shown(
    run, open_conflict, home, monkeypatch
):
    tell_theirs(monkeypatch)
    ref = Ref.parse(REF)
    known, claimed = "sha256:" + "a" * 64, change_item(ref)["content_digest"]
    journal = Journal(f"sqlite:///{home / 'journal.db'}")
    journal.pins.put([(ref, known)], "published")
    journal.conflicts.open(ref, "immutable", "Other content.")
    asked = run("conflicts", "resolve", REF, "--take", "theirs")
    assert asked.code == 2
    assert known in asked.err
    assert claimed in asked.err
    assert "--yes" in asked.err
    assert journal.pins.get(ref) == known
    assert run("conflicts", "resolve", REF, "--take", "theirs", "--yes").code == 0
    assert journal.pins.get(ref) == claimed
    journal.close()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([REF], 2),
        ([REF, "--take", "ours"], 2),
        ([REF, "--take", "theirs", "--rename", "b"], 2),
        ([REF, "--as-version", "two"], 2),
        ([REF, "--rename", "escher-b"], 5),
        (["stop-idle-databases", "--take", "theirs"], 2),
        (["nobody@1.0.0", "--take", "theirs"], 3),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(run, open_conflict, arguments, code):
    done = run("conflicts", "resolve", *arguments, "--json")
    assert done.code == code
    assert done.error["detail"]
    assert run("conflicts", "--json").json["items"][0]["state"] == "open"


def test_whoever_may_be_running_it_is_told_of(run, open_conflict, monkeypatch):
    assert run("resolve", REF, "--format", "shell").code == 0
    body = run("conflicts", "resolve", REF, "--as-version", "1.0.1", "--json").json
    assert "was handed out to be run" in body["warnings"][0]
