from __future__ import annotations

import errno
import os

import pytest
from support.scripts import ScriptDesk

from core.errors import StorageError, TransferInterrupted
from core.files import PRIVATE_FILE
from core.models import OutcomeState
from core.scripts.downloads import verify_staged
from core.scripts.models import CacheHit
from core.scripts.transfer import Claim

FILES = {"terraform/main.tf": b"module\n", "terraform/inner/net.tf": b"net\n"}


@pytest.fixture
def desk(tenant_settings):
    desk = ScriptDesk(tenant_settings)
    yield desk
    desk.close()


def verify(desk, *keys):
    with Claim(desk.journal, desk.cache.layout.staging, keys, fresh=False, staged=True) as claim:
        results = verify_staged(desk.cache, claim, claim.staged(), 4)
        claim.settle(results)
    return results


def tamper(kind, folder):
    file = folder / "terraform" / "main.tf"
    match kind:
        case "flipped":
            file.write_bytes(b"nodule\n")
        case "truncated":
            os.truncate(file, 3)
        case "longer":
            file.write_bytes(FILES["terraform/main.tf"] + b"\n")
        case "missing":
            file.unlink()
        case "added":
            (folder / "terraform" / "zz.auto.tfvars").touch(PRIVATE_FILE)
        case "link":
            moved = folder / "elsewhere"
            file.rename(moved)
            file.symlink_to(moved)
        case "gone":
            (folder / "terraform").rename(folder / "else")


@pytest.mark.parametrize(
    "kind", ["flipped", "truncated", "longer", "missing", "added", "link", "gone"]
)
def test_only_exactly_the_listed_bytes_are_promoted(desk, kind):
    wrong, right = desk.add("wrong", FILES), desk.add("right", FILES)
    desk.downloads.download([wrong, right])
    staged = {row.key.ref.playbook_id: row.name for row in desk.journal.downloads.all()}
    tamper(kind, desk.cache.layout.root / staged["wrong"])
    results = verify(desk, wrong, right)
    assert isinstance(results[right], CacheHit)
    assert isinstance(results[wrong], TransferInterrupted)
    assert [entry.key for entry in desk.cache.entries()] == [right]
    assert desk.read(desk.cache.find(right)) == FILES
    assert desk.staging == []
    assert desk.cache.verify() == []
    assert desk.cache.usage()["reserved_bytes"] == 0


def test_what_stops_the_batch_is_found_and_the_others_go_in(desk, monkeypatch):
    keys = [desk.add(f"b{number}", FILES) for number in range(3)]
    desk.downloads.download(keys)
    promote = desk.cache.promote_many

    def refuse_one(items, *, settle):
        if any(item.listing.key == keys[1] for item in items):
            raise StorageError("a name too long")
        return promote(items, settle=settle)

    monkeypatch.setattr(desk.cache, "promote_many", refuse_one)
    outcomes = desk.downloads.verify(keys)
    assert [outcomes[key].state.value for key in keys] == ["done", "failed", "done"]
    assert outcomes[keys[1]].error_type == "StorageError"
    assert desk.staging == []


def test_an_interrupted_verification_leaves_what_is_staged_staged(desk, monkeypatch):
    key = desk.add("later", FILES)
    desk.downloads.download([key])
    with monkeypatch.context() as patch:
        patch.setattr("core.scripts.downloads.verify_staged", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            desk.downloads.verify([key])
    sent = desk.bytes_sent()
    assert desk.downloads.verify([key])[key].state is OutcomeState.DONE
    assert desk.bytes_sent() == sent


def _interrupt(*_):
    raise KeyboardInterrupt


def test_every_file_is_durable_before_it_becomes_an_entry(desk, monkeypatch):
    key = desk.add("vpc", FILES)
    desk.downloads.download([key])
    synced: set[int] = set()
    fsync = os.fsync
    promote = desk.cache.promote_many

    def noted(fd):
        fsync(fd)
        synced.add(os.fstat(fd).st_ino)

    def look_then_promote(items, *, settle):
        for item in items:
            assert {(item.folder / path).stat().st_ino for path in FILES} <= synced
        return promote(items, settle=settle)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(desk.cache, "promote_many", look_then_promote)
    assert isinstance(verify(desk, key)[key], CacheHit)


def test_what_can_not_be_synced_is_no_entry(desk, monkeypatch):
    key = desk.add("vpc", FILES)
    desk.downloads.download([key])

    def full(_fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert isinstance(verify(desk, key)[key], StorageError)
    assert desk.cache.entries() == []
