from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.rag import MemoryVectors, WordEmbedder, document, metadata

from core.errors import IndexCorrupt, KeyUnavailable
from core.models import FileEntry, OutcomeState, Ref
from core.rag.edge import EdgeCollection
from core.rag.index import PlaybookIndex
from core.rag.points import SEALED_FIELD, IndexDocument
from core.rag.search import SearchFilters

NewIndex = Callable[..., PlaybookIndex]


def seal(ref: Ref, content: bytes) -> str:
    if ref.playbook_id == "unsealable":
        raise KeyUnavailable("There is no key.", "Make one.")
    return f"sealed:{ref}:{len(content)}"


@pytest.fixture
def new_index(tmp_path: Path, embedder: WordEmbedder, vectors: MemoryVectors) -> Iterator[NewIndex]:
    made: list[PlaybookIndex] = []

    def make(model: WordEmbedder = embedder, **options: Any) -> PlaybookIndex:
        index = PlaybookIndex(
            open_collection=lambda: EdgeCollection.open(
                tmp_path / "user_playbooks",
                model=model.model_name,
                fingerprint=model.fingerprint,
                wait_seconds=0.1,
            ),
            embedder=model,
            vectors=vectors,
            seal=seal,
            **options,
        )
        made.append(index)
        return index

    yield make
    for index in made:
        index.close()


@pytest.fixture
def index(new_index: NewIndex) -> PlaybookIndex:
    return new_index()


def found(index: PlaybookIndex, query: str, **filters: Any) -> list[tuple[str, str]]:
    answers = index.search(query, SearchFilters.parse(filters))
    return [(answer.playbook_id, answer.version) for answer in answers]


def test_what_is_indexed_is_found(index: PlaybookIndex) -> None:
    outcomes = index.index([document("stop-idle-instances"), document("rotate-access-keys")])
    assert {outcome.state for outcome in outcomes.values()} == {OutcomeState.DONE}
    assert found(index, "idle instances")[0] == ("stop-idle-instances", "1.0.0")


def test_no_text_is_embedded_twice(index: PlaybookIndex, embedder: WordEmbedder) -> None:
    docs = [document(f"playbook-{n}") for n in range(100)]
    index.index(docs)
    assert len(embedder.encoded) == 100
    index.index(docs)
    index.index([document("playbook-1", status="archived")])
    index.index([document("playbook-2", "9.0.0")])
    assert len(embedder.encoded) == 100


def test_another_model_embeds_again_and_rebuilds(
    new_index: NewIndex, embedder: WordEmbedder
) -> None:
    first = new_index()
    first.index([document("a")])
    first.mark_rebuilt()
    assert not first.needs_rebuild
    first.close()
    other = WordEmbedder("sha256:" + "b" * 64)
    second = new_index(other)
    assert second.needs_rebuild
    assert second.entries() == {}
    second.index([document("a")])
    assert len(other.encoded) == 1


def test_one_bad_document_does_not_hold_back_its_batch(index: PlaybookIndex) -> None:
    outcomes = index.index([document("a"), document("unsealable"), document("b")])
    assert outcomes[Ref("unsealable", "1.0.0")].state is OutcomeState.FAILED
    assert outcomes[Ref("unsealable", "1.0.0")].error_type == "KeyUnavailable"
    assert set(index.entries()) == {Ref("a", "1.0.0"), Ref("b", "1.0.0")}


def test_private_documents_stay_out_when_told(new_index: NewIndex) -> None:
    index = new_index(allow_private=False)
    public = IndexDocument(metadata("public"), "d", private=False)
    outcomes = index.index([document("private"), public])
    assert outcomes[Ref("private", "1.0.0")].state is OutcomeState.SKIPPED
    assert set(index.entries()) == {Ref("public", "1.0.0")}
    index.index([IndexDocument(metadata("public"), "d", private=True)])  # it became sensitive
    assert index.entries() == {}


def test_a_status_change_needs_no_model(index: PlaybookIndex, embedder: WordEmbedder) -> None:
    index.index([document("open-ports")])
    ref = Ref("open-ports", "1.0.0")
    embedder.encoded.clear()
    assert index.update_payload({ref: {"status": "archived"}, Ref("no", "1.0.0"): {}}) == {ref}
    assert found(index, "open ports") == []
    assert found(index, "open ports", status="archived") == [("open-ports", "1.0.0")]
    index.update_payload({ref: {"status": "ready", "health": "broken"}})
    assert found(index, "open ports") == []
    assert embedder.encoded == []
    with pytest.raises(ValueError, match="whole document"):
        index.update_payload({ref: {"name": "other"}})


def test_the_highest_visible_version_answers(index: PlaybookIndex) -> None:
    index.index(
        [
            document("a", "1.0.0", description="Close the port."),
            document("a", "1.1.0", description="Close the port."),
            document("a", "2.0.0", description="Close the port.", status="draft"),
        ]
    )
    assert found(index, "close port") == [("a", "1.1.0")]
    assert found(index, "close port", status="draft") == [("a", "2.0.0")]
    index.remove([Ref("a", "1.1.0")])
    assert found(index, "close port") == [("a", "1.0.0")]


def test_many_versions_of_one_playbook_crowd_nobody_out(index: PlaybookIndex) -> None:
    crowd = [document("crowd", f"1.0.{n}", name="open port audit") for n in range(150)]
    others = [document(f"other-{n}", name="open doors") for n in range(5)]
    index.index(crowd + others)
    ids = [playbook_id for playbook_id, _ in found(index, "open port audit")]
    assert ids[0] == "crowd"
    assert len(ids) == len(set(ids)) == 6


def test_filters_choose(index: PlaybookIndex) -> None:
    index.index(
        [
            document("a", cloud_provider=["gcp"], resource_types=["compute::firewall"]),
            document("b", cloud_provider=["aws", "azure"], author="ai_generated"),
        ]
    )
    assert {pair[0] for pair in found(index, "about", cloud_provider=["azure", "gcp"])} == {
        "a",
        "b",
    }
    assert found(index, "about", resource_types="compute::firewall") == [("a", "1.0.0")]
    assert found(index, "about", author="ai_generated") == [("b", "1.0.0")]
    assert found(index, "about", cloud_provider="aws", author="user_custom") == []


def test_no_clear_text_of_a_script_is_in_the_collection(
    tmp_path: Path, index: PlaybookIndex
) -> None:
    from core.rag.points import ScriptText

    script = ScriptText.of(FileEntry("shell/a.sh", 13, "sha256:c"), b"SECRET-MARKER")
    index.index([IndexDocument(metadata("a", purpose="PURPOSE-MARKER"), "d", scripts=[script])])
    with index._use() as collection:
        [(_, payload)] = collection.scroll([SEALED_FIELD])
    assert payload[SEALED_FIELD].startswith("sealed:a@1.0.0")
    index.close()
    stored = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"about a" in stored.lower()
    assert b"SECRET-MARKER" not in stored
    assert b"PURPOSE-MARKER" not in stored


def test_a_corrupt_collection_begins_anew_at_the_next_call(index: PlaybookIndex) -> None:
    index.index([document("a")])
    index.mark_rebuilt()
    with index._use() as collection:
        collection._shard.close()  # type: ignore[attr-defined]  # what a panic leaves behind
    with pytest.raises(IndexCorrupt):
        index.entries()
    assert index.needs_rebuild
    index.index([document("a")])
    assert found(index, "about a") == [("a", "1.0.0")]


def test_drop_and_close_are_repeatable(index: PlaybookIndex) -> None:
    index.index([document("a")])
    index.drop()
    assert index.entries() == {}
    index.close()
    index.close()
    assert index.entries() == {}


def test_searching_while_writing(index: PlaybookIndex) -> None:
    index.index([document("open-port")])
    done = threading.Event()
    errors: list[BaseException] = []

    def write() -> None:
        try:
            for n in itertools.count():
                index.index([document(f"playbook-{n % 20}", updated_at=n)])
                if done.is_set():
                    return
        except BaseException as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(20):
        assert found(index, "open port")[0] == ("open-port", "1.0.0")
    done.set()
    writer.join(30)
    assert errors == []
    assert json.dumps(sorted(map(str, index.entries())))
