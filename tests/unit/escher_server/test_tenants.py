from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from typing import Any

import pytest

from escher_server.database import Database, open_database
from escher_server.tenants import ensure_tenant, list_tokens, new_token, revoke_token


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


def ask(server: Any, token: str) -> Any:
    return server.http.get("/api/reference/stats", headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def database(server: Any) -> Iterator[Database]:
    """Opened beside the running server, as the command line does."""
    opened = open_database(server.data_dir)
    yield opened
    opened.close()


class TestTokens:
    def test_a_revoked_one_is_refused_from_its_next_request_on(
        self, server: Any, database: Database
    ) -> None:
        token = new_token(database, "acme", "member", "ann")
        assert ask(server, token).status_code == 200
        [record] = [it for it in list_tokens(database) if it.member == "ann"]
        assert revoke_token(database, record.token_id).revoked_at is not None
        assert ask(server, token).status_code == 401
        assert revoke_token(database, record.token_id).revoked_at is not None  # twice is fine
        assert ask(server, "member-token").status_code == 200  # the others are as they were

    def test_a_revoked_one_is_not_let_in_by_a_restart(
        self, server: Any, database: Database, start_server: Any
    ) -> None:
        [record] = [it for it in list_tokens(database) if it.tenant_id == "other"]
        revoke_token(database, record.token_id)
        assert ask(start_server(), "other-token").status_code == 401

    def test_rotated_the_member_stays_and_so_does_what_is_the_member_s(
        self, server: Any, database: Database, make_client: Any
    ) -> None:
        old = new_token(database, "acme", "member", "ann")
        make_client(server.http, old).publish("hers")
        new = new_token(database, "acme", "member", "ann")
        for record in list_tokens(database):
            if record.token_id == hashlib.sha256(old.encode()).hexdigest()[:12]:
                revoke_token(database, record.token_id)
        client = make_client(server.http, new)
        assert client.feed()["hers", "1.0.0"]["published_by"] == "ann"
        assert client.delete("hers", "1.0.0", 1).status_code == 200

    def test_no_token_is_guessable_and_none_is_kept(self, server: Any, database: Database) -> None:
        token = new_token(database, "acme", "reviewer", "ann")
        assert len(token) >= 43
        assert all(token not in repr(record) for record in list_tokens(database))
        for path in server.data_dir.glob("escher.db*"):
            assert token.encode() not in path.read_bytes()

    @pytest.mark.parametrize("token_id", ["", "%", "0" * 12, "x" * 64])
    def test_a_name_of_none_is_said(self, database: Database, token_id: str) -> None:
        with pytest.raises(ValueError, match="no token"):
            revoke_token(database, token_id)


class TestWrongTokens:
    def test_are_slowed_down_by_address(self, server: Any) -> None:
        answers = [ask(server, f"guess-{number}") for number in range(30)]
        statuses = [answer.status_code for answer in answers]
        assert statuses == [401] * 10 + [429] * 20
        assert int(answers[-1].headers["retry-after"]) > 0
        assert answers[-1].json()["retry_after"] > 0

    def test_lock_nobody_out_whose_token_can_not_be_guessed(
        self, server: Any, database: Database
    ) -> None:
        token = new_token(database, "acme", "member", "ann")
        for number in range(30):
            ask(server, f"guess-{number}")
        assert ask(server, token).status_code == 200
        assert ask(server, token[:-1] + "x").status_code == 429

    def test_lock_nobody_out_who_has_been_here(self, server: Any) -> None:
        assert ask(server, "member-token").status_code == 200
        for number in range(30):
            ask(server, f"guess-{number}")
        assert ask(server, "member-token").status_code == 200

    def test_do_not_find_a_short_one_once_they_are_too_many(self, server: Any) -> None:
        for number in range(30):
            ask(server, f"guess-{number}")
        assert ask(server, "member-token").status_code == 429

    @pytest.mark.parametrize("header", ["Basic x", "Bearer ", "Bearer " + "x" * 5000, ""])
    def test_what_is_no_token_is_401(self, server: Any, header: str) -> None:
        answer = server.http.get("/api/reference/stats", headers={"Authorization": header})
        assert answer.status_code == 401
