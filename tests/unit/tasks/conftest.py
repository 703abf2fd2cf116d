"""A home without a broker, and the service that tasks of this process share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.rag import open_service

from core.service import PlaybookService
from core.settings import Settings, load_settings
from tasks import base


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("ESCHER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ESCHER_HOME", str(tmp_path / "home"))
    return load_settings(server_url="http://127.0.0.1:9", server_token="x")


@pytest.fixture
def service(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlaybookService]:
    monkeypatch.setattr(base, "_service", None)
    with open_service(settings) as opened:
        yield opened
