from __future__ import annotations

import pytest


def test_each_setting_says_where_it_came_from(run, home, monkeypatch, tmp_path):
    home.mkdir()
    (home / "config.toml").write_text("sync_interval_minutes = 7\nsecrets_gate = 'off'\n")
    (tmp_path / "token").write_text("x")
    monkeypatch.setenv("ESCHER_API_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("ESCHER_API_PORT", "9999")
    settings = run("config", "--json").json["settings"]
    assert settings["api_port"] == {"value": 9999, "source": "environment"}
    assert settings["api_token"] == {"value": "********", "source": "file"}
    assert settings["secrets_gate"] == {"value": "off", "source": "config.toml"}
    assert settings["sync_interval_minutes"] == {"value": 7, "source": "config.toml"}
    assert settings["cache_max_size_mb"] == {"value": 500, "source": "default"}
    assert settings["playbooks_dir"]["value"] == str(home / "playbooks")
    assert settings["broker_url"]["value"] == "embedded"


def test_secrets_are_masked(run, home, monkeypatch):
    home.mkdir()
    (home / "api.token").write_text("made-token-1\n")
    monkeypatch.setenv("ESCHER_BROKER_URL", "rediss://:hunter2@example.org:6379/0")
    monkeypatch.setenv("ESCHER_ENCRYPTION_KEY_COMMAND", "vault read hunter3")
    done = run("config"), run("config", "--json")
    for text in (done[0].out, done[1].out):
        for secret in ("made-token-1", "hunter2", "hunter3", "s3cret-token"):
            assert secret not in text
        assert str(home / "api.token") in text


@pytest.mark.parametrize("where", ["current folder", "home"])
def test_an_env_file_that_is_not_read_is_told(run, home, tmp_path, where):
    home.mkdir()
    folder = {"current folder": tmp_path, "home": home}[where]
    (folder / ".env").write_text(
        "ESCHER_ENCRYPTION_KEY_COMMAND='touch ran'\nESCHER_FOO\x1b=1\nESCHER_SERVER_TOKEN=hunter2\n"
    )
    done = run("config")
    assert done.err.count(".env is not read") == 1
    assert "encryption_key_command, server_token" in done.err
    assert "hunter2" not in done.err
    assert ".env is not read" in run("list").err, "by every command: its home may be another now"
    assert ".env is not read" in run("config", "--json").json["notes"][0]
    checks = run("doctor", "--json").json["checks"]
    assert any(".env is not read" in check["detail"] for check in checks)


@pytest.mark.parametrize("content", ["PATH=/bin\n", "# ESCHER_HOME=/x\n", ""])
def test_an_env_file_of_others_is_not_mentioned(run, home, tmp_path, content):
    (tmp_path / ".env").write_text(content)
    assert ".env" not in run("config").err
