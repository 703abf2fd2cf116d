"""A file asks and the user chooses, at every door: what leaves is what somebody chose.

Each door is tried with the same four files; the server's bytes tell what has left.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from support.playbooks import draft, write_folder

from core.errors import NotRunnable, Refused, UsageError
from core.models import Area, PlaybookDraft, Ref, Strategy, SyncState
from core.playbooks.decisions import Decision
from core.service import PlaybookService
from core.service.importing import claim_origin
from core.settings import Settings

REF = Ref("stop-idle-databases", "1.0.0")
WISHES: dict[str, dict[str, Any]] = {
    "trusted": {"storage_strategy": "uploaded_trusted", "status": "approved"},
    "review": {"storage_strategy": "uploaded_for_review", "status": "pending_review"},
    "library": {"storage_strategy": "using_default", "author": "escher_library"},
    "counted": {"status": "active", "execution_count": 500, "success_count": 500},
}


@pytest.fixture
def service(
    open_home: Callable[..., PlaybookService], tenant_settings: Settings
) -> PlaybookService:
    return open_home(tenant_settings, edit_quiet_seconds=0)


def on_server(service: PlaybookService) -> tuple[int, int]:
    """How many versions and bytes the reference server has of the tenant."""
    settings = service.settings
    assert settings.server_token is not None
    answer = requests.get(
        f"{settings.server_url}/api/reference/stats",
        headers={"Authorization": f"Bearer {settings.server_token.get_secret_value()}"},
        timeout=5,
    )
    mine = answer.json()["tenants"].get(settings.tenant_id, {})
    return mine.get("versions", 0), mine.get("bytes_received", 0)


def create(service: PlaybookService, made: PlaybookDraft, tmp_path: Path) -> None:
    service.create(made)


def create_playbook(service: PlaybookService, made: PlaybookDraft, tmp_path: Path) -> None:
    service.create_playbook(made)


def update(service: PlaybookService, made: PlaybookDraft, tmp_path: Path) -> None:
    service.create(draft(files={"shell/main.sh": b"echo before\n"}))
    service.update(REF.playbook_id, made)


def import_folder(service: PlaybookService, made: PlaybookDraft, tmp_path: Path) -> None:
    write_folder(tmp_path / "many" / "one", made)
    assert service.import_path(tmp_path / "many").failed == []


def import_archive(service: PlaybookService, made: PlaybookDraft, tmp_path: Path) -> None:
    write_folder(tmp_path / "many" / "one", made)
    with tarfile.open(tmp_path / "many.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "many", "many")
    assert service.import_path(tmp_path / "many.tar.gz").failed == []


def drop_into_local(service: PlaybookService, made: PlaybookDraft, tmp_path: Path) -> None:
    write_folder(service.store.layout.folder(Area.LOCAL, REF), made)


def lost_journal(service: PlaybookService, made: PlaybookDraft, tmp_path: Path) -> None:
    times = {"playbook_id": REF.playbook_id, "version": "1.0.0", "created_at": 1, "updated_at": 1}
    whole = PlaybookDraft(made.metadata | times, made.files)
    write_folder(service.store.layout.folder(Area.LOCAL, REF), whole)
    assert service.adopt() == [REF]


def lost_journal_and_synced(service: PlaybookService, made: PlaybookDraft, tmp_path: Path) -> None:
    lost_journal(service, made, tmp_path)
    row = service.store.get(REF)
    with service.journal.database.write() as connection:
        service.journal.versions.delete([row.ref], connection)
    source = service.store.layout.folder(Area.LOCAL, REF)
    place = service.store.layout.folder(Area.SYNCED, REF)
    place.parent.mkdir(parents=True)
    shutil.move(source, place)
    times = {"playbook_id": REF.playbook_id, "version": "1.0.0", "created_at": 1, "updated_at": 1}
    shutil.rmtree(place)
    write_folder(place, PlaybookDraft(made.metadata | times, made.files))
    assert service.adopt() == [REF]


DOORS: list[Callable[[PlaybookService, PlaybookDraft, Path], None]] = [
    create,
    create_playbook,
    update,
    import_folder,
    import_archive,
    drop_into_local,
    lost_journal,
    lost_journal_and_synced,
]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
@pytest.mark.parametrize("wish", WISHES)
def test_what_a_file_asks_for_is_kept_and_not_followed(service, tmp_path, door, wish):
    door(service, draft(**WISHES[wish]), tmp_path)
    service.sync_all_metadata()
    plan = service.request_publish(None, None)  # publish --all
    service.sync_all_metadata()
    assert on_server(service) == (0, 0)
    assert plan.accepted == []
    assert "local_only" in plan.left_out[str(REF)]
    row = service.store.get(REF)
    assert (row.sync_state, row.strategy, row.status) == (SyncState.LOCAL, "local_only", "ready")
    assert row.asked == WISHES[wish]
    shown = service.catalog.show(str(REF)).as_json()
    assert shown["asked"] == WISHES[wish]
    assert "execution_count" not in shown["metadata"]
    assert service.verify().problems == []


@pytest.mark.parametrize("door", DOORS[:6], ids=lambda door: door.__name__)
def test_what_an_ai_wrote_waits_for_a_decision(service, tmp_path, door):
    wish = {"author": "ai_generated", "storage_strategy": "uploaded_trusted", "status": "approved"}
    door(service, draft(**wish), tmp_path)
    service.sync_all_metadata()
    assert on_server(service) == (0, 0)
    assert service.store.get(REF).area is Area.AI_GENERATED
    assert service.request_publish(None, None).accepted == []


def _by_update(service: PlaybookService) -> None:
    by_ai = draft(author="ai_generated", files={"shell/main.sh": b"echo by an AI\n"})
    result = service.update(REF.playbook_id, by_ai)
    assert any(f"decide {REF}" in text for text in result.warnings)


def _by_edit(service: PlaybookService) -> None:
    folder = service.store.folder(REF)
    path = folder / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"author": "ai_generated"}))
    (folder / "shell" / "main.sh").write_text("#!/bin/sh\necho by an AI\n")
    report = service.sync_all_metadata()
    assert f"decide {REF}" in report["edits"]["waiting"][str(REF)]


@pytest.mark.parametrize("how", [_by_update, _by_edit])
def test_what_an_ai_lays_over_what_was_to_be_published_waits(service, how):
    service.create(draft(), strategy=Strategy.REVIEW)
    how(service)
    service.sync_all_metadata()
    row = service.store.get(REF)
    assert on_server(service) == (0, 0)
    assert (row.area, row.publish_as, row.sync_state) == (
        Area.AI_GENERATED,
        None,
        SyncState.LOCAL,
    )
    assert service.store.read(REF)["shell/main.sh"].endswith(b"by an AI\n")
    assert service.verify().problems == []
    service.decide(REF, Decision.REVIEW)
    service.sync_all_metadata()
    assert service.store.get(REF).is_published


def test_nor_is_it_published_under_another_name(service):
    service.create(draft(), strategy=Strategy.REVIEW)
    folder = service.store.folder(REF)
    path = folder / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"author": "ai_generated"}))
    folder.rename(folder.with_name("v1.0.1"))
    service.sync_all_metadata()
    service.sync_all_metadata()
    assert on_server(service) == (0, 0)
    assert service.store.get(Ref(REF.playbook_id, "1.0.1")).area is Area.AI_GENERATED


@pytest.mark.parametrize("author", ["ai_generated", "user_custom"])
@pytest.mark.parametrize("version", ["1.0.0", "1.0.1"])
def test_a_hand_that_moves_what_an_ai_wrote_decides_nothing(service, version, author):
    service.create(draft(author="ai_generated", status="ready"))
    path = service.store.folder(REF) / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"author": author}))
    service.sync_all_metadata()
    moved = Ref(REF.playbook_id, version)
    place = service.store.layout.folder(Area.LOCAL, moved)
    place.parent.mkdir(parents=True)
    shutil.move(service.store.folder(REF), place)
    report = service.sync_all_metadata()
    assert f"decide {moved}" in report["edits"]["waiting"][str(moved)]
    assert service.journal.versions.refs() == [moved]
    assert service.store.get(moved).area is Area.AI_GENERATED
    assert service.store.folder(moved).is_dir()
    with pytest.raises(NotRunnable):
        service.resolve_script(REF.playbook_id, "shell")


@pytest.mark.parametrize("door", ["create", "import", "update"])
def test_review_chosen_for_what_then_waits_is_no_choice_for_the_id(service, tmp_path, door):
    by_ai = draft(author="ai_generated")
    match door:
        case "create":
            service.create(by_ai, strategy=Strategy.REVIEW)
        case "import":
            write_folder(tmp_path / "in" / "a", by_ai)
            service.import_path(tmp_path / "in", strategy=Strategy.REVIEW)
        case "update":
            service.create(draft())
            service.update(REF.playbook_id, by_ai, strategy=Strategy.REVIEW)
    service.decide(REF, Decision.KEEP)
    assert not service.journal.choices.is_for_review(REF.playbook_id)
    later = service.update(REF.playbook_id, draft(files={"shell/main.sh": b"echo 2\n"}), "1.1.0")
    row = service.store.get(later.ref)
    assert (row.publish_as, row.area, row.status) == (None, Area.LOCAL, "ready")


@pytest.mark.parametrize(
    "status", ["draft", "deprecated", "archived", "rejected", "broken", "needs_update"]
)
def test_a_careful_status_stays(service, status):
    service.create(draft(status=status))
    assert (service.store.get(REF).status, service.store.get(REF).asked) == (status, {})


@pytest.mark.parametrize("wish", ["trusted", "review"])
def test_the_warning_says_what_the_file_asks_for_and_how_to_choose(service, wish):
    [warning] = service.create(draft(**WISHES[wish])).warnings
    assert WISHES[wish]["storage_strategy"] in warning
    assert f"publish {REF} --as {wish}" in warning


@pytest.mark.parametrize("strategy", [Strategy.LOCAL_ONLY, Strategy.REVIEW])
def test_who_has_chosen_is_not_told_to_choose(service, tmp_path, strategy):
    assert service.create(draft(**WISHES["trusted"]), strategy=strategy).warnings == ()
    write_folder(tmp_path / "in" / "a", draft("Another thing", **WISHES["trusted"]))
    report = service.import_path(tmp_path / "in", strategy=strategy)
    assert (len(report.imported), report.kept_private, report.warnings) == (1, 0, 0)


class TestChoosing:
    def test_by_the_library(self, service):
        service.create_playbook(draft(), strategy=Strategy.REVIEW)
        service.publish_metadata(REF.playbook_id)
        assert service.store.get(REF).is_published

    def test_later_for_what_was_kept(self, service):
        service.create_playbook(draft(**WISHES["trusted"]))
        assert service.publish_metadata(REF.playbook_id) == {}
        service.publish_metadata(REF.playbook_id, Strategy.REVIEW)
        assert service.store.get(REF).status == "pending_review"

    def test_by_a_decision(self, service):
        service.create(draft(), author="ai_generated")
        service.decide(REF, Decision.REVIEW)
        assert service.journal.choices.is_for_review(REF.playbook_id)

    @pytest.mark.parametrize("how", ["create", "publish", "import", "update"])
    def test_review_holds_for_what_is_made_of_it_here(self, service, tmp_path, how):
        match how:
            case "create":
                service.create(draft(), strategy=Strategy.REVIEW)
            case "publish":
                service.create(draft())
                service.request_publish([REF.playbook_id], Strategy.REVIEW)
            case "import":
                write_folder(tmp_path / "in" / "a", draft())
                service.import_path(tmp_path / "in", strategy=Strategy.REVIEW)
            case "update":
                service.create(draft())
                service.update(REF.playbook_id, draft(), strategy=Strategy.REVIEW)
        service.sync_all_metadata()
        script = service.store.folder(REF) / "shell" / "main.sh"
        script.write_text("#!/bin/sh\necho edited\n")
        report = service.sync_all_metadata()
        by_edit = Ref(REF.playbook_id, "1.0.1")
        assert report["edits"]["kept_as"] == {str(REF): str(by_edit)}
        assert report["edits"]["waiting"] == {}
        service.sync_all_metadata()
        assert service.store.get(by_edit).status == "pending_review"
        by_update = service.update(REF.playbook_id, draft(files={"shell/main.sh": b"echo 3\n"})).ref
        assert service.store.get(by_update).publish_as is Strategy.REVIEW
        # not for what comes in by another door
        service.create(draft(), version="9.0.0")
        assert service.store.get(Ref(REF.playbook_id, "9.0.0")).publish_as is None

    def test_trusted_holds_for_the_one_version(self, service, reviewer):
        service.create(draft(), strategy=Strategy.TRUSTED)
        service.sync_all_metadata()
        before = on_server(service)
        script = service.store.folder(REF) / "shell" / "main.sh"
        script.write_text("#!/bin/sh\necho edited\n")
        report = service.sync_all_metadata()
        service.sync_all_metadata()
        assert on_server(service) == before
        assert "Nobody chose review" in report["edits"]["waiting"][f"{REF.playbook_id}@1.0.1"]

    def test_a_withdrawn_choice_is_none(self, service):
        service.create(draft(), strategy=Strategy.REVIEW)
        service.journal.versions.withdraw([REF])
        service.update(REF.playbook_id, draft(files={"shell/main.sh": b"echo 2\n"}))
        assert service.store.get(REF).sync_state is SyncState.LOCAL


class TestTrustedIsForOne:
    @pytest.fixture
    def two(self, service) -> PlaybookService:
        service.create(draft())
        service.create(draft(), version="1.1.0")
        return service

    def test_named_by_version_or_by_an_id_that_has_one(self, two):
        assert two.request_publish([str(REF)], Strategy.TRUSTED).accepted == [REF]
        two.create(draft("Another thing"))
        assert two.request_publish(["another-thing"], Strategy.TRUSTED).accepted == [
            Ref("another-thing", "1.0.0")
        ]

    @pytest.mark.parametrize("targets", [None, ["stop-idle-databases"], ["a-thing", REF[0]]])
    def test_not_for_many_at_once(self, two, targets):
        two.create(draft("A thing"))
        with pytest.raises(UsageError, match=r"review|one"):
            two.request_publish(targets, Strategy.TRUSTED)
        assert {row.publish_as for row in two.journal.versions.select()} == {None}

    def test_not_by_an_import(self, service, tmp_path):
        write_folder(tmp_path / "in" / "a", draft())
        with pytest.raises(UsageError, match="review"):
            service.import_path(tmp_path / "in", strategy=Strategy.TRUSTED)
        assert service.journal.versions.refs() == []


def test_the_librarys_strategy_is_nobodys_choice(service):
    with pytest.raises(Refused, match="Escher Library"):
        service.create(draft(), strategy=Strategy.DEFAULT)


def test_who_claims_what_was_published_has_its_edits_reviewed(service):
    service.create(draft(), strategy=Strategy.TRUSTED)
    service.create(draft("Kept private"))
    service.sync_all_metadata()
    for ref in service.journal.versions.refs():
        service.journal.versions.set(ref, made_here=False, intake=None)
    assert len(claim_origin(service.journal, service.catalog, None)) == 2
    assert service.journal.choices.for_review([REF.playbook_id, "kept-private"]) == {
        REF.playbook_id
    }


def test_a_claim_brings_back_the_review_of_edits(service):
    service.journal.choices.claimed([REF, Ref("another", "2.0.0")])
    assert service.journal.choices.for_review([REF.playbook_id, "another", "third"]) == {
        REF.playbook_id,
        "another",
    }
