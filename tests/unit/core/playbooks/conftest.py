"""A store in a fresh home, and drafts for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.encryption import Envelope, MasterKey
from core.journal import Journal
from core.models import PlaybookDraft
from core.playbooks.store import PlaybookStore
from core.settings import Settings

KEY = MasterKey(b"k" * 32)

MakeDraft = Callable[..., PlaybookDraft]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def envelope() -> Envelope:
    return Envelope(KEY)


@pytest.fixture
def store(settings: Settings) -> PlaybookStore:
    settings.home.mkdir(mode=0o700, parents=True)
    return PlaybookStore(settings, Journal(settings.effective_journal_url), Envelope(KEY))


@pytest.fixture
def make_draft() -> MakeDraft:
    def make(
        files: dict[str, bytes] | None = None,
        *,
        parameters: list[dict[str, Any]] | None = None,
        **fields: Any,
    ) -> PlaybookDraft:
        metadata = {
            "playbook_id": "stop-rds",
            "name": "Stop idle RDS",
            "description": "Stops what nobody uses.",
            "cloud_provider": ["aws"],
            **fields,
        }
        content = {"shell/stop.sh": b"echo stop\n"} if files is None else dict(files)
        if parameters is not None:
            content["parameters.json"] = json.dumps({"parameters": parameters}).encode()
        return PlaybookDraft({k: v for k, v in metadata.items() if v is not None}, content)

    return make
