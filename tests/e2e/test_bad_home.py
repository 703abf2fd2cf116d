"""A home in trouble: full disk, read-only, wrong key, damaged journal, damaged collection."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.mounts import MountedService, mounted
from support.playbooks import draft, write_folder
from support.refusals import Untouched, assert_error, files_under, refusal
from support.service import ServiceUnderTest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="mounts and modes of a Unix")


@pytest.fixture
def mountable(tmp_path: Path) -> MountedService:
    if not all(map(shutil.which, ("unshare", "nsenter"))):
        pytest.skip("unshare and nsenter (util-linux) are not here")
    return MountedService(tmp_path / "home")


def _error(service: ServiceUnderTest, *arguments: str, code: int) -> dict[str, Any]:
    found: dict[str, Any] = service.json(*arguments, code=code)["error"]
    return found


def test_a_full_disk_is_named_and_nothing_is_half_written(
    mountable: MountedService, tmp_path: Path
) -> None:
    first = write_folder(tmp_path / "first", draft("First one"))
    large = write_folder(tmp_path / "large", draft("Large one"))
    os.truncate(large / "shell" / "main.sh", 12 << 20)
    mountable.home.mkdir(mode=0o700)
    with mounted(mountable, 'mount -t tmpfs -o size=6m,mode=700 tmpfs "$1"'):
        mountable.json("create", str(first), "--strategy", "keep")
        before = files_under(mountable.seen / "playbooks")

        error = _error(mountable, "create", str(large), "--strategy", "keep", code=1)

        assert_error(error, "StorageError", (str(mountable.home),))
        assert "disk is full" in error["remedy"]
        assert files_under(mountable.seen / "playbooks") == before
        # filled to the last byte: every refusal is in words
        with (mountable.seen / "filler").open("wb", buffering=0) as filler:
            while True:
                try:
                    if not filler.write(b"x" * 4096):
                        break
                except OSError:
                    break
        said = mountable.cli("create", str(large), "--strategy", "keep")
        assert said.returncode == 1
        assert "Traceback" not in said.stderr
        assert "full" in said.stderr
        (mountable.seen / "filler").unlink()

        small = write_folder(tmp_path / "small", draft("Small one"))
        mountable.json("create", str(small), "--strategy", "keep")
        assert len(mountable.json("list")["items"]) == 2
        staging = mountable.seen / "playbooks" / ".staging"
        assert not list(staging.iterdir())


def test_a_read_only_home_is_named(mountable: MountedService, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "p", draft("Stands here"))
    ServiceUnderTest.cli(mountable, "create", str(folder), "--strategy", "keep", "--json")
    other = write_folder(tmp_path / "other", draft("Another one"))
    before = files_under(mountable.home / "playbooks")
    with mounted(mountable, 'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"'):
        error = _error(mountable, "create", str(other), "--strategy", "keep", code=1)
        assert_error(error, "StorageError", (str(mountable.home),))
        said = mountable.cli("create", str(other), "--strategy", "keep")
        assert "Traceback" not in said.stderr
    assert files_under(mountable.home / "playbooks") == before


def test_a_wrong_key_is_named_and_the_right_one_brings_all_back(
    module_home: Any, tmp_path: Path
) -> None:
    service: ServiceUnderTest = module_home()
    parameters = {"parameters": [{
        "name": "password", "type": "string", "description": "x", "required": True,
        "default": "s3cret-value", "sensitive": True,
    }]}  # fmt: skip
    files = {"shell/main.sh": b"echo\n", "parameters.json": json.dumps(parameters).encode()}
    folder = write_folder(tmp_path / "p", draft("Sealed one", files))
    service.json("create", str(folder), "--strategy", "keep")
    key = service.home / "keys" / "master.key"
    right = key.read_bytes()
    before = files_under(service.home / "playbooks")

    wrong = {"version": 1, "key": base64.b64encode(os.urandom(32)).decode()}
    key.write_text(json.dumps(wrong))
    problems = service.json("verify", code=1)["problems"]
    assert {problem["ref"] for problem in problems} == {"sealed-one@1.0.0"}
    assert any("key" in problem["what"] and problem["remedy"] for problem in problems)

    key.write_text("garbage")
    words = ("create", str(folder), "--version", "2.0.0", "--strategy", "keep")
    error = refusal(service, *words, code=1, type_="KeyUnavailable", names=(str(key),))
    assert "s3cret" not in str(error)
    key.write_bytes(right)
    key.chmod(0o644)
    said = service.cli("list").stderr
    assert str(key) in said, "that it was open to others"
    assert key.stat().st_mode & 0o777 == 0o600
    assert files_under(service.home / "playbooks") == before
    assert service.json("verify")["clean"]


def test_a_garbage_journal_is_named_and_the_remedy_brings_all_back(
    module_home: Any, tmp_path: Path
) -> None:
    service: ServiceUnderTest = module_home()
    folder = write_folder(tmp_path / "p", draft("Stands here"))
    service.json("create", str(folder), "--strategy", "keep")
    listed = service.json("list")
    before = files_under(service.home / "playbooks")
    journal = service.home / "journal.db"
    for garbage in (b"no database " * 1000, journal.read_bytes()[:5000] + b"\xff" * 60_000):
        journal.write_bytes(garbage)
        error = refusal(
            service, "list", code=1, type_="StorageError", names=("journal",), in_words=True
        )
        assert "journal.db" in error["remedy"]
        assert "aside" in error["remedy"]
        assert files_under(service.home / "playbooks") == before

        shutil.move(journal, tmp_path / "aside.db")  # as the remedy says

        assert service.json("list")["items"][0]["version"] == listed["items"][0]["version"]
        assert files_under(service.home / "playbooks") == before
    assert service.json("verify")["clean"]


@pytest.mark.parametrize("up", [("up",), ("up", "--detach")], ids=["foreground", "detached"])
def test_a_journal_of_a_newer_version_is_refused_and_up_does_not_say_up(
    tmp_path: Path, up: tuple[str, ...]
) -> None:
    made = ServiceUnderTest(tmp_path / "home")
    made.json("list")
    with closing(sqlite3.connect(made.home / "journal.db")) as journal, journal:
        journal.execute("UPDATE home SET value = '99' WHERE key = 'format_version'")
    for command in (up, ("list",), ("status",)):
        done = made.cli(*command)
        assert done.returncode == 1, done.stdout
        assert "format 99" in done.stderr
        assert "newer" in done.stderr  # what to do about it
        assert done.stdout == ""
    assert not (made.home / "run" / "up.json").exists()
    with closing(sqlite3.connect(made.home / "journal.db")) as journal:
        found = journal.execute("SELECT value FROM home WHERE key = 'format_version'")
        assert found.fetchall() == [("99",)]


def test_a_damaged_collection_is_rebuilt_and_answers_as_before(
    module_home: Any, tmp_path: Path
) -> None:
    service: ServiceUnderTest = module_home()
    topics = ("Rotate stale access keys", "Stop idle databases", "Find public buckets")
    for number, topic in enumerate(topics):
        write_folder(tmp_path / "in" / f"p{number}", draft(topic, description=f"{topic} daily."))
    service.json("import", str(tmp_path / "in"), "--strategy", "keep")
    question = ("search", "keys nobody rotated")
    before = service.json(*question)
    assert before["results"][0]["playbook_id"] == "rotate-stale-access-keys"

    damaged = 0
    for path in (service.home / "qdrant" / "collections" / "user_playbooks").rglob("*"):
        if path.is_file() and path.stat().st_size:
            content = bytearray(path.read_bytes())
            for position in range(0, len(content), 97):
                content[position] ^= 0xFF
            path.write_bytes(content)
            damaged += 1
    assert damaged
    untouched = Untouched(service)

    assert service.json(*question) == before
    assert service.json("verify")["clean"]
    untouched.check()
