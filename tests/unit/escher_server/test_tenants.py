from __future__ import annotations

import stat
from typing import Any

import pytest

from escher_server.tenants import ensure_tenant


@pytest.mark.parametrize("header", [None, "Bearer nonsense", "Basic member-token", "Bearer "])
def test_without_a_known_token_every_call_is_401(server: Any, header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    for method, path in (
        ("POST", "/api/playbook/upload"),
        ("POST", "/api/playbook/metadata/publish"),
        ("GET", "/api/playbook/metadata/changes"),
        ("GET", "/api/script/download"),
        ("GET", "/api/reference/stats"),
    ):
        answer = server.http.request(method, path, headers=headers)
        assert answer.status_code == 401, path
        assert answer.headers["content-type"] == "application/problem+json"
        assert {"type", "title", "status", "detail"} <= set(answer.json())


def test_another_tenant_is_403_everywhere(server: Any) -> None:
    server.member.publish()
    intruder = server.other
    intruder.tenant_id = "acme"
    files = {"shell/stop.sh": b"echo stop\n"}
    body = intruder.publish_body(intruder.metadata("stop", "1.0.0"), files)
    search = {"tenant_id": "acme", "query": "stop", "filters": {}, "limit": 1}
    answers = [
        intruder.announce("stop", "1.0.0", files),
        intruder.send_publish(body),
        intruder.delete("stop", "1.0.0", 1),
        intruder.set_status("stop", "1.0.0", "approved"),
        intruder.post("/api/playbook/search", search),
        intruder.post("/api/playbook/stats/acme/stop/1.0.0", {"executions": []}),
    ]
    assert [answer.status_code for answer in answers] == [403] * len(answers)
    assert server.member.feed()["stop", "1.0.0"]["revision"] == 1


def test_a_tenant_made_beside_a_running_server_is_let_in(server: Any) -> None:
    ensure_tenant(server.data_dir, "late", "member", "late-token")
    ensure_tenant(server.data_dir, "late", "member", "late-token")
    answer = server.http.get("/api/reference/stats", headers={"Authorization": "Bearer late-token"})
    assert list(answer.json()["tenants"]) == ["late"]


def test_secrets_are_kept_from_others_and_tokens_are_not_kept_at_all(server: Any) -> None:
    assert stat.S_IMODE((server.data_dir / "signing.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
    for path in server.data_dir.glob("escher.db*"):
        assert b"member-token" not in path.read_bytes()


def test_unusable_tenants_are_refused(server: Any) -> None:
    with pytest.raises(ValueError, match="pattern"):
        ensure_tenant(server.data_dir, "../up", "member", "t")
    with pytest.raises(ValueError, match="empty"):
        ensure_tenant(server.data_dir, "fine", "member", "")
