from __future__ import annotations

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
