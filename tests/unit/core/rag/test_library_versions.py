"""Escher Library playbooks that were used: found offline, and never the user's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.playbooks import draft
from support.rag import metadata
from support.script_cache import index, unindex

from core.errors import NotFound
from core.files import sha256_bytes
from core.models import DONE, METADATA_FILE, FileEntry, OutcomeState, Ref
from core.service import PlaybookService

REF, OLDER = Ref("escher-stop-idle-databases", "1.2.0"), Ref("escher-stop-idle-databases", "1.0.0")
QUERY = "idle databases"
SCRIPT = b"echo CANARY-LIBRARY\n"


@pytest.fixture
def service(open_home: Callable[[], PlaybookService]) -> PlaybookService:
    return open_home()


def keep(service: PlaybookService, ref: Ref = REF, **fields: Any) -> Ref:
    """What a download of one of its scripts leaves."""
    body = {"status": "approved", "author": "user_custom", **fields}
    service.script_manager.library.put(ref, json.dumps(metadata(*ref, **body)).encode())
    return ref


def cache(service: PlaybookService, ref: Ref = REF) -> None:
    folder = service.cache.layout.scripts / f"{ref.playbook_id}-v{ref.version}" / "shell"
    folder.mkdir(parents=True)
    (folder / "run.sh").write_bytes(SCRIPT)
    entry = FileEntry("shell/run.sh", len(SCRIPT), sha256_bytes(SCRIPT))
    index(service.journal, ref, entry)


def found(service: PlaybookService, query: str = QUERY, **filters: Any) -> list[Ref]:
    results = service.search_local_playbooks(query, filters)
    return [Ref(result.playbook_id, result.version) for result in results]


def by_words(service: PlaybookService, query: str = QUERY) -> list[Ref]:
    answer = service.indexing.search_by_keywords(query, {})
    return [Ref(result.playbook_id, result.version) for result in answer.results]


def point(service: PlaybookService, ref: Ref = REF) -> dict[str, Any]:
    return dict(service.indexing._index.entries()[ref])


class TestSearch:
    def test_it_is_found_by_meaning_and_by_words(self, service):
        assert found(service) == by_words(service) == []
        keep(service)
        assert found(service) == by_words(service) == [REF]
        assert found(service, author="escher_library") == [REF]
        assert found(service, author="user_custom") == []
        stored = point(service)
        assert stored["storage_strategy"] == "using_default"
        assert (stored["author"], stored["status"]) == ("escher_library", "approved")
        assert service.verify().clean

    def test_the_highest_used_version_that_may_be_seen(self, service):
        keep(service, OLDER)
        keep(service, REF, status="archived")
        assert found(service) == by_words(service) == [OLDER]
        keep(service, REF, status="deprecated")
        assert found(service) == by_words(service) == [REF]

    def test_another_process_finds_it_after_the_journal_was_lost(self, service, open_home):
        keep(service)
        assert found(service) == [REF]
        service.close()
        for path in service.settings.home.glob("journal.db*"):
            path.unlink()
        assert found(open_home()) == [REF]

    def test_its_cached_scripts_are_in_the_point_while_they_are_cached(self, service):
        sealed: list[bytes] = []
        seal = service.indexing._seal

        def spy(ref: Ref, content: bytes) -> str:
            sealed.append(content)
            return seal(ref, content)

        service.indexing._seal = spy
        keep(service)
        assert found(service) == [REF]
        assert json.loads(sealed[-1])["scripts"] == []
        cache(service)
        assert found(service) == [REF]
        [script] = json.loads(sealed[-1])["scripts"]
        assert (script["path"], script["text"]) == ("shell/run.sh", SCRIPT.decode())
        unindex(service.journal, REF)
        assert found(service) == [REF]
        assert json.loads(sealed[-1])["scripts"] == []
        assert service.indexing.sources.pending_of_library() == []


class TestNoneOfTheUsers:
    """It is in the collection and nowhere else."""

    def test_it_is_none_of_the_users_playbooks(self, service):
        keep(service)
        own = service.create_playbook(draft("Stop idle databases"))
        assert [item.playbook_id for item in service.list_playbooks()] == [own]
        assert service.journal.versions.counts()["versions"] == 1
        assert service.status()["journal"]["versions"] == 1
        for refused in (
            lambda: service.request_publish([REF.playbook_id], None),
            lambda: service.delete(str(REF)),
            lambda: service.catalog.show(str(REF)),
            lambda: service.update(REF.playbook_id, draft("Mine")),
        ):
            with pytest.raises(NotFound):
                refused()
        plan = service.sync.difference()
        assert (plan.publish, plan.delete) == ([], [])
        assert REF in plan.embed
        assert service.verify().checked == 1

    def test_reindexing_brings_it_back(self, service):
        keep(service)
        found(service)
        service.indexing.drop()
        assert service.indexing.sources.unindexed(missing_only=True) == [REF]
        answer = service.indexing.search(QUERY, {})
        assert answer.degraded, "the collection lacks it still"
        assert found(service) == [REF]
        assert not service.indexing.search(QUERY, {}).degraded
        assert service.verify().clean

    def test_remove_from_rag_and_back(self, service):
        keep(service)
        found(service)
        service.remove_from_rag(REF.playbook_id)
        assert service.indexing.search(QUERY, {}).results == []
        assert service.add_to_rag(REF) == DONE
        assert found(service) == [REF]


class TestGoing:
    def test_with_the_metadata_its_point_goes(self, service):
        keep(service)
        assert found(service) == [REF]
        service.script_manager.library.forget([REF])
        assert service.indexing.search(QUERY, {}).results == []
        assert by_words(service) == []
        assert service.verify().clean
        keep(service)
        assert found(service) == [REF], "used again"

    def test_a_folder_that_was_removed_is_noticed_by_the_sync(self, service):
        keep(service)
        assert found(service) == [REF]
        [path] = (service.settings.cache_path / "library").rglob(METADATA_FILE)
        path.write_bytes(path.read_bytes().replace(b"approved", b"rejected"))
        [problem] = service.verify().problems
        assert problem.ref == str(REF)
        service.sync_all_metadata()
        assert service.indexing.search(QUERY, {}).results == []
        assert service.verify().clean

    def test_clearing_the_cache_lets_go_of_it(self, service, monkeypatch):
        keep(service)
        found(service)
        monkeypatch.setattr(service.script_manager.library, "_lease_seconds", 0)
        service.script_manager.clear_cache()
        assert found(service) == by_words(service) == []
        assert service.verify().clean

    def test_metadata_that_goes_before_it_is_indexed_holds_nothing_up(self, service):
        keep(service)
        own = service.create_playbook(draft("Stop idle databases"))
        for path in (service.settings.cache_path / "library").rglob(METADATA_FILE):
            path.unlink()
        outcomes = service.index_refs([REF, Ref(own, "1.0.0")])
        assert [outcome.state for outcome in outcomes.values()] == [
            OutcomeState.FAILED,
            OutcomeState.DONE,
        ]
        assert [ref.playbook_id for ref in found(service)] == [own]
        assert not service.indexing.search(QUERY, {}).degraded


class TestExecutions:
    def test_a_run_counts_and_three_failures_hide_it(self, service):
        keep(service)
        found(service)
        report = service.executions.report(REF, success=True)
        assert report.recorded.totals.execution_count == 1
        [result] = service.indexing.search(QUERY, {}).results
        assert (result.execution_count, result.success_count) == (1, 1), "before its point has it"
        assert service.indexing.sources.pending_of_library() == [REF]
        assert found(service) == [REF]
        assert point(service)["execution_count"] == 1

        for _ in range(3):
            report = service.executions.report(REF, success=False)
        assert report.health_changed
        assert service.indexing.search(QUERY, {}).results == [], "at once"
        assert found(service) == by_words(service) == []
        assert point(service)["health"] == "broken"
        service.executions.report(REF, success=True)
        assert found(service) == [REF]
        assert service.verify().clean

    def test_an_unused_one_can_not_have_run(self, service):
        with pytest.raises(NotFound):
            service.executions.report(REF, success=True)
