from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


def search(server: Any, query: str, **filters: Any) -> list[dict[str, Any]]:
    body = {"tenant_id": "acme", "query": query, "filters": filters, "limit": 10}
    answer = server.member.post("/api/playbook/search", body)
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def ids(results: list[dict[str, Any]]) -> list[str]:
    return [result["playbook_id"] for result in results]


def test_by_words_without_a_model(server: Any) -> None:
    server.member.publish("stop-rds", name="Stop RDS", description="Stops databases.")
    server.member.publish(
        "rotate", name="Rotate keys", description="Rotates IAM keys.", keywords=[]
    )
    assert ids(search(server, "stop the database rds")) == ["stop-rds"]
    assert search(server, "zebra") == []


def test_status_decides_what_is_shown_and_where(server: Any) -> None:
    for name in ("approved", "pending", "rejected"):
        server.member.publish(f"p-{name}")
    server.reviewer.set_status("p-approved", "1.0.0", "approved")
    server.reviewer.set_status("p-rejected", "1.0.0", "rejected")
    first, second = search(server, "stop instances")
    assert (first["playbook_id"], first["warning"]) == ("p-approved", None)
    assert second["playbook_id"] == "p-pending"
    assert second["warning"]
    assert second["score"] < first["score"]


def test_filters_and_what_happened_since_the_last_search(server: Any) -> None:
    server.member.publish("on-aws")
    server.member.publish("on-gcp", cloud_provider=["gcp"], resource_types=["compute::instance"])
    assert ids(search(server, "stop", cloud_provider="gcp")) == ["on-gcp"]
    assert ids(search(server, "stop", resource_types=["ec2::instance"])) == ["on-aws"]
    server.member.delete("on-gcp", "1.0.0", 1)
    assert search(server, "stop", cloud_provider=["gcp"]) == []


def test_vectors_are_compared_by_cosine_and_only_those_of_the_same_model(
    start_server: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "library" / "escher-up" / "v1.0.0"
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text(
        json.dumps({"name": "up", "description": "up", "status": "active"})
    )

    def embed(texts: list[str]) -> list[list[float]]:
        return [[0.0, 2.0] if "up" in text else [2.0, 0.0] for text in texts]

    server = start_server(
        embed=embed, embedding_model="test-model", library_dir=tmp_path / "library"
    )
    files = {"shell/stop.sh": b"echo\n"}
    for playbook_id, vector, model in (
        ("near", [0.1, 1.0], "test-model"),
        ("far", [1.0, 0.1], "test-model"),
        ("foreign", [0.0, 1.0], "another-model"),
    ):
        server.member.upload(playbook_id, "1.0.0", files)
        metadata = server.member.metadata(playbook_id, "1.0.0")
        body = server.member.publish_body(metadata, files, vector=vector, embedding_model=model)
        assert server.member.send_publish(body).status_code == 200
        server.reviewer.set_status(playbook_id, "1.0.0", "approved")
    deadline = time.monotonic() + 10
    expected = ["escher-up", "near", "far"]
    while (found := ids(search(server, "up"))) != expected:  # the library is embedded aside
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
