"""Flow 3 as an execution engine and its user see it."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
from support.playbooks import draft, write_folder
from support.service import MakeService, ServiceUnderTest, eventually

from core.files import sha256_bytes
from core.models import PlaybookDraft, Ref
from core.service import PlaybookService


@pytest.fixture(scope="module")
def shared(module_home: MakeService) -> ServiceUnderTest:
    """A home whose service has no sync that would tidy up behind us."""
    return module_home(sync_enabled="false", clear_text_seconds="600")


@pytest.fixture
def service(shared: ServiceUnderTest) -> ServiceUnderTest:
    """It runs, whatever a test before did, and nothing is cached."""
    if not shared.is_up:
        shared.up()
    settings = shared.settings
    settings.cache_lease_seconds = 0
    with PlaybookService.open(settings) as opened:
        opened.script_manager.clear_cache()
    return shared


def publish(service: ServiceUnderTest, tmp_path: Path, name: str) -> bytes:
    """A new playbook of this name; its script."""
    made = draft(name)
    ref = create(service, tmp_path, made, "trusted")
    eventually(lambda: service.sync_state(ref) == "published", 60, "published")
    return bytes(made.files["shell/main.sh"])


def create(service: ServiceUnderTest, tmp_path: Path, made: PlaybookDraft, strategy: str) -> Ref:
    folder = write_folder(tmp_path / "p", made)
    created = service.json("create", str(folder), "--strategy", strategy)
    return Ref(created["playbook_id"], created["version"])


def test_a_changed_published_file_is_answered_with_the_published_bytes(
    service: ServiceUnderTest, tmp_path: Path
) -> None:
    content = publish(service, tmp_path, "Change keys")
    script = service.home / "playbooks" / "synced" / "change-keys" / "v1.0.0" / "shell" / "main.sh"
    script.write_bytes(b"#!/bin/sh\necho edited\n")
    found = service.json("resolve", "change-keys", "--format", "shell")
    assert Path(found["path"]).read_bytes() == content
    assert found["source"] == "download"
    assert script.read_bytes() == b"#!/bin/sh\necho edited\n", "the edit is kept"


def test_fetched_ahead_by_a_job_and_let_go(
    service: ServiceUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = publish(service, tmp_path, "Fetch keys")
    with service.api as api:
        made = api.post("/v1/jobs", json={"kind": "download", "refs": ["fetch-keys"]})
        job = service.json("jobs", "watch", made.json()["job_id"])
    assert (job["state"], job["items"][0]["step"]) == ("succeeded", "verify")
    listed = service.json("cache", "ls")
    assert [(e["playbook_id"], e["format"]) for e in listed["entries"]] == [("fetch-keys", "shell")]
    kept = service.json("cache", "clear")
    assert (kept["entries"], kept["in_use"]) == (0, 1), "somebody may be at it"
    monkeypatch.setitem(service.env, "ESCHER_CACHE_LEASE_SECONDS", "0")
    cleared = service.json("cache", "clear")
    assert (cleared["entries"], service.json("cache", "ls")["entries"]) == (1, [])
    assert cleared["bytes_freed"] >= len(content), "with the manifest"
    with service.api as api:
        made = api.post("/v1/jobs", json={"kind": "evict"})
        assert service.json("jobs", "watch", made.json()["job_id"])["state"] == "succeeded"


# those that end the service come last
def test_from_disk_from_the_server_from_the_cache(
    service: ServiceUnderTest, tmp_path: Path
) -> None:
    content = publish(service, tmp_path, "Rotate keys")
    found = service.json("resolve", "rotate-keys", "--format", "shell")
    assert (found["source"], found["checksum"]) == ("synced", sha256_bytes(content))

    folder = service.home / "playbooks" / "synced" / "rotate-keys" / "v1.0.0"
    shutil.rmtree(folder)
    fetched = service.json("resolve", "rotate-keys", "--format", "shell")
    assert fetched["source"] == "download"
    path = Path(fetched["path"])
    assert path.read_bytes() == content
    assert service.home / "cache" / "scripts" in path.parents

    path.write_bytes(content.replace(b"keys", b"kays"))  # as many bytes, another text
    with service.api as api:
        again = api.get("/v1/scripts/rotate-keys/latest/shell").json()
        assert again["source"] == "download"
        assert Path(again["path"]).read_bytes() == content
        hit = api.get("/v1/scripts/rotate-keys/1.0.0/shell").json()
        assert hit["source"] == "cache"
        cache = api.get("/v1/cache").json()
        assert api.get("/v1/scripts/rotate-keys/1.0.0/python").status_code == 404
    assert cache["entries"][0]["playbook_id"] == "rotate-keys"
    assert cache["used_bytes"] > 0
    assert cache["next_expiry"] > 0

    service.down()
    offline = service.cli("resolve", "rotate-keys", "--format", "shell")
    assert (offline.returncode, Path(offline.stdout.strip()).read_bytes()) == (0, content)


def test_what_is_sensitive_is_lent_in_clear_and_taken_back(
    service: ServiceUnderTest, tmp_path: Path
) -> None:
    create(service, tmp_path, draft("Keep this", sensitive=True), "keep")
    with service.api as api:
        found = api.get("/v1/scripts/keep-this/latest/shell").json()
    path = Path(found["path"])
    assert path.read_bytes().endswith(b"echo 'Keep this'\n")
    assert found["expires_at"] > 0
    assert service.home / "playbooks" not in path.parents
    for parent in (path.parent, path.parent.parent):
        assert stat.S_IMODE(parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert path.stat().st_uid == os.getuid()
    service.down()
    assert not path.exists()


def test_clear_text_is_gone_when_its_time_is_over(new_service, tmp_path: Path) -> None:
    service: ServiceUnderTest = new_service(clear_text_seconds="2", server_embedded="false")
    folder = write_folder(tmp_path / "p", draft("Keep this", sensitive=True))
    service.json("create", str(folder), "--strategy", "keep")
    said = service.cli("resolve", "keep-this", "--format", "shell")
    path = Path(said.stdout.strip())
    assert said.returncode == 0
    eventually(lambda: not path.exists(), 30, "removed though nothing of the service runs")


def test_nowhere_to_be_had_is_said_in_words(new_service) -> None:
    service: ServiceUnderTest = new_service(server_embedded="false")
    unknown = service.json("resolve", "no-such@1.0.0", "--format", "shell", code=4)
    assert "no-such@1.0.0" in unknown["error"]["detail"]
    wrong = service.json("resolve", "no-such", "--format", "cobol", code=2)
    assert "cobol" in wrong["error"]["detail"]
