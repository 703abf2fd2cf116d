"""Flow 3 over a whole home: disk, cache and the reference server behind one service."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.playbooks import draft
from support.processes import dead_owner, downloads_of
from support.rag import open_service
from support.script_cache import unindex
from support.scripts import approve, publish, put_in_cache

from core.errors import (
    AlreadyExists,
    IntegrityError,
    LeaseHeld,
    NotFound,
    NotRunnable,
    Refused,
    UnsafePath,
    UsageError,
)
from core.files import sha256_bytes
from core.journal.pulls import DELETION, WaitingChange
from core.models import Ref, ScriptKey, Strategy
from core.scripts.cache import ScriptCache
from core.scripts.models import Source
from core.scripts.transfer import Claim
from core.service import PlaybookService
from core.settings import Settings

ID = "stop-idle-databases"
FILES = {"shell/main.sh": b"#!/bin/sh\n. lib/a.sh\n", "shell/lib/a.sh": b"echo a\n"}
ELSEWHERE = ScriptKey(Ref("elsewhere", "1.0.0"), "shell")


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


class TestWhatThePullsSay:
    """The pinned bytes go on being answered, and the answer says what is odd."""

    def warnings(self, service: PlaybookService) -> str:
        service.journal.waiting.forget([("x", "1.0.0")])  # what was read is read again
        return " ".join(service.locate_script(ID, "shell").info.warnings)

    @pytest.mark.usefixtures("published")
    def test_all_is_well(self, service: PlaybookService):
        service.journal.pull_state.completed(time.time(), full=True)
        assert "server" not in self.warnings(service)

    @pytest.mark.usefixtures("published")
    def test_the_last_complete_pull_is_old(self, service: PlaybookService):
        service.journal.pull_state.completed(time.time() - 90_000, full=True)
        assert "more than 24 h ago" in self.warnings(service)

    @pytest.mark.usefixtures("published")
    def test_its_deletion_waits(self, service: PlaybookService):
        item = WaitingChange((ID, "1.0.0"), DELETION, "deleted", 1, 2, "sha256:x", held=True)
        service.journal.waiting.put([item])
        assert "--accept-deletions" in self.warnings(service)

    @pytest.mark.usefixtures("published")
    def test_the_server_claims_other_content(self, service: PlaybookService):
        service.journal.conflicts.open(Ref(ID, "1.0.0"), "immutable", "Other content.")
        assert "conflicts" in self.warnings(service)


@pytest.fixture
def published(service: PlaybookService) -> Path:
    """The folder in synced/ of a published version."""
    service.create(draft(files=FILES))
    plan = service.request_publish(None, Strategy.REVIEW)
    service.publish_refs(plan.accepted)
    folder = service.store.folder(Ref(ID, "1.0.0"))
    assert folder.parent.parent.name == "synced"
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


class TestResolving:
    def test_from_disk_then_the_server_then_the_cache(self, service, published):
        assert service.locate_script(ID, "shell").source is Source.SYNCED
        shutil.rmtree(published)
        fetched = service.locate_script(ID, "shell")
        assert (fetched.source, _files(fetched.folder)) == (Source.DOWNLOAD, FILES)
        again = service.locate_script(f"{ID}@1.0.0", "shell")
        assert (again.source, again.path) == (Source.CACHE, fetched.path)
        assert service.resolve_script(ID, "shell") == fetched.path
        assert service.resolve_script(ID, "shell", "1.0.0").read_bytes() == FILES["shell/main.sh"]
        usage = service.script_manager.usage()
        assert (usage["hits"], usage["misses"], usage["entry_count"]) == (3, 1, 1)
        assert usage["entries"][0]["playbook_id"] == ID
        assert usage["used_bytes"] <= usage["max_bytes"]

    def test_a_changed_published_file_is_left_as_it_is(self, service, published):
        (published / "shell/main.sh").write_bytes(b"echo edited\n")
        assert service.resolve_script(ID, "shell").read_bytes() == FILES["shell/main.sh"]
        assert (published / "shell/main.sh").read_bytes() == b"echo edited\n"

    def test_a_flipped_byte_in_the_cache_is_fetched_anew(self, service, published):
        shutil.rmtree(published)
        path = service.resolve_script(ID, "shell")
        path.write_bytes(b"#!/bin/sh\n. lib/b.sh\n")
        found = service.locate_script(ID, "shell")
        assert (found.source, _files(found.folder)) == (Source.DOWNLOAD, FILES)
        assert service.script_manager.usage()["quarantined_bytes"] > 0

    def test_what_was_deleted_is_not_answered_in_place_of_its_successor(self, service, published):
        shutil.rmtree(published)
        service.resolve_script(ID, "shell")
        service.delete(ID)
        service.publisher.delete([Ref(ID, "1.0.0")])
        other = {"shell/main.sh": b"echo other\n"}
        with pytest.raises(AlreadyExists):  # its name stands for what it held, for ever
            service.create(draft(files=other), version="1.0.0")
        service.create(draft(files=other), version="1.0.1")
        assert service.resolve_script(ID, "shell").read_bytes() == other["shell/main.sh"]

    def test_what_the_server_does_not_have(self, service):
        with pytest.raises(NotFound, match=r"There is no elsewhere@1\.0\.0 on this machine"):
            service.resolve_script("elsewhere", "shell", "1.0.0")
        with pytest.raises(NotFound, match="There is no elsewhere on this machine"):
            service.resolve_script("elsewhere", "shell")

    def test_a_sensitive_one_leaves_nothing_behind(self, service, new_service):
        service.create(draft(files=FILES, sensitive=True))
        with service.lease_script(ID, "shell") as script:
            assert _files(script.folder) == FILES
        assert not script.folder.exists()


class TestDownloading:
    PATH = f"s3://escher-tenant-data/tenants/{{}}/playbooks/{ID}/v1.0.0/shell/lib/a.sh"

    def test_the_named_file_with_its_folder(self, service, published):
        path = service.download_script(self.PATH.format(service.settings.tenant_id))
        assert path == service.settings.script_cache_path / f"{ID}-v1.0.0/shell/lib/a.sh"
        assert _files(path.parents[2]) == FILES

    @pytest.mark.parametrize(
        ("path", "error"),
        [
            (PATH.format("someone-else"), Refused),
            (PATH.replace("shell/lib/a.sh", "metadata.json"), UsageError),
            (PATH.replace("lib/a.sh", "no.sh"), NotFound),
            (PATH.replace(ID, f"escher-{ID}"), UsageError),
            ("s3://escher-library/playbooks/mine/v1.0.0/shell/a.sh", UsageError),
            ("s3://another-bucket/a.sh", UsageError),
            ("/etc/passwd", UsageError),
        ],
    )
    def test_another_path_is_refused(self, service, published, path, error):
        with pytest.raises(error):
            service.download_script(path.replace("{}", service.settings.tenant_id))
        assert not (service.settings.cache_path / "staging").exists() or not any(
            (service.settings.cache_path / "staging").iterdir()
        )


@pytest.fixture
def elsewhere(service: PlaybookService, reference) -> None:
    """Another machine has published ELSEWHERE, and it was approved."""
    publish(service.server, ELSEWHERE.ref, FILES)
    reviewer = reference.reviewer(service.settings.tenant_id)
    approve(service.settings, ELSEWHERE.ref, reviewer)


@pytest.mark.usefixtures("elsewhere")
class TestHandingIn:
    def test_bytes_that_the_server_does_not_list_are_not_taken(self, service):
        for path, content in (("main.sh", b"echo other\n"), ("more.sh", b""),
                              ("lib/a.sh", FILES["shell/main.sh"])):  # fmt: skip
            with pytest.raises(IntegrityError, match="not known to have these bytes"):
                service.cache_script(*ELSEWHERE.ref, "shell", path, content)
        with pytest.raises(NotFound):
            service.cache_script("nobodys", "1.0.0", "shell", "main.sh", b"echo\n")
        assert service.script_manager.usage()["entry_count"] == 0

    def test_a_file_and_then_another(self, service):
        first = service.cache_script(*ELSEWHERE.ref, "shell", "main.sh", FILES["shell/main.sh"])
        assert first.read_bytes() == FILES["shell/main.sh"]
        assert not service.cache.find(ELSEWHERE).fresh, "what is not whole is not run"
        service.cache_script(*ELSEWHERE.ref, "shell", "shell/lib/a.sh", FILES["shell/lib/a.sh"])
        assert service.resolve_script("elsewhere", "shell", "1.0.0") == first
        found = service.locate_script("elsewhere@1.0.0", "shell")
        assert (found.source, found.path.name) == (Source.CACHE, "main.sh")
        assert _files(found.folder) == FILES
        assert service.script_manager.usage()["reserved_bytes"] == 0
        assert service.journal.downloads.all() == []

    def test_a_published_version_takes_its_own_bytes_only(self, service, published):
        with pytest.raises(IntegrityError, match="not known to have these bytes"):
            service.cache_script(ID, "1.0.0", "shell", "main.sh", b"echo other\n")
        shutil.rmtree(published)
        for path, body in FILES.items():
            service.cache_script(ID, "1.0.0", "shell", path, body)
        assert service.locate_script(ID, "shell").source is Source.CACHE

    def test_a_sensitive_version_never_stands_in_the_cache_in_clear(self, service):
        files = {"shell/main.sh": b"echo CANARY\n"}
        ref = service.create(draft(files=files, sensitive=True)).ref
        with pytest.raises(Refused, match="sensitive"):
            service.cache_script(*ref, "shell", "main.sh", files["shell/main.sh"])
        everything = [path for path in service.settings.home.rglob("*") if path.is_file()]
        assert not [path for path in everything if b"CANARY" in path.read_bytes()]

    def test_wrong_names_and_sizes(self, new_service):
        service = new_service(cache_max_size_mb=0.01)
        large = Ref("large", "1.0.0")
        publish(service.server, large, {"shell/a.sh": b"x" * 20_000})
        for arguments, error in (
            ((*ELSEWHERE.ref, "bash", "a.sh", b""), UsageError),
            ((*ELSEWHERE.ref, "shell", "../a.sh", b""), UnsafePath),
            (("No/ID", "1.0.0", "shell", "a.sh", b""), UsageError),
            (("elsewhere", "1", "shell", "a.sh", b""), UsageError),
        ):
            with pytest.raises(error):
                service.cache_script(*arguments)
        with pytest.raises(Refused, match="more than the whole cache's"):
            service.cache_script(*large, "shell", "a.sh", b"x" * 20_000)
        assert service.script_manager.usage()["used_bytes"] == 0

    def test_not_while_it_is_being_downloaded(self, service):
        staging = service.settings.cache_path / "staging"
        service.cache.layout.prepare()
        with (
            Claim(service.journal, staging, [ELSEWHERE]),
            pytest.raises(LeaseHeld, match="being downloaded"),
        ):
            service.cache_script(*ELSEWHERE.ref, "shell", "main.sh", FILES["shell/main.sh"])


class TestWhoMayBeRun:
    PATH = f"s3://escher-tenant-data/tenants/{{}}/playbooks/{ELSEWHERE.ref.playbook_id}/v1.0.0/shell/main.sh"

    def test_a_download_decides_as_a_resolve_does(self, service, reference):
        path = self.PATH.format(service.settings.tenant_id)
        publish(service.server, ELSEWHERE.ref, FILES)
        with pytest.raises(NotRunnable, match="pending_review"):
            service.download_script(path)
        assert service.script_manager.usage()["entry_count"] == 0
        assert service.download_script(path, allow_unreviewed=True).read_bytes()
        approve(service.settings, ELSEWHERE.ref, reference.reviewer(service.settings.tenant_id))
        assert service.download_script(path).read_bytes() == FILES["shell/main.sh"]

    def test_what_was_downloaded_for_others_gives_nobody_a_path(self, service, reference):
        publish(service.server, ELSEWHERE.ref, FILES)
        service.scripts.download([ELSEWHERE.ref])
        outcomes = service.scripts.verify([ELSEWHERE.ref])
        assert outcomes[ELSEWHERE.ref].state == "done"
        assert service.script_manager.usage()["entry_count"] == 1
        with pytest.raises(NotRunnable, match="pending_review"):
            service.locate_script("elsewhere@1.0.0", "shell")
        approve(service.settings, ELSEWHERE.ref, reference.reviewer(service.settings.tenant_id))
        found = service.locate_script("elsewhere", "shell")
        assert (found.source, found.info.status) == (Source.CACHE, "approved")

    def test_the_servers_version_of_an_id_that_is_private_here_is_not_downloaded(self, service):
        publish(service.server, Ref(ID, "99.0.0"), FILES)
        service.create(draft(files=FILES))
        path = self.PATH.format(service.settings.tenant_id).replace("elsewhere/v1", f"{ID}/v99")
        with pytest.raises(NotFound, match="private here"):
            service.download_script(path, allow_unreviewed=True)
        with pytest.raises(Refused, match="not published from here"):
            service.download_script(path.replace("v99", "v1"))
        assert service.locate_script(ID, "shell").ref.version == "1.0.0"


def _over(service: PlaybookService) -> None:
    """As if the lease of every path that was handed out had ended."""
    for path in (service.settings.run_path / "leases").iterdir():
        os.utime(path, (1, 1))


class TestAPathThatWasHandedOut:
    """A sync leaves what somebody may be running as it stands; a command of the user says so."""

    def test_publishing_counts_and_the_folder_moves_later(self, service):
        ref = service.create(draft(files=FILES)).ref
        path = service.resolve_script(ID, "shell")
        outcomes = service.publish_refs(service.request_publish(None, Strategy.REVIEW).accepted)
        assert outcomes[ref].state == "done"
        assert service.journal.versions.counts()["published"] == 1
        for _ in range(2):
            assert service.sync_all_metadata()["failures"] == {}
            assert path.read_bytes() == FILES["shell/main.sh"]
            assert service.resolve_script(ID, "shell") == path
        _over(service)
        service.sync_all_metadata()
        assert not path.exists()
        assert service.locate_script(ID, "shell").source is Source.SYNCED
        assert service.verify().clean

    def test_an_edit_of_published_content_is_kept_and_restored_later(self, service, published):
        service.settings.edit_quiet_seconds = 0
        service.resolve_script(ID, "shell")
        script = published / "shell/main.sh"
        script.write_bytes(b"#!/bin/sh\necho edited\n")
        for _ in range(2):
            report = service.sync_all_metadata()
            assert script.read_bytes() == b"#!/bin/sh\necho edited\n"
            assert f"{ID}@1.0.0" in report["deferrals"]
        versions = [playbook.ref.version for playbook in service.catalog.versions_of(ID)]
        assert versions == ["1.0.0", "1.0.1"], "stored at once, and once"
        _over(service)
        service.sync_all_metadata()
        assert script.read_bytes() == FILES["shell/main.sh"]

    def test_a_deletion_there_waits(self, service, published):
        path = service.resolve_script(ID, "shell")
        record = service.store.get(Ref(ID, "1.0.0"))
        service.server.delete(record.ref, record.revision)
        service.sync_all_metadata()
        assert path.read_bytes() == FILES["shell/main.sh"]
        _over(service)
        service.sync_all_metadata()
        assert not path.exists()

    def test_a_command_of_the_user_acts_at_once_and_says_so(self, service):
        service.create(draft(files=FILES))
        path = service.resolve_script(ID, "shell")
        result = service.update(ID, draft(files={"shell/main.sh": b"echo new\n"}))
        assert any("was handed out" in warning for warning in result.warnings)
        assert path.read_bytes() == b"echo new\n"
        service.resolve_script(ID, "shell")
        report = service.delete(ID)
        assert "was handed out" in report.warnings[0]
        assert not path.exists()


class TestKeepingHouse:
    def _cached(self, service: PlaybookService) -> Path:
        return put_in_cache(service, ELSEWHERE, {"shell/main.sh": b"echo x\n"}) / "shell/main.sh"

    def test_evicting_what_is_too_old(self, service):
        path = self._cached(service)
        assert service.evict_old_cache() == 0
        manifest = path.parent.parent / ".shell.json"
        _age(service, 8 * 86_400)
        os.utime(path.parent, (1, 1))
        freed = service.evict_old_cache()
        assert freed >= len(b"echo x\n")
        assert not path.exists()
        assert not manifest.exists()

    def test_clearing_leaves_what_is_in_use(self, service):
        path = self._cached(service)
        assert service.script_manager.clear_cache().in_use == 1
        os.utime(path.parent, (1, 1))
        assert service.script_manager.clear_cache().entries == 1
        assert not path.exists()

    def test_verify_tells_of_a_wrong_byte(self, service):
        path = self._cached(service)
        assert service.verify().clean
        path.write_bytes(b"echo y\n")
        report = service.verify()
        assert [(found.ref, "sh" in found.what) for found in report.problems] == [
            ("elsewhere@1.0.0", True)
        ]
        assert "cache clear" in report.problems[0].remedy, "an eviction reads no bytes"
        assert path.exists(), "it changes nothing"

    def test_a_lost_index_is_rebuilt_when_the_home_is_opened(self, service, new_service):
        path = self._cached(service)
        unindex(service.journal, *ELSEWHERE)
        again = new_service()
        assert again.script_manager.usage()["entry_count"] == 1
        assert again.resolve_script("elsewhere", "shell", "1.0.0") == path

    def test_what_a_dead_download_left_is_removed_when_the_home_is_opened(
        self, service, new_service
    ):
        self._cached(service)
        staging = service.settings.cache_path / "staging"
        name = "0" * 32
        downloads = downloads_of(service.journal, dead_owner())
        downloads.claim({ScriptKey(Ref("dead", "1.0.0"), "shell"): f"staging/{name}"})
        (staging / name).mkdir()
        again = new_service()
        assert not (staging / name).exists()
        assert again.journal.downloads.all() == []
        assert again.verify().clean


def _age(service: PlaybookService, seconds: float) -> None:
    """As if the cache's clock had gone on."""
    parts = vars(service.script_manager)
    for name in ("resolver", "downloads"):
        parts.pop(name, None)
    parts["cache"] = ScriptCache(
        service.settings, service.journal, clock=lambda: time.time() + seconds
    )


def test_checksums_are_those_of_the_published_bytes(service, published):
    found = service.locate_script(ID, "shell")
    assert {file.path: file.checksum for file in found.listing.files} == {
        path: sha256_bytes(body) for path, body in FILES.items()
    }
