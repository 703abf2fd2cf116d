from __future__ import annotations

import stat

import pytest
from fastapi.testclient import TestClient

from core.errors import SettingsError
from core.settings import Settings
from escher_playbooks.api.app import create_app
from escher_playbooks.api.auth import load_token

TOKEN = "t0ken-of-the-tests"  # as in conftest.py
BASE_URL = "http://127.0.0.1:8787"


def test_everything_but_healthz_asks_for_the_token(stranger):
    assert stranger.get("/healthz").text == "ok\n"
    paths = [*stranger.app.openapi()["paths"], "/docs", "/openapi.json", "/no/such/path"]
    for path in paths:
        if path == "/healthz":
            continue
        for method in ("GET", "POST", "PUT", "DELETE"):
            answer = stranger.request(method, path)
            assert answer.status_code == 401, (method, path)
            assert answer.headers["content-type"] == "application/problem+json"
            assert "WWW-Authenticate" in answer.headers


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer wrong", "bearer", f"Basic {TOKEN}", TOKEN, "Bearer é", "Basic !!!"],
)
def test_a_wrong_token_is_401(stranger, value):
    headers = {"Authorization": value.encode("utf-8")}
    assert stranger.get("/v1/playbooks", headers=headers).status_code == 401
    assert stranger.get("/docs", headers=headers).status_code == 401


def test_the_browser_asks_for_the_token_as_a_password(stranger):
    assert "Basic" in stranger.get("/docs").headers["WWW-Authenticate"]
    page = stranger.get("/docs", auth=("anybody", TOKEN))
    assert page.status_code == 200
    assert "/v1/playbooks/{playbook_id}" in page.text
    assert "<script" not in page.text
    assert stranger.get("/v1/playbooks", auth=("anybody", TOKEN)).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "10.0.0.1"])
def test_another_hosts_name_is_refused(client, host):
    answer = client.get("/v1/playbooks", headers={"Host": host})
    assert answer.status_code == 421
    assert client.get("/healthz", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8787", "127.0.0.1", "[::1]:8787", "LOCALHOST"])
def test_loopbacks_names_are_taken(client, host):
    assert client.get("/v1/playbooks", headers={"Host": host}).status_code == 200


def test_pages_of_other_origins_are_refused(client):
    for origin in ("https://evil.example", "null"):
        assert client.get("/v1/playbooks", headers={"Origin": origin}).status_code == 403
    own = {"Origin": "http://127.0.0.1:8787"}
    assert client.get("/v1/playbooks", headers=own).status_code == 200


def test_the_token_is_made_once_and_private(tmp_path, monkeypatch):
    monkeypatch.delenv("ESCHER_API_TOKEN", raising=False)
    settings = Settings(home=tmp_path / "home", _env_file=None)
    token = load_token(settings)
    assert len(token) >= 32
    assert load_token(settings) == token
    assert stat.S_IMODE(settings.api_token_path.stat().st_mode) == 0o600
    with TestClient(create_app(settings), base_url=BASE_URL) as client:
        headers = {"Authorization": f"Bearer {token}"}
        assert client.get("/v1/playbooks", headers=headers).status_code == 200


def test_an_empty_token_file_is_no_open_door(tmp_path, monkeypatch):
    monkeypatch.delenv("ESCHER_API_TOKEN", raising=False)
    settings = Settings(home=tmp_path, _env_file=None)
    settings.api_token_path.write_text("\n")
    with pytest.raises(SettingsError, match="empty"):
        create_app(settings)


def test_beyond_loopback_a_token_must_have_been_chosen(tmp_path, monkeypatch):
    monkeypatch.delenv("ESCHER_API_TOKEN", raising=False)
    with pytest.raises(SettingsError, match="api_token"):
        create_app(Settings(home=tmp_path, api_host="0.0.0.0", _env_file=None))
    create_app(Settings(home=tmp_path, api_host="0.0.0.0", api_token="chosen", _env_file=None))
