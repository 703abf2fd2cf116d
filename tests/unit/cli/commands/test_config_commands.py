from __future__ import annotations


def test_each_setting_says_where_it_came_from(run, home, monkeypatch, tmp_path):
    home.mkdir()
    (home / "config.toml").write_text("sync_interval_minutes = 7\nsecrets_gate = 'off'\n")
    (tmp_path / ".env").write_text("ESCHER_CACHE_TTL_DAYS=3\nESCHER_SECRETS_GATE=block\n")
    monkeypatch.setenv("ESCHER_API_PORT", "9999")
    settings = run("config", "--json").json["settings"]
    assert settings["api_port"] == {"value": 9999, "source": "environment"}
    assert settings["cache_ttl_days"] == {"value": 3, "source": ".env"}
    assert settings["secrets_gate"] == {"value": "block", "source": ".env"}
    assert settings["sync_interval_minutes"] == {"value": 7, "source": "config.toml"}
    assert settings["cache_max_size_mb"] == {"value": 500, "source": "default"}
    assert settings["playbooks_dir"]["value"] == str(home / "playbooks")
    assert settings["broker_url"]["value"] == "embedded"


def test_secrets_are_masked(run, home, monkeypatch):
    home.mkdir()
    (home / "api.token").write_text("made-token-1\n")
    monkeypatch.setenv("ESCHER_BROKER_URL", "redis://:hunter2@example.org:6379/0")
    monkeypatch.setenv("ESCHER_ENCRYPTION_KEY_COMMAND", "vault read hunter3")
    done = run("config"), run("config", "--json")
    for text in (done[0].out, done[1].out):
        for secret in ("made-token-1", "hunter2", "hunter3", "s3cret-token"):
            assert secret not in text
        assert str(home / "api.token") in text
