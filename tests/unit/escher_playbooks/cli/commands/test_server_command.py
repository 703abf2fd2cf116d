from __future__ import annotations

import json
import sqlite3
import stat

import pytest


@pytest.fixture
def served(monkeypatch):
    """What the server would have been run with."""
    calls = []

    def serve(config, host, port, *, embed=None):
        calls.append((config, host, port, embed))

    monkeypatch.setattr("escher_server.run.serve", serve)
    return calls


def test_the_homes_own_token_is_made_once_and_private(run, home, served, monkeypatch):
    monkeypatch.delenv("ESCHER_SERVER_TOKEN")
    monkeypatch.setenv("ESCHER_SERVER_EMBEDDED", "true")
    monkeypatch.setenv("ESCHER_SERVER_URL", "http://127.0.0.1:9753")
    assert run("server").code == 0
    assert run("server", "--faults").code == 0
    path = home / "server.token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (first, host, port, _), (second, *_) = served
    assert (host, port) == ("127.0.0.1", 9753)
    assert first.public_url == "http://127.0.0.1:9753"
    assert first.data_dir == home / "server"
    assert first.tokens == second.tokens
    assert first.tokens[0].token.get_secret_value() == path.read_text().strip()
    assert first.tokens[0].tenant_id == "local"
    assert (first.faults_enabled, second.faults_enabled) == (False, True)


def test_more_tokens_for_tests(run, home, served):
    done = run("server", "--port", "9754", "--token", "acme:member:abc", "--no-semantic")
    assert done.code == 0
    config, _, port, embed = served[0]
    assert port == 9754
    assert embed is None
    assert [(t.tenant_id, t.role) for t in config.tokens[1:]] == [("acme", "member")]
    assert "abc" not in done.out + done.err


@pytest.mark.parametrize("token", ["nonsense", "a:b", "acme:king:x", "../x:member:y"])
def test_a_malformed_token_is_wrong_usage(run, served, token):
    assert run("server", "--token", token).code == 2
    assert served == []


class TestTokens:
    @pytest.fixture
    def data_dir(self, home):
        from escher_server.tenants import ensure_tenant

        (home / "server").mkdir(parents=True)
        ensure_tenant(home / "server", "local", "reviewer", "OWN-TOKEN", "owner")
        return home / "server"

    def test_a_member_s_is_made_listed_and_revoked(self, run, data_dir):
        made = run("server", "tokens", "add", "ann", "--json")
        assert made.code == 0, made.err
        told = json.loads(made.out)
        assert {name: told[name] for name in ("tenant_id", "member", "role")} == {
            "tenant_id": "local", "member": "ann", "role": "member",
        }  # fmt: skip
        assert len(told["token"]) >= 32
        listed = json.loads(run("server", "tokens", "ls", "--json").out)["tokens"]
        assert [(token["member"], token["role"]) for token in listed] == [
            ("ann", "member"),
            ("owner", "reviewer"),
        ]
        assert told["token"] not in run("server", "tokens", "ls").out
        assert run("server", "tokens", "revoke", listed[0]["token_id"]).code == 0
        listed = json.loads(run("server", "tokens", "ls", "--json").out)["tokens"]
        assert [token["revoked_at"] is not None for token in listed] == [True, False]

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (("add", "a b"), 2),
            (("add", "ann", "--role", "king"), 2),
            (("add", "ann", "--tenant", "../x"), 2),
            (("revoke", "000000000000"), 3),
            (("revoke", "%"), 3),
        ],
    )
    def test_what_is_wrong_is_said(self, run, data_dir, arguments, code):
        assert run("server", "tokens", *arguments).code == code

    def test_without_a_server_there_are_none(self, run, home):
        assert run("server", "tokens", "ls").code == 3
        assert not (home / "server").exists()

    def test_data_of_a_newer_server_is_no_traceback(self, run, data_dir):
        connection = sqlite3.connect(data_dir / "escher.db")
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
        connection.commit()
        done = run("server", "tokens", "ls")
        assert done.code == 2
        assert "schema 99" in done.err
