from __future__ import annotations

from typing import Any


def test_the_counters_tell_what_happened_and_survive_a_restart(start_server: Any) -> None:
    server = start_server()
    files = {"shell/a.sh": b"12345", "shell/b.sh": b"12345", "shell/c.sh": b"123"}
    server.member.publish("one", files=files)
    server.member.publish("one", "1.1.0", files=files)
    server.reviewer.set_status("one", "1.1.0", "approved")  # deprecates 1.0.0, too
    stats = server.member.stats()
    assert {key: stats[key] for key in ("playbooks", "versions", "revisions", "objects")} == {
        "playbooks": 1,
        "versions": 2,
        "revisions": 4,
        "objects": 2,
    }
    assert stats["bytes_received"] == 13
    # 2 uploads, 3 PUTs, 2 publishes, 1 status, and the stats call itself
    assert stats["requests"] == 9
    again = start_server().member.stats()
    assert again["bytes_received"] == 13
    assert again["requests"] == 10


def test_health_needs_no_token(server: Any) -> None:
    assert server.http.get("/healthz").json() == {"status": "ok"}


def test_faults_are_not_there_unless_asked_for(server: Any) -> None:
    answer = server.http.put("/api/reference/faults", json=[], headers=server.member.headers)
    assert answer.status_code == 404


def test_unknown_paths_methods_and_oversized_bodies_are_problems_too(start_server: Any) -> None:
    server = start_server(max_json_bytes=1000)
    for answer, status in (
        (server.http.get("/nowhere"), 404),
        (server.http.get("/api/playbook/upload"), 405),
        (server.member.post("/api/playbook/search", {"query": "x" * 2000}), 413),
    ):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
