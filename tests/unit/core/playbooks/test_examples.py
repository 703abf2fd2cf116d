from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from core.playbooks.checks import check_scripts

EXAMPLES = Path(__file__).parents[4] / "examples"
PLAYBOOKS = EXAMPLES / "playbooks"
VERSIONS = sorted(path for path in PLAYBOOKS.glob("*/v*") if path.is_dir())
FORMATS = {"shell", "cloudformation", "arm", "terraform", "python"}
CLOUDS = {"aws", "azure", "gcp"}
REQUIRED = {
    "playbook_id": str, "version": str, "name": str, "description": str, "purpose": str,
    "use_cases": list, "keywords": list, "prerequisites": list, "cloud_provider": list,
    "resource_types": list, "author": str, "storage_strategy": str, "status": str,
    "entry_points": dict, "tags": dict,
    "estimated_impact": dict, "sensitive": bool, "created_at": int, "updated_at": int,
}  # fmt: skip
PARAMETER_FIELDS = {
    "name", "type", "description", "required", "default", "sensitive", "validation",
    "auto_fill_strategy",
}  # fmt: skip


def _id(folder: Path) -> str:
    return f"{folder.parent.name}-{folder.name}"


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _scripts(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for script_format in FORMATS
        for path in sorted((folder / script_format).rglob("*"))
        if path.is_file()
    }


def test_there_are_enough_of_them_over_all_formats_and_clouds() -> None:
    assert len({folder.parent.name for folder in VERSIONS}) >= 22
    assert {path.split("/")[0] for folder in VERSIONS for path in _scripts(folder)} == FORMATS
    metadata = [_json(folder / "metadata.json") for folder in VERSIONS]
    assert {cloud for fields in metadata for cloud in fields["cloud_provider"]} == CLOUDS
    assert any(fields["sensitive"] for fields in metadata)
    assert {fields["storage_strategy"] for fields in metadata} == {
        "local_only",
        "uploaded_for_review",
    }


@pytest.mark.parametrize("folder", VERSIONS, ids=_id)
def test_metadata_keeps_the_rules(folder: Path) -> None:
    fields = _json(folder / "metadata.json")
    assert {name: type(value) for name, value in fields.items()} == REQUIRED
    assert fields["playbook_id"] == folder.parent.name
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,99}", fields["playbook_id"])
    assert not fields["playbook_id"].startswith("escher-")
    assert folder.name == f"v{fields['version']}"
    assert re.fullmatch(r"\d+\.\d+\.\d+", fields["version"])
    assert 3 <= len(fields["name"]) <= 200
    assert 1 <= len(fields["description"]) <= 4000
    for name in ("use_cases", "keywords", "prerequisites", "resource_types"):
        assert 1 <= len(fields[name]) <= 50
        assert all(isinstance(entry, str) and entry for entry in fields[name])
    assert fields["cloud_provider"]
    assert set(fields["cloud_provider"]) <= CLOUDS
    assert all(re.fullmatch(r"[a-z0-9]+::[a-z0-9]+", kind) for kind in fields["resource_types"])
    assert (fields["author"], fields["status"]) == ("user_custom", "ready")
    assert {"category", "risk_level"} <= set(fields["tags"])
    assert fields["created_at"] <= fields["updated_at"]
    if fields["sensitive"]:
        assert fields["storage_strategy"] == "local_only"


@pytest.mark.parametrize("folder", VERSIONS, ids=_id)
def test_parameters_and_plan_keep_the_rules(folder: Path) -> None:
    parameters = _json(folder / "parameters.json")["parameters"]
    names = [parameter["name"] for parameter in parameters]
    assert len(names) == len(set(names))
    for parameter in parameters:
        assert {"name", "type", "description", "required"} <= set(parameter) <= PARAMETER_FIELDS
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,127}", parameter["name"])
    steps = _json(folder / "explain_plan.json")["steps"]
    assert [step["order"] for step in steps] == list(range(1, len(steps) + 1))
    assert all(step["description"] for step in steps)


@pytest.mark.parametrize("folder", VERSIONS, ids=_id)
def test_nothing_but_known_files_and_one_entry_point_a_format(folder: Path) -> None:
    known = FORMATS | {"metadata.json", "parameters.json", "explain_plan.json"}
    assert {path.name for path in folder.iterdir()} <= known
    formats = {path.split("/")[0] for path in _scripts(folder)}
    named = _json(folder / "metadata.json")["entry_points"]
    assert formats == set(named)
    assert all(entry in _scripts(folder) for entry in named.values())


def test_they_show_what_a_playbook_may_have() -> None:
    """An executable helper, a module with folders of its own, a name that is not English."""
    scripts = [(folder, path) for folder in VERSIONS for path in _scripts(folder)]
    helpers = [folder / path for folder, path in scripts if path.startswith("shell/lib/")]
    assert helpers
    assert all(path.stat().st_mode & 0o100 for path in helpers)
    assert all(helper.read_text().startswith("#!") for helper in helpers)
    assert any(path.startswith("terraform/modules/") for _, path in scripts)
    assert any(not _json(folder / "metadata.json")["name"].isascii() for folder in VERSIONS)


@pytest.mark.parametrize("folder", VERSIONS, ids=_id)
def test_every_script_parses(folder: Path) -> None:
    assert [warning.as_text() for warning in check_scripts(_scripts(folder))] == []


@pytest.mark.parametrize("folder", VERSIONS, ids=_id)
def test_shell_scripts_are_strict_and_changes_wait_for_a_word(folder: Path) -> None:
    for path, content in _scripts(folder).items():
        text = content.decode()
        if path.startswith("shell/"):
            assert text.startswith("#!/usr/bin/env bash\n")
            assert "\nset -euo pipefail\n" in text
            assert "Usage:" in text
        if path.startswith(("shell/", "python/")) and re.search(
            r"\b(revoke|delete|stop|update|put|create)[_-][a-z]+", text
        ):
            assert "--apply" in text or "--delete" in text


def test_a_sensitive_parameter_has_a_placeholder_and_no_secret() -> None:
    sensitive = [
        parameter
        for folder in VERSIONS
        for parameter in _json(folder / "parameters.json")["parameters"]
        if parameter.get("sensitive")
    ]
    assert sensitive
    assert all(re.fullmatch(r"<[a-z-]+>", parameter["default"]) for parameter in sensitive)


def test_the_readme_names_each_playbook() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.MULTILINE)) == {
        folder.parent.name for folder in VERSIONS
    }
