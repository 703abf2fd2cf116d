from __future__ import annotations

from typing import Any

import pytest
from support.rag import metadata

from core.errors import UsageError
from core.models import Status
from core.rag.points import Hit, words
from core.rag.search import (
    SearchFilters,
    check_request,
    fuse,
    highest_versions,
    keyword_search,
    results,
    warning_for,
)

SHOWN = {"active", "approved", "ready"}
WARNED = {"deprecated", "needs_update", "pending_review"}
HIDDEN = {"draft", "archived", "rejected", "broken"}


def test_every_status_has_its_visibility() -> None:
    assert {status.value for status in Status} == SHOWN | WARNED | HIDDEN
    for status in Status:
        payload = metadata("a", status=status.value)
        assert SearchFilters().admit(payload) == (status.value not in HIDDEN), status
        assert (warning_for(payload) is None) == (status.value in SHOWN), status


def test_broken_health_hides_unless_asked_for() -> None:
    payload = metadata("a") | {"health": "broken"}
    assert not SearchFilters().admit(payload)
    assert not SearchFilters(status=("ready",)).admit(payload)
    assert warning_for(payload)


@pytest.mark.parametrize("status", sorted(HIDDEN))
def test_a_status_that_is_asked_for_is_shown(status: str) -> None:
    filters = SearchFilters.parse({"status": status})
    assert filters.admit(metadata("a", status=status))
    assert not filters.admit(metadata("a", status="ready"))


def test_a_deprecated_playbook_names_its_successor() -> None:
    payload = metadata("a", status="deprecated", deprecated_by="b")
    assert warning_for(payload) == "deprecated, use b"


@pytest.mark.parametrize(
    "raw",
    [
        {"cloud": "aws"},
        {"cloud_provider": "ibm"},
        {"status": ["ready", "nope"]},
        {"author": 3},
        {"resource_types": [1]},
    ],
)
def test_a_wrong_filter_is_named(raw: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="filter"):
        SearchFilters.parse(raw)


def test_filters_take_one_value_several_or_none() -> None:
    parsed = SearchFilters.parse({"cloud_provider": "aws", "author": None, "status": ["ready"]})
    assert parsed == SearchFilters(cloud_provider=("aws",), status=("ready",))
    assert SearchFilters.parse(None) == SearchFilters()


@pytest.mark.parametrize(("query", "limit"), [("", 10), ("  ", 10), ("x", 0), ("x", 101)])
def test_a_wrong_request_is_refused(query: str, limit: int) -> None:
    with pytest.raises(UsageError):
        check_request(query, limit)


def hit(id_: str, score: float, version: str = "1.0.0", status: str = "ready") -> Hit:
    return Hit(f"{id_}@{version}", score, metadata(id_, version, status=status))


def test_shared_words_lift_a_near_tie() -> None:
    fused = fuse([hit("a", 0.50), hit("b", 0.49), hit("c", 0.2)], [hit("b", 9.0), hit("d", 4.5)])
    assert [item.payload["playbook_id"] for item in fused] == ["b", "a", "d", "c"]
    assert all(0 <= item.score <= 1 for item in fused)


def test_fusing_nothing_is_nothing() -> None:
    assert fuse([], []) == []
    assert len(fuse([], [hit("a", 3.0)])) == 1


def test_a_warning_ranks_lower_among_equals() -> None:
    hits = [hit("a", 0.9, status="deprecated"), hit("b", 0.9)]
    found = results(hits, highest_versions(item.payload for item in hits))
    assert [(item.playbook_id, bool(item.warning)) for item in found] == [
        ("b", False),
        ("a", True),
    ]


def test_only_the_highest_version_is_an_answer() -> None:
    hits = [hit("a", 0.9, "1.9.0"), hit("a", 0.5, "1.10.0"), hit("a", 0.8, "1.10.0-rc.1")]
    found = results(hits, highest_versions(item.payload for item in hits))
    assert [(item.version, item.score) for item in found] == [("1.10.0", 0.5)]


def test_keywords_find_without_a_model() -> None:
    metadatas = [
        metadata("stop-idle-instances", description="Stops idle EC2 instances."),
        metadata("rotate-keys", description="Rotates access keys.", resource_types=[]),
        metadata("audit-buckets", description="Finds public buckets.", status="archived"),
    ]
    found = keyword_search("stop an idle instance", metadatas, 5)
    assert [item.playbook_id for item in found] == ["stop-idle-instances"]
    assert found[0].score == pytest.approx(1.0)
    assert keyword_search("public bucket", metadatas) == []
    asked = SearchFilters(status=("archived",))
    assert keyword_search("public bucket", metadatas, filters=asked)[0].warning == "archived"


def test_keywords_answer_with_the_highest_visible_version() -> None:
    metadatas = [
        metadata("a", "1.0.0", description="Close the port."),
        metadata("a", "1.1.0", description="Close the port."),
        metadata("a", "2.0.0", description="Close the port.", status="draft"),
    ]
    assert [item.version for item in keyword_search("port", metadatas)] == ["1.1.0"]


def test_keywords_filter_and_do_not_fail_on_nothing() -> None:
    assert keyword_search("anything", []) == []
    metadatas = [metadata("a", name="open port", cloud_provider=["gcp"])]
    assert keyword_search("port", metadatas, filters=SearchFilters(cloud_provider=("aws",))) == []
    assert words("The Buckets' access, S3!") == ["bucket", "access", "s3"]
