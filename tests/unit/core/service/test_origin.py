"""Where a version came from: made here or not, and how it came in."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.playbooks import draft, write_folder

from core.errors import NotRunnable
from core.models import Area, Move, Ref
from core.service import PlaybookService
from core.service.importing import claim_origin
from core.settings import Settings

ID = "stop-idle-databases"
FIRST, SECOND = Ref(ID, "1.0.0"), Ref(ID, "1.0.1")


@pytest.fixture
def service(tmp_path: Path):
    settings = Settings(
        home=tmp_path / "home", server_url="http://127.0.0.1:9", edit_quiet_seconds=0
    )
    with PlaybookService.open(settings) as service:
        yield service


def origin(service: PlaybookService, ref: Ref) -> tuple[bool, str | None]:
    record = service.store.get(ref)
    return record.made_here, record.intake


def publish(service: PlaybookService, ref: Ref) -> None:
    digest = service.store.get(ref).content_digest
    service.journal.versions.set(ref, revision=1, published_digest=digest, sync_state="published")
    service.store.move([Move(ref, Area.SYNCED, {"status": "pending_review"})])


def test_what_is_created_imported_updated_or_edited_here_is_made_here(service, tmp_path):
    service.create(draft())
    assert origin(service, FIRST) == (True, "create")
    service.update(ID, draft(files={"shell/main.sh": b"echo 2\n"}))
    assert origin(service, FIRST) == (True, "update")
    publish(service, FIRST)
    assert origin(service, FIRST)[0], "publishing changes no origin"
    (service.store.folder(FIRST) / "shell/main.sh").write_bytes(b"echo 3\n")
    service.edits.take(service.scan.run(), lambda ref: {"shell/main.sh": b"echo 2\n"})
    assert origin(service, SECOND) == (True, "edit")
    assert origin(service, FIRST)[0], "restored, it is what it was"
    write_folder(tmp_path / "many/other", draft("Another thing"))
    service.import_path(tmp_path / "many")
    assert origin(service, Ref("another-thing", "1.0.0")) == (True, "import")


def test_after_a_lost_journal_what_was_published_is_another_machines_until_it_is_claimed(service):
    service.create(draft())
    service.create(draft("Mine alone"))
    publish(service, FIRST)
    with service.journal.database.write() as connection:
        service.journal.versions.delete([FIRST, Ref("mine-alone", "1.0.0")], connection)
    service.adopt()
    assert origin(service, FIRST) == (False, "adopt")
    assert origin(service, Ref("mine-alone", "1.0.0")) == (True, "adopt")
    with pytest.raises(NotRunnable):
        service.locate_script(ID, "shell")
    assert claim_origin(service.journal, service.catalog, None) == [FIRST]
    assert service.locate_script(ID, "shell").ref == FIRST
    assert claim_origin(service.journal, service.catalog, None) == []


def test_what_was_pulled_is_claimed_by_its_name_alone(service):
    service.create(draft())
    publish(service, FIRST)
    service.journal.versions.set(FIRST, made_here=False, intake="pull")
    assert claim_origin(service.journal, service.catalog, None) == []
    with pytest.raises(NotRunnable):
        service.locate_script(ID, "shell")
    assert claim_origin(service.journal, service.catalog, [str(FIRST)]) == [FIRST]
    assert service.locate_script(ID, "shell").info.made_here
