"""What one home takes in arrives whole at another: modes, names, and versions of many files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.machines import Machine
from support.playbooks import metadata

from core.errors import EscherError, InvalidPlaybook
from core.limits import FILES
from core.models import PlaybookDraft, Ref, Strategy
from core.playbooks.verify import adopt, verify
from core.publishing.pull import PublishedContents

REF = Ref("stop-rds", "1.0.0")
SCRIPT = b"#!/bin/sh\nexec ./helper.sh\n"
MANY = 1201


def create(machine: Machine, files: dict[str, bytes], executable: set[str] | None = None) -> Ref:
    fields = {"playbook_id": REF.playbook_id, "version": REF.version}
    marked = None if executable is None else frozenset(executable)
    draft = PlaybookDraft(metadata("Stop idle RDS", **fields), files, executable=marked)
    return machine.store.create(draft, strategy=Strategy.REVIEW).ref


def fetch(machine: Machine, ref: Ref) -> Path:
    contents = PublishedContents(machine.settings, machine.journal, machine.server)
    machine.folders.fetch_contents(ref, contents.fetch(ref))
    return machine.folder(ref)


def modes(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mode & 0o777
        for path in folder.rglob("*")
        if path.is_file() and path.name != "metadata.json"
    }


def forget_journal(machine: Machine) -> Machine:
    """Lose the journal of a home, and make it anew from its folders."""
    machine.close()
    for path in machine.settings.home.glob("journal.db*"):
        path.unlink()
    again = Machine(machine.settings)
    taken, failed = adopt(again.store)
    assert failed == {}
    assert taken == [REF]
    return again


def test_executable_files_arrive_so(machines: tuple[Machine, Machine]) -> None:
    here, there = machines
    files = {"shell/run.sh": SCRIPT, "shell/helper.sh": SCRIPT, "shell/notes": b"text\n"}
    create(here, files, {"shell/run.sh", "shell/helper.sh", "shell/notes"})
    assert here.publish(REF) == {REF: "done"}
    assert there.pull().pulled == [REF]
    wanted = {"shell/run.sh": 0o700, "shell/helper.sh": 0o700, "shell/notes": 0o600}
    assert modes(fetch(there, REF)) == wanted == modes(here.folder(REF))
    assert there.record(REF).content_digest == here.record(REF).content_digest
    for machine in machines:
        assert verify(machine.store) == []
        assert not machine.folders.is_edited(REF)


@pytest.mark.parametrize("of_before", [False, True], ids=["modes as published", "other modes"])
@pytest.mark.parametrize("executable", [None, {"shell/run.sh"}], ids=["unmarked", "marked"])
def test_a_journal_made_anew_from_folders_sees_no_conflict(
    machines: tuple[Machine, Machine], executable: set[str] | None, of_before: bool
) -> None:
    here, _ = machines
    create(here, {"shell/run.sh": SCRIPT}, executable)
    here.publish(REF)
    digest = here.record(REF).content_digest
    if of_before:  # a version before this one wrote every file alike, or kept an editor's mode
        (here.folder(REF) / "shell/run.sh").chmod(0o600 if executable else 0o755)
    again = forget_journal(here)
    try:
        report = again.pull()
        assert report.conflicts == []
        assert again.journal.conflicts.open_count() == 0
        assert again.record(REF).content_digest == digest
        assert again.record(REF).revision == 1
        assert [file.executable for file in again.journal.versions.files(REF)] == [bool(executable)]
    finally:
        again.close()


def test_other_content_under_a_name_is_a_conflict_all_the_same(
    machines: tuple[Machine, Machine],
) -> None:
    here, there = machines
    create(there, {"shell/run.sh": SCRIPT}, {"shell/run.sh"})
    there.publish(REF)
    create(
        here, {"shell/run.sh": SCRIPT}
    )  # made here, not from a lost journal: the mode is content
    here.pull()
    assert here.journal.conflicts.open_count() == 1


def test_a_restored_folder_has_its_modes(machines: tuple[Machine, Machine]) -> None:
    here, _ = machines
    create(here, {"shell/run.sh": SCRIPT}, {"shell/run.sh"})
    here.publish(REF)
    copy = here.folders.drop(REF, copy="trash")
    assert copy is not None
    assert modes(Path(copy.folder)) == {"shell/run.sh": 0o700}
    here.pull_all()
    assert modes(fetch(here, REF)) == {"shell/run.sh": 0o700}


def test_a_version_of_many_files_is_published_and_fetched_whole(
    machines: tuple[Machine, Machine],
) -> None:
    here, there = machines
    files = {f"python/data/{number}.json": b"%d" % (number % 50) for number in range(MANY - 1)}
    files["python/main.py"] = b"print(1)\n"
    create(here, files)
    assert here.publish(REF) == {REF: "done"}
    assert there.pull().pulled == [REF]
    fetch(there, REF)
    assert there.store.read(REF) == files


@pytest.mark.parametrize("count", [FILES, FILES + 1])
def test_the_limit_of_files_is_named_at_create(
    machines: tuple[Machine, Machine], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:  # nothing is written for this test
        raise EscherError("taken")

    monkeypatch.setattr("core.playbooks.store.Stager.stage", stop)
    files = {f"shell/{number}.sh": b"#\n" for number in range(count)}
    with pytest.raises(EscherError) as caught:
        create(machines[0], files)
    if count > FILES:
        assert isinstance(caught.value, InvalidPlaybook)
        assert str(FILES) in caught.value.detail
    else:
        assert caught.value.detail == "taken"
