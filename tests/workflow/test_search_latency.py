"""A search does not wait behind batches (ADR 4)."""

from __future__ import annotations

import statistics
import time

from support.playbooks import draft
from support.service import MakeService, eventually

BACKLOG = 300
TEXT = "Find what nobody uses any more and say what it costs, then stop it when asked to. " * 8


def test_searches_are_answered_while_a_backlog_is_embedded(new_service: MakeService) -> None:
    service = new_service(real_model=True)
    service.up()
    question = {"query": "what costs money and is idle", "limit": 5}
    with service.api as api, service.service() as opened:
        opened.create(draft("Warm the model up"))
        eventually(
            lambda: not api.post("/v1/search", json=question).json().get("degraded"),
            120,
            "the model is loaded and the first playbook indexed",
        )
        for start in range(0, BACKLOG, 60):
            opened.store.create_many([
                draft(f"Backlog number {n}", description=f"{TEXT} {n}")
                for n in range(start, start + 60)
            ])  # fmt: skip
        assert api.post("/v1/jobs", json={"kind": "embed", "all": True}).status_code == 202
        waits = []
        while opened.journal.versions.unindexed():
            begin = time.monotonic()
            answer = api.post("/v1/search", json=question).json()
            waits.append(time.monotonic() - begin)
            assert not answer.get("degraded")
    # No timed assertion on a noisy machine: searches that waited for their turn behind every
    # batch, or for the whole backlog, would be answered only a few times.
    print(f"{len(waits)} searches, median {statistics.median(waits) * 1000:.0f} ms")
    assert len(waits) >= 10, waits
