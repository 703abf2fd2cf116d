"""Runbooks of other tools through the service: stored, told of, and taken in once."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import UsageError
from core.models import PARAMETERS_FILE, Area, Ref
from core.service import PlaybookService

RUNBOOKS = Path(__file__).parents[3] / "data" / "runbooks"
OpenHome = Callable[..., PlaybookService]


@pytest.fixture
def service(open_home: OpenHome) -> PlaybookService:
    return open_home()


def test_they_are_stored_privately_with_a_report_of_what_was_dropped(service):
    report = service.import_path(RUNBOOKS / "rundeck", source="rundeck")
    assert not report.failed
    assert len(report.imported) == 5
    nightly = Ref("nightly", "1.0.0")
    assert any("slack-message" in what for what in report.dropped[nightly])
    assert report.as_json()["dropped"]["nightly@1.0.0"] == list(report.dropped[nightly])
    stored = service.get_playbook("nightly")
    assert (stored.area, stored.metadata.status.value) == (Area.LOCAL, "draft")
    assert stored.metadata.as_json()["imported_from"]["dropped"] == list(report.dropped[nightly])
    web = service.get_playbook("restart-web")
    assert {file.path for file in web.files if file.executable} >= {"shell/main.sh"}
    assert web.metadata.entry_points == {"shell": "shell/main.sh"}


def test_a_second_import_finds_them_there(service):
    first = service.import_path(RUNBOOKS / "ssm", source="ssm")
    again = service.import_path(RUNBOOKS / "ssm", source="ssm")
    assert again.imported == []
    assert set(again.existing) == set(first.imported)
    assert not again.failed


def test_two_of_one_name_have_ids_of_their_own_each_time(service, tmp_path):
    root = tmp_path / "sources"
    for folder in "ab":
        (root / folder).mkdir(parents=True)
        text = (RUNBOOKS / "ssm/RestartService.json").read_text().replace("Linux machines", folder)
        (root / folder / "RestartService.json").write_text(text)
    first = service.import_path(root, source="ssm")
    assert [ref.playbook_id for ref in first.imported] == ["restartservice", "restartservice-2"]
    assert any("restartservice-2" in note for note in first.notes)
    again = service.import_path(root, source="ssm")
    assert (again.imported, again.failed) == ([], [])
    assert again.existing == first.imported


def test_a_source_that_changed_is_refused_by_name_and_nothing_is_overwritten(service, tmp_path):
    source = tmp_path / "tag_report.py"
    shutil.copy(RUNBOOKS / "azure/tag_report.py", source)
    service.import_path(source, source="azure-runbook")
    before = service.get_playbook("tag-report").content_digest
    with source.open("a") as file:
        file.write("# changed\n")
    report = service.import_path(source, source="azure-runbook")
    ((name, error),) = report.failed
    assert name == "tag_report.py"
    assert error.remedy
    assert service.get_playbook("tag-report").content_digest == before


def test_a_secret_default_is_sealed(service, tmp_path):
    action = {
        "name": "sign_in", "runner_type": "local-shell-cmd", "description": "Signs in.",
        "parameters": {"word": {"type": "string", "secret": True, "default": "open-sesame-1234"},
                       "cmd": {"immutable": True, "default": "true"}},
    }  # fmt: skip
    path = tmp_path / "sign_in.json"
    path.write_text(json.dumps(action))
    report = service.import_path(path, source="stackstorm")
    (ref,) = report.imported
    stored = (service.store.folder(ref) / PARAMETERS_FILE).read_text()
    assert "open-sesame-1234" not in stored
    assert "$encrypted" in stored
    assert any("take it out there" in what for what in report.dropped[ref])


def test_a_collections_own_metadata_is_told(service, tmp_path):
    path = tmp_path / "mine.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", '{"name": "Mine", "playbooks": ["a"]}')
        metadata = {"name": "A thing", "description": "Does it.", "cloud_provider": []}
        archive.writestr("a/metadata.json", json.dumps(metadata))
        archive.writestr("a/shell/main.sh", "#!/bin/sh\n")
    report = service.import_path(path)
    assert report.imported == [Ref("a-thing", "1.0.0")]
    assert report.as_json()["skipped"] == ["metadata.json"]


def test_an_unknown_tool_is_a_wrong_request(service):
    with pytest.raises(UsageError, match="ansible"):
        service.import_path(RUNBOOKS, source="puppet")
