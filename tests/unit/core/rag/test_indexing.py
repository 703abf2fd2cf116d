from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.rag import WordEmbedder, metadata

from core.errors import IndexBusy, ModelUnavailable, StorageError
from core.journal import Journal, VersionRecord
from core.models import DONE, Area, FileEntry, OutcomeState, Ref
from core.rag.indexing import Indexing
from core.scripts.library import LibraryCache
from core.settings import Settings

SCRIPT = b"echo CANARY\n"
A, B = Ref("stop-idle-databases", "1.0.0"), Ref("rotate-access-keys", "1.0.0")


class Contents:
    """The store's side: every version has the same script, unless its file is broken."""

    def __init__(self) -> None:
        self.broken: set[Ref] = set()
        self.read: list[Ref] = []

    def published_files(self, ref: Ref) -> dict[str, bytes]:
        self.read.append(ref)
        if ref in self.broken:
            raise StorageError(f"{ref} can't be read.", "Restore it.")
        return {"shell/run.sh": SCRIPT}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def journal(settings: Settings) -> Iterator[Journal]:
    settings.home.mkdir()
    opened = Journal(settings.effective_journal_url)
    yield opened
    opened.close()


@pytest.fixture
def contents() -> Contents:
    return Contents()


@pytest.fixture
def embedder() -> WordEmbedder:
    return WordEmbedder()


@pytest.fixture
def library(settings: Settings, journal: Journal) -> LibraryCache:
    return LibraryCache(settings, journal, lambda: pytest.fail("nobody is asked"))


NewIndexing = Callable[..., Indexing]


@pytest.fixture
def new_indexing(
    settings: Settings,
    journal: Journal,
    contents: Contents,
    embedder: WordEmbedder,
    library: LibraryCache,
) -> Iterator[NewIndexing]:
    """Another process' view of the home; close one before the next writes."""
    made: list[Indexing] = []

    def make(model: Any = embedder, **changes: Any) -> Indexing:
        home = settings.model_copy(update=changes)
        seal = lambda ref, _: f"sealed {ref}"  # noqa: E731  nobody reads it
        indexing = Indexing(home, journal, contents, seal, library, embedder=model)
        made.append(indexing)
        return indexing

    yield make
    for indexing in made:
        indexing.close()


@pytest.fixture
def indexing(new_indexing: NewIndexing) -> Indexing:
    return new_indexing()


@pytest.fixture
def store(journal: Journal) -> Callable[..., Ref]:
    def put(ref: Ref, area: Area = Area.LOCAL, **fields: Any) -> Ref:
        digest = fields.pop("content_digest", "sha256:" + "a" * 64)
        record = VersionRecord(ref, area, digest, metadata(*ref, **fields))
        entry = FileEntry("shell/run.sh", len(SCRIPT), "sha256:" + "b" * 64)
        with journal.database.write() as connection:
            journal.versions.put([(record, (entry,))], connection)
        return ref

    put(A)
    put(B)
    return put


def _delete(journal: Journal, *refs: Ref) -> None:
    with journal.database.write() as connection:
        journal.versions.delete(refs, connection)


def _found(indexing: Indexing, query: str, **filters: Any) -> list[str]:
    answer = indexing.search(query, filters, 10)
    assert not answer.degraded
    return [result.playbook_id for result in answer.results]


def test_what_is_stored_is_found_until_it_is_deleted(indexing, journal, store):
    assert indexing.index([A, B]) == {A: DONE, B: DONE}
    assert _found(indexing, "idle databases")[0] == A.playbook_id
    assert journal.versions.unindexed() == []
    assert indexing.verify() == []

    _delete(journal, A)
    assert A.playbook_id not in _found(indexing, "idle databases"), "the search itself tidies"
    assert journal.stale_points.refs() == []
    assert indexing.verify() == []


def test_what_came_back_keeps_its_point(indexing, journal, store):
    indexing.index([A, B])
    _delete(journal, A)
    store(A)
    indexing.index([A])
    indexing.tidy()
    assert _found(indexing, "idle databases")[0] == A.playbook_id
    assert journal.stale_points.refs() == []


def test_twice_is_once(indexing, journal, contents, embedder, store):
    indexing.index([A, B])
    contents.read.clear()
    assert indexing.index([A, B]) == {A: DONE, B: DONE}
    assert (contents.read, len(embedder.encoded)) == ([], 2), "nothing is read, nothing is embedded"

    journal.versions.set(A, health="broken")
    assert journal.versions.unindexed() == [A]
    indexing.index([A, B])
    assert (contents.read, len(embedder.encoded)) == ([A], 2)
    assert A.playbook_id not in _found(indexing, "idle databases"), "broken is hidden"


def test_a_version_that_was_only_executed_gets_its_counts_alone(indexing, journal, contents, store):
    indexing.index([A, B])
    contents.read.clear()
    journal.versions.set(A, execution_count=3, success_count=2)
    assert journal.versions.unindexed() == [A]
    assert indexing.index([A]) == {A: DONE}
    assert contents.read == [], "its scripts are not read again"
    assert journal.versions.unindexed() == []
    [found] = [
        r for r in indexing.search("idle databases", {}, 10).results if r.playbook_id == A[0]
    ]
    assert (found.execution_count, found.success_count) == (3, 2)


def test_each_version_has_its_outcome(indexing, journal, contents, store):
    contents.broken.add(A)
    gone = Ref("gone", "1.0.0")
    outcomes = indexing.index([A, gone, B])
    assert outcomes[B] == DONE
    assert outcomes[gone].state is OutcomeState.SKIPPED
    assert (outcomes[A].state, outcomes[A].error_type) == (OutcomeState.FAILED, "StorageError")
    assert journal.versions.unindexed() == [A]


def test_no_script_is_in_the_clear_on_the_disk(indexing, settings, store):
    indexing.index([A, B])
    indexing.close()
    for path in settings.collection_path.rglob("*"):
        assert path.is_dir() or b"CANARY" not in path.read_bytes()


def test_points_taken_out_are_to_be_written_again(indexing, journal, store):
    indexing.index([A, B])
    indexing.remove([A])
    assert journal.versions.unindexed() == [A]
    assert indexing.index([A])[A] == DONE
    assert _found(indexing, "idle databases")[0] == A.playbook_id


class TestACollectionThatBeginsAnew:
    @pytest.fixture(autouse=True)
    def indexed(self, new_indexing, store) -> None:
        first = new_indexing()
        first.index([A, B])
        first.close()

    def _damage(self, settings: Settings) -> None:
        for path in settings.collection_path.rglob("*"):
            if path.is_file():
                path.write_bytes(b"\xff" * 100)

    def test_when_it_is_damaged_is_filled_again(self, new_indexing, settings, journal):
        self._damage(settings)
        again = new_indexing()
        again.index([])
        assert sorted(journal.versions.unindexed()) == [B, A], "the journal forgot its points"
        again.index([A, B])
        assert _found(again, "idle databases")[0] == A.playbook_id
        assert again.verify() == []

    def test_answers_by_words_and_says_so_until_it_is_whole(self, new_indexing, settings):
        self._damage(settings)
        again = new_indexing()
        answer = again.search("idle databases", {}, 10)
        assert answer.degraded
        assert answer.results[0].playbook_id == A.playbook_id
        again.index([B])
        assert again.search("idle databases", {}, 10).degraded, "half of it is no answer"
        again.index([A])
        assert not again.search("idle databases", {}, 10).degraded

    def test_when_it_was_dropped(self, new_indexing, journal):
        again = new_indexing()
        again.drop()
        again.index([A])
        assert journal.versions.unindexed() == [B]


class TestOutOfReach:
    def test_without_a_model_words_answer(self, new_indexing, store):
        class NoModel(WordEmbedder):
            def encode_query(self, text: str) -> list[float]:
                raise ModelUnavailable("There is no model.", "Install it.")

        first = new_indexing()
        first.index([A, B])
        first.close()
        indexing = new_indexing(NoModel())
        answer = indexing.search("idle databases", {"cloud_provider": "aws"}, 10)
        assert answer.degraded
        assert [result.playbook_id for result in answer.results] == [A.playbook_id]
        assert indexing.search("idle databases", {"cloud_provider": "gcp"}, 10).results == []

    def test_while_another_process_has_it_words_answer_and_writing_waits(
        self, new_indexing, store, monkeypatch
    ):
        new_indexing().index([A, B])
        second = new_indexing()

        def busy(*_: object, **__: object) -> None:
            raise IndexBusy("It is open elsewhere.", "Wait.")

        monkeypatch.setattr("core.rag.edge.EdgeCollection.open", busy)
        assert second.search("idle databases", {}, 10).degraded
        assert [finding.path for finding in second.verify()] == ["qdrant"]
        with pytest.raises(IndexBusy):
            second.index([A])


class TestARemoteQdrant:
    @pytest.fixture(autouse=True)
    def qdrant(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        from qdrant_client import QdrantClient

        client = QdrantClient(":memory:")
        monkeypatch.setattr("core.rag.qdrant.connect", lambda *_: client)
        return client

    @pytest.fixture(autouse=True)
    def synced(self, store) -> Ref:
        store(Ref("sensitive", "1.0.0"), Area.SYNCED, sensitive=True)
        return store(Ref("synced", "1.0.0"), Area.SYNCED)

    def _names(self, client: Any) -> set[str]:
        return {
            point.payload["playbook_id"]
            for collection in client.get_collections().collections
            for point in client.scroll(collection.name, limit=100)[0]
        }

    @pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
    def test_beyond_loopback_gets_nothing_private(self, new_indexing, journal, qdrant, synced):
        indexing = new_indexing(qdrant_url="https://qdrant.example")
        refs = journal.versions.refs()
        assert indexing.index(refs) == dict.fromkeys(refs, DONE), "withheld is no failure"
        assert self._names(qdrant) == {"synced"}
        assert [r.ref for r in indexing.sources.all().values() if indexing.sources.wants(r)] == [
            synced
        ]
        assert indexing.verify() == []

    @pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
    @pytest.mark.parametrize(
        "changes",
        [
            {"qdrant_url": "http://127.0.0.1:6333"},
            {"qdrant_url": "http://localhost:6333"},
            {"qdrant_url": "https://qdrant.example", "index_private_remotely": True},
        ],
        ids=str,
    )
    def test_here_or_when_asked_for_gets_all(self, new_indexing, journal, qdrant, changes):
        new_indexing(**changes).index(journal.versions.refs())
        assert self._names(qdrant) == {ref.playbook_id for ref in journal.versions.refs()}


def test_vectors_that_were_made_are_handed_out_without_the_model(indexing, embedder, store):
    wanted = {A: metadata(*A), B: metadata(*B)}
    assert indexing.vectors_for(wanted) == {}
    indexing.index([A])
    embedder.encoded.clear()
    assert list(indexing.vectors_for(wanted)) == [A]
    assert embedder.encoded == []


def test_handing_out_vectors_loads_neither_model_nor_collection(
    settings, journal, contents, library
):
    real = Indexing(settings, journal, contents, lambda *_: "", library)
    before = "sentence_transformers" in sys.modules
    assert real.vectors_for({A: metadata(*A)}) == {}
    assert real.embedder._loaded is None
    assert not real.is_open
    assert ("sentence_transformers" in sys.modules) is before
