from __future__ import annotations

import errno
import os

import pytest
from support.scripts import DownloadsUnderTest

from core.errors import StorageError, TransferInterrupted
from core.files import PRIVATE_FILE
from core.models import OutcomeState
from core.scripts.downloads import verify_staged
from core.scripts.models import CacheHit
from core.scripts.transfer import Claim

FILES = {"terraform/main.tf": b"module\n", "terraform/inner/net.tf": b"net\n"}


@pytest.fixture
def under(tenant_settings):
    under = DownloadsUnderTest(tenant_settings)
    yield under
    under.close()


def verify(under, *keys):
    with Claim(under.journal, under.cache.layout.staging, keys, fresh=False, staged=True) as claim:
        results = verify_staged(under.cache, claim, claim.staged(), 4)
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
def test_only_exactly_the_listed_bytes_are_promoted(under, kind):
    wrong, right = under.add("wrong", FILES), under.add("right", FILES)
    under.downloads.download([wrong, right])
    staged = {row.key.ref.playbook_id: row.name for row in under.journal.downloads.all()}
    tamper(kind, under.cache.layout.root / staged["wrong"])
    results = verify(under, wrong, right)
    assert isinstance(results[right], CacheHit)
    assert isinstance(results[wrong], TransferInterrupted)
    assert [entry.key for entry in under.cache.entries()] == [right]
    assert under.read(under.cache.find(right)) == FILES
    assert under.staging == []
    assert under.cache.verify() == []
    assert under.cache.usage()["reserved_bytes"] == 0


def test_what_stops_the_batch_is_found_and_the_others_go_in(under, monkeypatch):
    keys = [under.add(f"b{number}", FILES) for number in range(3)]
    under.downloads.download(keys)
    promote = under.cache.promote_many

    def refuse_one(items, *, settle):
        if any(item.listing.key == keys[1] for item in items):
            raise StorageError("a name too long")
        return promote(items, settle=settle)

    monkeypatch.setattr(under.cache, "promote_many", refuse_one)
    outcomes = under.downloads.verify(keys)
    assert [outcomes[key].state.value for key in keys] == ["done", "failed", "done"]
    assert outcomes[keys[1]].error_type == "StorageError"
    assert under.staging == []


def test_an_interrupted_verification_leaves_what_is_staged_staged(under, monkeypatch):
    key = under.add("later", FILES)
    under.downloads.download([key])
    with monkeypatch.context() as patch:
        patch.setattr("core.scripts.downloads.verify_staged", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            under.downloads.verify([key])
    sent = under.bytes_sent()
    assert under.downloads.verify([key])[key].state is OutcomeState.DONE
    assert under.bytes_sent() == sent


def _interrupt(*_):
    raise KeyboardInterrupt


def test_every_file_is_durable_before_it_becomes_an_entry(under, monkeypatch):
    key = under.add("vpc", FILES)
    under.downloads.download([key])
    synced: set[int] = set()
    fsync = os.fsync
    promote = under.cache.promote_many

    def noted(fd):
        fsync(fd)
        synced.add(os.fstat(fd).st_ino)

    def look_then_promote(items, *, settle):
        for item in items:
            assert {(item.folder / path).stat().st_ino for path in FILES} <= synced
        return promote(items, settle=settle)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(under.cache, "promote_many", look_then_promote)
    assert isinstance(verify(under, key)[key], CacheHit)


def test_what_can_not_be_synced_is_no_entry(under, monkeypatch):
    key = under.add("vpc", FILES)
    under.downloads.download([key])

    def full(_fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert isinstance(verify(under, key)[key], StorageError)
    assert under.cache.entries() == []
