"""The main job on some three thousand real playbooks."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.server_side import assert_server_equals_disk
from support.service import ServiceUnderTest

PLAYBOOKS = 2998


@pytest.mark.corpus
@pytest.mark.timeout(900)
def test_the_corpus_goes_in_is_published_once_and_found(
    service: ServiceUnderTest, corpus: Path
) -> None:
    report = service.json("import", str(corpus), timeout=600)
    assert (report["imported"], report["failed"]) == (PLAYBOOKS, [])

    job = service.json("publish", "--all", "--as", "review", "--wait", timeout=600)
    assert (job["state"], job["succeeded"]) == ("succeeded", PLAYBOOKS)
    assert_server_equals_disk(service, PLAYBOOKS)

    before = service.server_stats()
    assert before["revisions"] == before["versions"] == PLAYBOOKS
    assert service.json("publish", "--all", "--as", "review", "--wait")["total"] == 0
    after = service.server_stats()
    assert after["revisions"] == before["revisions"]
    assert after["bytes_received"] == before["bytes_received"]

    question = "who opened port 22 to the world"
    running = service.json("search", question)
    assert not running.get("degraded")
    assert any(
        "22" in hit["description"] or "ssh" in hit["name"].lower() for hit in running["results"][:3]
    )
    assert service.json("verify")["clean"]
    service.down()
    alone = service.json("search", question)
    assert [hit["playbook_id"] for hit in alone["results"]] == [
        hit["playbook_id"] for hit in running["results"]
    ]
