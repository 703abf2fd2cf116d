"""An allow-list comment that came from elsewhere says nothing, whatever becomes of what it came in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.playbooks import draft, write_folder

from core.models import Ref, Strategy
from core.service import PlaybookService
from core.settings import Settings

AWS_ID = "AKIA" + "Q3EGZ7XN5LWTM2RB"
MARKED = f"#!/bin/sh\nkey={AWS_ID}  # pragma: allowlist secret\n".encode()
REF = Ref("stop-idle-databases", "1.0.0")
LATER = Ref(REF.playbook_id, "1.0.1")


@pytest.fixture
def service(
    open_home: Callable[..., PlaybookService], tenant_settings: Settings
) -> PlaybookService:
    return open_home(tenant_settings, edit_quiet_seconds=0, secrets_gate="warn")


@pytest.fixture
def imported(service: PlaybookService, tmp_path: Path) -> PlaybookService:
    write_folder(tmp_path / "in" / "a", draft(files={"shell/main.sh": MARKED}))
    service.import_path(tmp_path / "in")
    return service


def degrees(service: PlaybookService, ref: Ref) -> list[str]:
    return [finding.degree.value for finding in service.findings(ref)]


def test_renamed_by_hand(imported):
    folder = imported.store.folder(REF)
    shutil.move(folder, folder.with_name("v1.0.1"))
    assert imported.sync_all_metadata()["edits"]["moved"] == [str(LATER)]
    assert degrees(imported, LATER) == ["certain"]


def test_what_it_was_imported_in_is_deleted(imported):
    later = imported.update(REF.playbook_id, draft(files={"shell/main.sh": MARKED}), "1.0.1").ref
    imported.delete(str(REF))
    assert imported.journal.versions.refs() == [later]
    assert degrees(imported, later) == ["certain"]


def test_an_edit_of_what_was_published_and_is_deleted(imported):
    imported.publish_metadata(REF.playbook_id, Strategy.REVIEW)
    (imported.store.folder(REF) / "shell" / "main.sh").write_bytes(MARKED + b"echo\n")
    imported.sync_all_metadata()
    imported.delete(str(REF))
    imported.sync_all_metadata()
    assert imported.journal.versions.refs() == [LATER]
    assert degrees(imported, LATER) == ["certain"]


def test_what_was_always_ones_own_keeps_its_comments(service):
    service.create(draft(files={"shell/main.sh": MARKED}))
    later = service.update(REF.playbook_id, draft(files={"shell/main.sh": MARKED}), "1.0.1").ref
    assert degrees(service, later) == ["possible"]
