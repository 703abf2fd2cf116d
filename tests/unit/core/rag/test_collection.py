"""One suite for every engine: embedded, qdrant-client's local mode, and, when
ESCHER_TEST_QDRANT_URL names one, a real server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.rag import make_point

from core.rag.edge import EdgeCollection
from core.rag.points import Collection, Conditions
from core.rag.qdrant import RemoteCollection, Scope, connect

MODEL = "sha256:" + "a" * 64
SERVER = os.environ.get("ESCHER_TEST_QDRANT_URL")
ENGINES = [
    "edge",
    "local",
    pytest.param("server", marks=pytest.mark.skipif(not SERVER, reason="no Qdrant server named")),
]
Open = Callable[..., Collection]


@pytest.fixture(params=ENGINES)
def open_collection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same collection each time; the caller closes it before opening it again."""
    name = f"test_{uuid.uuid4().hex}"

    def open_it(fingerprint: str = MODEL, home: str = "home-1") -> Collection:
        if request.param == "edge":
            return EdgeCollection.open(
                tmp_path / home, model="m", fingerprint=fingerprint, wait_seconds=0.1
            )
        scope = Scope("tenant", home, fingerprint)
        if request.param == "local":
            from qdrant_client import QdrantClient

            client = QdrantClient(path=str(tmp_path / "qdrant"))
            return RemoteCollection.open(client, scope, name, payload_indexes=False)
        assert SERVER
        return RemoteCollection.open(connect(SERVER), scope, name)

    yield open_it
    if request.param == "server":
        assert SERVER
        connect(SERVER).delete_collection(name)


@pytest.fixture
def collection(open_collection: Open) -> Iterator[Collection]:
    opened = open_collection()
    yield opened
    opened.close()


def test_points_are_there_after_a_close(open_collection: Open) -> None:
    first = open_collection()
    points = [make_point(n) for n in range(150)]
    first.upsert(points)
    first.close()
    second = open_collection()
    assert second.count() == 150
    assert {id_ for id_, _ in second.scroll([])} == {point.id for point in points}
    second.close()


def test_an_upsert_replaces(collection: Collection) -> None:
    collection.upsert([make_point(1, name="old", author="x")])
    collection.upsert([make_point(1, name="new")])
    id_ = make_point(1).id
    assert collection.count() == 1
    assert collection.fetch([id_], ["name", "author"]) == {id_: {"name": "new"}}


def test_search_finds_the_nearest_first(collection: Collection) -> None:
    collection.upsert([make_point(n) for n in range(100)])
    hits = collection.search(make_point(42).vector, Conditions(), 5, fields=["playbook_id"])
    assert len(hits) == 5
    assert hits[0].payload == {"playbook_id": "playbook-42"}
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_terms_prefer_the_rare_word(collection: Collection) -> None:
    collection.upsert([make_point(n) for n in range(20)])
    terms = make_point(11).terms
    hits = collection.search_terms(terms, Conditions(), 20, fields=["playbook_id"])
    assert hits[0].payload["playbook_id"] == "playbook-11"
    assert collection.search_terms(type(terms)([], []), Conditions(), 5, fields=[]) == []


def test_conditions_look_into_lists_and_exclude(collection: Collection) -> None:
    collection.upsert(
        [
            make_point(1, cloud_provider=["aws", "gcp"], health="ok"),
            make_point(2, cloud_provider=["azure"], health="ok"),
            make_point(3, cloud_provider=["gcp"], health="broken"),
        ]
    )
    conditions = Conditions({"cloud_provider": ["gcp", "azure"]}, {"health": ["broken"]})
    hits = collection.search(make_point(9).vector, conditions, 10, fields=["playbook_id"])
    assert {hit.payload["playbook_id"] for hit in hits} == {"playbook-1", "playbook-2"}
    scrolled = collection.scroll(["playbook_id"], Conditions({"cloud_provider": ["gcp"]}))
    assert {payload["playbook_id"] for _, payload in scrolled} == {"playbook-1", "playbook-3"}


def test_set_payload_changes_fields_only(collection: Collection) -> None:
    collection.upsert([make_point(1, name="kept"), make_point(2)])
    one, gone = make_point(1).id, make_point(77).id
    assert collection.set_payload({one: {"status": "archived"}, gone: {"status": "x"}}) == {one}
    assert collection.count() == 2
    assert collection.fetch([one], ["name", "status"]) == {
        one: {"name": "kept", "status": "archived"}
    }
    hits = collection.search(make_point(1).vector, Conditions(), 1, fields=["status"])
    assert hits[0].payload == {"status": "archived"}


def test_delete_twice_is_harmless(collection: Collection) -> None:
    collection.upsert([make_point(1), make_point(2)])
    for _ in range(2):
        collection.delete([make_point(1).id])
    collection.delete([])
    assert [id_ for id_, _ in collection.scroll([])] == [make_point(2).id]


def test_payloads_come_back_as_they_went_in(collection: Collection) -> None:
    payload = {"keywords": ["é", "日本"], "last_executed": None, "based_on_escher": True, "n": 0}
    collection.upsert([make_point(1, **payload)])
    assert collection.fetch([make_point(1).id], list(payload)) == {make_point(1).id: payload}


def test_a_new_collection_needs_a_rebuild_until_marked(open_collection: Open) -> None:
    first = open_collection()
    assert first.needs_rebuild
    first.upsert([make_point(1)])
    first.mark_rebuilt()
    assert not first.needs_rebuild
    first.close()
    second = open_collection()
    assert not second.needs_rebuild
    second.close()


def test_another_model_never_meets_these_vectors(open_collection: Open) -> None:
    first = open_collection()
    first.upsert([make_point(1)])
    first.mark_rebuilt()
    first.close()
    second = open_collection(fingerprint="sha256:" + "b" * 64)
    assert second.needs_rebuild
    assert second.count() == 0
    assert second.search(make_point(1).vector, Conditions(), 5, fields=[]) == []
    assert second.fetch([make_point(1).id], []) == {}
    second.upsert([make_point(1)])
    second.mark_rebuilt()
    assert second.count() == 1
    second.close()


def test_homes_do_not_see_each_other(open_collection: Open) -> None:
    first = open_collection(home="home-1")
    first.upsert([make_point(1)])
    ids = {first.point_id("a", "1.0.0")}
    first.close()
    second = open_collection(home="home-2")
    assert second.count() == 0
    assert list(second.scroll([])) == []
    assert second.search(make_point(1).vector, Conditions(), 5, fields=[]) == []
    ids.add(second.point_id("a", "1.0.0"))
    assert len(ids) == (1 if isinstance(second, EdgeCollection) else 2)
    second.drop()
    third = open_collection(home="home-1")
    assert third.count() == 1
    third.close()


def test_drop_leaves_nothing(open_collection: Open) -> None:
    first = open_collection()
    first.upsert([make_point(1)])
    first.mark_rebuilt()
    first.drop()
    second = open_collection()
    assert second.count() == 0
    assert second.needs_rebuild
    second.close()


def test_close_is_repeatable(open_collection: Open) -> None:
    opened = open_collection()
    opened.upsert([make_point(1)])
    opened.close()
    opened.close()
