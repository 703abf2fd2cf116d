"""The HTTP API in this process, on a home of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from core.settings import Settings
from escher_playbooks.api.app import create_app

TOKEN = "t0ken-of-the-tests"
BASE_URL = "http://127.0.0.1:8787"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An empty home; nobody listens at its server's address."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("ESCHER_")]:
        monkeypatch.delenv(name)
    values = {
        "HOME": str(tmp_path / "home"),
        "SERVER_URL": "http://127.0.0.1:9",
        "SERVER_TOKEN": "x",
        "API_TOKEN": TOKEN,
        "MAX_SCRIPT_SIZE_MB": "0.5",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"ESCHER_{name}", value)  # tasks read the environment too
    return Settings()


@pytest.fixture
def stranger(settings: Settings) -> Iterator[TestClient]:
    """A client without a token."""
    app = create_app(settings)
    with TestClient(app, base_url=BASE_URL, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(stranger: TestClient) -> TestClient:
    stranger.headers["Authorization"] = f"Bearer {TOKEN}"
    return stranger
