from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.playbooks import draft, write_folder

from core.errors import (
    HomeMismatch,
    InvalidPlaybook,
    NotFound,
    Refused,
    ServerUnreachable,
    UsageError,
)
from core.files import sha256_bytes
from core.models import DONE, Area, Ref, Status, Strategy, SyncState
from core.service import PlaybookService
from core.service.sync import read_report
from core.settings import Settings

OpenHome = Callable[..., PlaybookService]
PUBLISHED = {"strategy": Strategy.REVIEW}


@pytest.fixture
def service(open_home: OpenHome) -> PlaybookService:
    """A home whose server does not answer."""
    return open_home()


@pytest.fixture
def connected(open_home: OpenHome, tenant_settings: Settings) -> PlaybookService:
    """A home at the reference server."""
    return open_home(tenant_settings)


def _state(service: PlaybookService, ref: Ref) -> tuple[str, str]:
    record = service.journal.versions.get(ref)
    assert record is not None
    return record.sync_state.value, record.area.value


class TestTheMissionsMethods:
    def test_create_get_update_delete(self, service):
        playbook_id = service.create_playbook(draft())
        assert playbook_id == "stop-idle-databases"
        stored = service.get_playbook(playbook_id)
        assert (stored.ref.version, stored.area) == ("1.0.0", Area.LOCAL)
        script = draft().files["shell/main.sh"]
        assert [(file.path, file.checksum) for file in stored.files] == [
            ("shell/main.sh", sha256_bytes(script))
        ]

        changed = draft(files={"shell/main.sh": b"#!/bin/sh\necho changed\n"})
        assert service.update_playbook(playbook_id, changed) == stored.ref, "it is not published"
        assert service.get_playbook(playbook_id, "1.0.0").content_digest != stored.content_digest
        path = service.resolve_script(playbook_id, "shell")
        assert path.read_bytes() == b"#!/bin/sh\necho changed\n"

        report = service.delete_playbook(playbook_id)
        assert (report.deleted, report.waiting) == ([stored.ref], [])
        assert not path.exists()
        with pytest.raises(NotFound, match=playbook_id):
            service.get_playbook(playbook_id)

    def test_one_version_of_several_is_deleted(self, service):
        for version in ("1.0.0", "1.1.0"):
            service.create(draft(), version=version)
        service.delete_playbook("stop-idle-databases", "1.1.0")
        assert service.get_playbook("stop-idle-databases").ref.version == "1.0.0"
        assert [str(p.ref.version) for p in service.catalog.versions_of("stop-idle-databases")] == [
            "1.0.0"
        ]

    def test_an_invalid_draft_leaves_nothing(self, service):
        with pytest.raises(InvalidPlaybook, match="description"):
            service.create_playbook(draft(description=""))
        assert service.list_playbooks() == []

    def test_resolving_what_is_not_there_or_not_to_be_read(self, service):
        playbook_id = service.create_playbook(draft())
        with pytest.raises(NotFound, match="no python script"):
            service.resolve_script(playbook_id, "python")
        with pytest.raises(ServerUnreachable, match="There is no elsewhere on this machine"):
            service.resolve_script("elsewhere", "shell")

    def test_search(self, service):
        for name in ("Stop idle databases", "Rotate access keys"):
            service.create_playbook(draft(name))
        refs = service.journal.versions.refs()
        assert service.add_to_rag(refs[0]) == DONE
        assert service.index_pending() == 1
        assert service.search_local_playbooks("rotate keys")[0].name == "Rotate access keys"
        service.remove_from_rag("rotate-access-keys")
        assert service.index_pending() == 1


class TestListing:
    @pytest.fixture(autouse=True)
    def playbooks(self, service) -> None:
        for name in ("Eee", "Bbb", "Aaa", "Ddd", "Ccc"):
            service.create(draft(name), version="1.0.0")
        service.create(draft("Bbb"), version="1.10.0")
        service.create(draft("Bbb"), version="1.9.0")
        service.create(draft("Ddd", status="draft"), version="2.0.0-rc.1")

    def _page(self, service, **options: Any) -> tuple[list[str], str | None]:
        page, cursor = service.catalog.list_page(**options)
        return [str(playbook.ref) for playbook in page], cursor

    def test_is_of_the_latest_versions_by_id(self, service):
        expected = ["aaa@1.0.0", "bbb@1.10.0", "ccc@1.0.0", "ddd@2.0.0-rc.1", "eee@1.0.0"]
        assert self._page(service) == (expected, None)
        assert [str(metadata.ref) for metadata in service.list_playbooks()] == expected

    @pytest.mark.parametrize("size", [1, 2, 4, 5, 6])
    def test_pages_miss_none_and_end(self, service, size):
        seen: list[str] = []
        cursor = None
        for _ in range(6):
            page, cursor = self._page(service, limit=size, cursor=cursor)
            assert len(page) <= size
            seen += page
            if cursor is None:
                break
        assert seen == self._page(service)[0]

    def test_a_filter_finds_the_latest_that_matches(self, service):
        assert self._page(service, status="draft")[0] == ["ddd@2.0.0-rc.1"]
        assert "ddd@1.0.0" in self._page(service, status="ready")[0]
        assert self._page(service, cloud="azure") == ([], None)

    def test_targets_are_expanded_once_each(self, service):
        refs = service.catalog.expand(["bbb", "bbb@1.9.0", "aaa@1.0.0"])
        assert [str(ref) for ref in refs] == ["bbb@1.0.0", "bbb@1.9.0", "bbb@1.10.0", "aaa@1.0.0"]
        for target in ("nope", "aaa@9.0.0"):
            with pytest.raises(NotFound, match=target):
                service.catalog.expand(["aaa", target])


class TestImport:
    @pytest.fixture
    def archive(self, tmp_path: Path) -> Path:
        folder = tmp_path / "playbooks"
        for name in ("one", "two", "three"):
            write_folder(folder / name, draft(f"Playbook {name}"))
        write_folder(folder / "wrong", draft("Playbook wrong", cloud_provider=["oracle"]))
        path = tmp_path / "playbooks.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            tar.add(folder, arcname="playbooks")
        return path

    @pytest.mark.parametrize("packed", [True, False], ids=["archive", "folder"])
    def test_twice_finds_everything_there(self, service, archive, packed):
        source = archive if packed else archive.with_name("playbooks")
        told: list[int] = []
        first = service.import_path(source, on_progress=lambda done, _: told.append(done))
        assert sorted(ref.playbook_id for ref in first.imported) == [
            "playbook-one", "playbook-three", "playbook-two",
        ]  # fmt: skip
        assert (first.existing, len(first.failed)) == ([], 1)
        assert "wrong" in first.failed[0][0]
        assert told == sorted(told)

        second = service.import_path(source)
        assert (second.imported, sorted(second.existing)) == ([], sorted(first.imported))
        assert len(second.failed) == 1

    def test_a_strategy_may_be_given_to_all(self, service, archive):
        service.import_path(archive, strategy=Strategy.REVIEW)
        assert {p.storage_strategy for p in service.list_playbooks()} == {Strategy.REVIEW}


def test_a_lost_journal_is_made_again_from_the_folders(service, open_home):
    ref = service.create(draft()).ref
    waiting = service.create(draft("By an AI"), author="ai_generated").ref
    before = {r: service.journal.versions.get(r) for r in (ref, waiting)}
    service.close()
    for path in service.settings.home.glob("journal.db*"):
        path.unlink()

    again = open_home()
    assert again.journal.versions.refs() == sorted([ref, waiting])
    for known, record in before.items():
        found = again.journal.versions.get(known)
        assert record is not None
        assert (found.content_digest, found.area) == (record.content_digest, record.area)
    assert again.adopt() == [], "what is known is not taken in twice"


class TestPublishing:
    def test_of_a_playbook_ends_in_synced(self, connected):
        ref = connected.create(draft(), **PUBLISHED).ref
        assert connected.publish_metadata(ref.playbook_id) == {ref: DONE}
        assert _state(connected, ref) == ("published", "synced")
        published = connected.catalog.show(str(ref))
        assert published.metadata.status is Status.PENDING_REVIEW
        assert published.sync.revision is not None
        assert connected.journal.versions.unindexed() == [], "the point has the new status"
        assert connected.verify().clean
        assert connected.publish_metadata(ref.playbook_id) == {}, "there is nothing left to do"

    def test_a_private_playbook_stays_here(self, connected):
        ref = connected.create(draft()).ref
        assert connected.publish_metadata(ref.playbook_id) == {}
        assert _state(connected, ref) == ("local", "local")

    def test_the_published_status_is_the_servers(self, connected):
        ref = connected.create(draft(), **PUBLISHED).ref
        connected.publish_metadata(ref.playbook_id)
        with pytest.raises(Refused, match="server's"):
            connected.set_status(ref, "archived")
        assert connected.catalog.show(str(ref)).metadata.status is Status.PENDING_REVIEW

    def test_a_published_version_is_changed_by_the_next(self, connected):
        ref = connected.create(draft(), **PUBLISHED).ref
        connected.publish_metadata(ref.playbook_id)
        changed = draft(files={"shell/main.sh": b"#!/bin/sh\necho changed\n"})
        assert connected.update_playbook(ref.playbook_id, changed).version == "1.0.1"
        assert _state(connected, ref) == ("published", "synced")

    def test_deleting_waits_for_the_server(self, connected):
        ref = connected.create(draft(), **PUBLISHED).ref
        connected.publish_metadata(ref.playbook_id)
        report = connected.delete(str(ref))
        assert (report.deleted, report.waiting) == ([], [ref])
        assert connected.catalog.show(str(ref)).ref == ref
        connected.sync_all_metadata()
        with pytest.raises(NotFound):
            connected.catalog.show(str(ref))
        assert connected.verify().clean

    def test_the_sync_does_whatever_is_to_be_done(self, connected):
        public, private = (
            connected.create(draft(), **PUBLISHED).ref,
            connected.create(draft("Mine")).ref,
        )
        report = connected.sync_all_metadata()
        assert report["scanned"] == 2
        assert _state(connected, public) == ("published", "synced")
        assert _state(connected, private) == ("local", "local")
        assert connected.journal.versions.unindexed() == []
        assert read_report(connected.settings) == report
        again = connected.sync_all_metadata()
        assert again["queued"] == {"publish": 0, "embed": 0, "delete": 0}

    def test_syncs_of_one_process_each_finish_a_collection_that_was_left_half_done(
        self, connected, open_home
    ):
        refs = [connected.create(draft(f"Playbook {number}")).ref for number in range(3)]
        connected.index_refs(refs[:1])
        connected.close()
        for _ in range(2):
            with open_home(connected.settings) as alone:
                alone.sync_all_metadata()
                left = alone.journal.versions.unindexed()
        assert left == []

    def test_what_has_a_message_under_way_is_left_to_it(self, connected):
        ref = connected.create(draft(), **PUBLISHED).ref
        assert connected.sync.difference().publish == [ref]
        plan = connected.sync.difference(under_way={ref})
        assert (plan.publish, plan.embed, plan.delete) == ([], [], [])

    def test_a_home_stays_with_its_server(self, connected, open_home):
        ref = connected.create(draft(), **PUBLISHED).ref
        connected.publish_metadata(ref.playbook_id)
        connected.bind()
        with pytest.raises(HomeMismatch, match="tenant_id"):
            open_home(connected.settings.model_copy(update={"tenant_id": "another"}))


class TestOffline:
    def test_a_publication_waits_for_the_server_and_can_be_withdrawn(self, service):
        ref = service.create(draft(), **PUBLISHED).ref
        outcome = service.publish_metadata(ref.playbook_id)[ref]
        assert (outcome.state, outcome.error_type) == ("deferred", "ServerUnreachable")
        assert _state(service, ref) == ("deferred", "local")
        service.request_publish([str(ref)], None)
        assert _state(service, ref)[0] == "pending"
        assert service.sync.difference().publish == [ref]
        service.journal.versions.withdraw([ref])
        assert _state(service, ref)[0] == "local"
        assert service.sync.difference().publish == []

    def test_the_status_says_since_when(self, service):
        service.create(draft())
        status = service.status()
        assert status["server"]["reachable"] is False
        assert status["sync"].items() >= {"last_at": None, "running": False}.items()
        assert status["server"]["offline_since"] == service.status()["server"]["offline_since"]
        assert status["journal"]["versions"] == 1
        assert set(status["journal"]) == {
            "playbooks", "versions", "published", "pending", "deferred", "failed", "conflicts", "held",
        }  # fmt: skip

    def test_a_report_that_is_no_json_is_none(self, service):
        service.finish_sync(service.sync.difference())
        assert read_report(service.settings) is not None
        path = service.settings.cache_path / "metadata" / "last_sync.json"
        path.write_text("{")
        assert read_report(service.settings) is None


def test_the_server_that_answers_again_is_said(connected):
    connected.journal.facts.set("offline_since", "1")
    status = connected.status()["server"]
    assert (status["reachable"], status["offline_since"]) == (True, None)
    assert status["revisions"] is not None
    assert connected.journal.facts.get("offline_since") is None


def test_the_status_of_what_is_not_published_is_the_users(service):
    ref = service.create(draft()).ref
    digest = service.catalog.show(str(ref)).content_digest
    playbook = service.set_status(ref, "deprecated", "Use the other one.")
    assert playbook.metadata.status is Status.DEPRECATED
    assert playbook.metadata.deprecation_reason == "Use the other one."
    assert playbook.content_digest == digest
    assert service.journal.versions.get(ref).sync_state is SyncState.LOCAL
    with pytest.raises(UsageError, match="'great'"):
        service.set_status(ref, "great")
    assert service.verify().problems == [], "the disk says the same"
