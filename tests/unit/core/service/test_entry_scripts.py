"""What resolve answers: the stored entry script, else the rule's, and that there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.machines import Machine
from support.playbooks import draft

from core.errors import NotFound
from core.models import PlaybookDraft, Ref, Strategy, content_digest
from core.playbooks import validation
from core.playbooks.entry_points import EntryPoints
from core.service import PlaybookService

GO = {"shell/go": b"#!/bin/sh\necho go\n", "shell/notes": b"not a script\n"}


@pytest.fixture
def service(open_home: Any) -> PlaybookService:
    return open_home()


def as_before(service: PlaybookService, source: PlaybookDraft) -> Ref:
    """A version as it was stored before entry points were filled in."""
    store = service.store
    ref = store.create(source).ref
    row, files = store.get(ref), store.journal.versions.files(ref)
    metadata = {name: value for name, value in row.metadata.items() if name != "entry_points"}
    before = replace(
        row, metadata=metadata, filled=(), content_digest=content_digest(metadata, files)
    )
    with store.journal.database.write() as connection:
        store.journal.versions.put([(before, files)], connection)
    return ref


def entry(service: PlaybookService, ref: Ref, format_: str = "shell") -> str:
    script = service.locate_script(str(ref), format_, allow_unreviewed=True)
    assert script.path.is_file()
    return script.listing.entry_point


def test_no_entry_script_is_said(service: PlaybookService) -> None:
    files = {"shell/Makefile": b"all:\n", "shell/notes": b"x"}
    for source in (draft(files=files), draft("Secret things", files, sensitive=True)):
        ref = service.store.create(source).ref
        with pytest.raises(NotFound, match="no entry script in shell/: none of its 2 files"):
            entry(service, ref)


@pytest.mark.parametrize("sensitive", [False, True])
def test_of_a_version_from_before_its_content_tells(
    service: PlaybookService, sensitive: bool
) -> None:
    ref = as_before(service, draft(files=GO, sensitive=sensitive))
    assert entry(service, ref) == "shell/go"
    assert "entry_points" not in service.store.get(ref).metadata


def test_of_a_version_from_before_the_root_script_is_answered(service: PlaybookService) -> None:
    files = {"terraform/backend/main.tf": b"", "terraform/network.tf": b"", "python/x.json": b"{}",
             "python/main.json": b"{}", "python/tool.py": b""}  # fmt: skip
    ref = as_before(service, draft(files=files))
    assert entry(service, ref, "terraform") == "terraform/network.tf"
    assert entry(service, ref, "python") == "python/tool.py"


def test_a_guess_at_a_version_from_before_is_told(service: PlaybookService) -> None:
    ref = as_before(service, draft(files={"shell/b.sh": b"", "shell/a.sh": b""}))
    script = service.locate_script(str(ref), "shell")
    assert any("shell/a.sh is taken" in warning for warning in script.info.warnings)


def test_client_and_server_agree_on_one_that_was_published_before(
    machines: tuple[Machine, Machine], open_home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = machines
    with monkeypatch.context() as before:
        before.setattr(validation, "fill_in", lambda _given, _files: EntryPoints({}, ()))
        for name, files in (("with-script", GO), ("without", {"shell/notes": b"x"})):
            here.store.create(draft(files=files, playbook_id=name), strategy=Strategy.REVIEW)
        assert set(here.publish().values()) == {"done"}
    go, none = Ref("with-script", "1.0.0"), Ref("without", "1.0.0")
    digest = here.record(go).content_digest
    assert there.server.script(go, "shell").entry_point == "shell/go"
    assert there.server.script(none, "shell").entry_point is None
    there.pull()
    assert there.record(go).content_digest == digest
    assert "entry_points" not in there.record(go).metadata
    service = open_home(there.settings)
    assert entry(service, go) == "shell/go"
    with pytest.raises(NotFound, match="no entry script"):
        entry(service, none)
    stranger = open_home(there.settings, home=there.settings.home.with_name("third"))
    assert entry(stranger, go) == "shell/go", "it knows what the server says, and no more"
    with pytest.raises(NotFound, match="no entry script"):
        entry(stranger, none)


def test_what_another_machine_s_rule_filled_in_is_filled_in_anew_by_an_edit(
    machines: tuple[Machine, Machine],
) -> None:
    here, there = machines
    ref = here.created_and_published()
    assert here.record(ref).metadata["entry_points"] == {"shell": "shell/run.sh"}
    there.pull()
    assert there.record(ref).filled == ("shell",)
    other = draft("Stop idle RDS", {"shell/main.sh": b"echo\n"}, playbook_id="stop-rds",
                  entry_points={"shell": "shell/run.sh"})  # fmt: skip
    kept = there.store.update("stop-rds", other).ref
    assert there.record(kept).metadata["entry_points"] == {"shell": "shell/main.sh"}
