"""A script that is executable is handed out so, wherever its bytes come from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.playbooks import metadata
from support.rag import open_service
from support.scripts import approve

from core.models import PlaybookDraft, Ref, Strategy
from core.service import PlaybookService
from core.settings import Settings

ID = "stop-idle-databases"
REF = Ref(ID, "1.0.0")
FILES = {"shell/main.sh": b"#!/bin/sh\nexec ./lib/a.sh\n", "shell/lib/a.sh": b"#!/bin/sh\n",
         "shell/notes.txt": b"text\n"}  # fmt: skip
MARKED = {"main.sh": True, "lib/a.sh": True, "notes.txt": False}


@pytest.fixture
def new_service(tenant_settings: Settings) -> Iterator[Callable[..., PlaybookService]]:
    made: list[PlaybookService] = []

    def make(**changes: Any) -> PlaybookService:
        service = open_service(tenant_settings.model_copy(update=changes))
        made.append(service)
        return service

    yield make
    for service in made:
        service.script_manager.clear.remove_all()
        service.close()


@pytest.fixture
def service(new_service: Callable[..., PlaybookService]) -> PlaybookService:
    return new_service()


def create(service: PlaybookService, **fields: Any) -> None:
    marked = frozenset({"shell/main.sh", "shell/lib/a.sh", "shell/notes.txt"})
    named = {"playbook_id": ID, "version": REF.version}
    draft = PlaybookDraft(metadata(**named, **fields), dict(FILES), executable=marked)
    service.store.create(draft)


def marks(folder: Path) -> dict[str, bool]:
    return {
        path.relative_to(folder).as_posix(): bool(path.stat().st_mode & 0o100)
        for path in folder.rglob("*")
        if path.is_file()
    }


def lose_modes(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o600)


@pytest.fixture
def published(service: PlaybookService, reference: Any) -> Ref:
    create(service)
    service.publish_metadata(ID, as_=Strategy.REVIEW)
    approve(service.settings, REF, reference.reviewer(service.settings.tenant_id))
    return REF


@pytest.fixture
def there(new_service: Callable[..., PlaybookService], tmp_path: Path) -> PlaybookService:
    return new_service(home=tmp_path / "there")


def resolved(service: PlaybookService, **options: Any) -> Path:
    return service.resolve_script(ID, "shell", **options).parent


def test_from_the_home_and_as_a_copy(service: PlaybookService):
    create(service)
    folder = resolved(service)
    assert marks(folder) == MARKED
    assert marks(resolved(service, copy=True)) == MARKED
    lose_modes(folder)
    assert marks(resolved(service)) == MARKED
    assert marks(resolved(service)) == MARKED  # from what is remembered of the last answer


def test_a_sensitive_one_in_clear(service: PlaybookService):
    create(service, sensitive=True)
    assert (
        marks(service.store.folder(REF) / "shell") == MARKED
    )  # sealed, and it says so all the same
    assert marks(resolved(service)) == MARKED


@pytest.mark.usefixtures("published")
def test_a_published_one_whose_folder_lost_its_modes(service: PlaybookService):
    folder = resolved(service)
    lose_modes(folder)
    assert not service.scan.run().has_changes  # a backup or a share did it: no edit
    assert marks(resolved(service)) == MARKED


@pytest.mark.usefixtures("published")
def test_from_the_server_and_the_cache(service: PlaybookService, there: PlaybookService):
    folder = resolved(there)
    assert folder.is_relative_to(there.settings.cache_path)
    assert marks(folder) == MARKED
    [entry] = there.script_manager.cache.entries()
    listing = there.script_manager.cache.find(entry.key).listing
    assert {file.path: file.executable for file in listing.files} == {
        f"shell/{name}": mark for name, mark in MARKED.items()
    }
    lose_modes(folder)
    assert marks(resolved(there)) == MARKED
    assert marks(resolved(there, copy=True)) == MARKED
    assert there.script_manager.cache.verify() == []
    s3_path = service.journal.versions.get(REF).s3_paths["shell/lib/a.sh"]
    shutil.rmtree(folder)
    path = there.download_script(s3_path)
    assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("published")
def test_handed_in_file_by_file(there: PlaybookService):
    for path, content in FILES.items():
        there.cache_script(ID, REF.version, "shell", path, content)
    assert marks(resolved(there)) == MARKED
