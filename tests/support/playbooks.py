"""Playbooks made for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.models import PlaybookDraft


def metadata(name: str = "Stop idle databases", **fields: Any) -> dict[str, Any]:
    """A complete ``metadata.json`` but for id, version and times."""
    return {
        "name": name,
        "description": f"{name}, found by their connections of the last week.",
        "keywords": ["databases", "cost"],
        "cloud_provider": ["aws"],
        "resource_types": ["rds::instance"],
        **fields,
    }


def draft(
    name: str = "Stop idle databases", files: dict[str, bytes] | None = None, **fields: Any
) -> PlaybookDraft:
    """A draft with one shell script, unless ``files`` says otherwise."""
    scripts = {"shell/main.sh": f"#!/usr/bin/env bash\necho '{name}'\n".encode()}
    return PlaybookDraft(metadata(name, **fields), scripts if files is None else files)


def write_folder(root: Path, source: PlaybookDraft) -> Path:
    """A draft as a folder that ``create`` and ``import`` take."""
    root.mkdir(parents=True)
    (root / "metadata.json").write_text(json.dumps(source.metadata))
    for path, content in source.files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return root
