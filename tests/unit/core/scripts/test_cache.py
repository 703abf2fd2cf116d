from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.script_cache import CacheUnderTest, key_of, listing_of

from core.errors import CacheFull, InvalidPlaybook, Refused, UsageError
from core.models import ScriptKey

STOP = key_of("stop-rds@1.0.0")
FILES = {"shell/stop.sh": b"#!/bin/sh\necho stop\n"}
MODULE = {"terraform/main.tf": b"a" * 300, "terraform/modules/vpc/main.tf": b"b" * 200}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., CacheUnderTest]]:
    made: list[CacheUnderTest] = []

    def new(**settings: float) -> CacheUnderTest:
        made.append(CacheUnderTest(tmp_path / f"home{len(made)}", **settings))
        return made[-1]

    yield new
    for one in made:
        one.close()


@pytest.fixture
def under(make: Callable[..., CacheUnderTest]) -> CacheUnderTest:
    return make()


def _numbered(number: int, size: int = 10_000) -> tuple[ScriptKey, dict[str, bytes]]:
    return key_of(f"p-{number}@1.0.0"), {"shell/a.sh": bytes([number]) * size}


# -- finding --------------------------------------------------------------------------------
def test_what_was_promoted_is_found_with_all_its_files(under):
    key = key_of("vpc@2.1.0-rc.1", "terraform")
    assert under.cache.find(key) is None
    added = under.add(key, MODULE)
    assert under.bytes_of(key) == MODULE
    hit = under.cache.find(key)
    assert hit == added
    assert hit.fresh
    assert hit.source == "tenant"
    assert hit.listing.entry_point == "terraform/main.tf"
    assert under.cache.cached_versions("vpc", "terraform") == ["2.1.0-rc.1"]
    assert under.cache.cached_versions("vpc", "shell") == []
    assert list(under.cache.layout.staging.iterdir()) == []


def test_what_can_be_no_key_never_becomes_a_path(under):
    for bad in ("../up", "UP", ""):
        with pytest.raises(InvalidPlaybook):
            under.cache.find(ScriptKey(STOP.ref._replace(playbook_id=bad), "shell"))
    with pytest.raises(UsageError, match=r"\.\./shell"):
        under.cache.find(ScriptKey(STOP.ref, "../shell"))


def _flip(folder: Path) -> None:
    path = folder / "stop.sh"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


def _swap_for_a_link(folder: Path) -> None:
    real = folder.parent.parent / "elsewhere.sh"
    (folder / "stop.sh").rename(real)
    (folder / "stop.sh").symlink_to(real)


def _folder_to_link(folder: Path) -> None:
    real = folder.parent.parent / "elsewhere"
    folder.rename(real)
    folder.symlink_to(real)


def _damage_manifest(folder: Path) -> None:
    path = folder.parent / ".shell.json"
    path.write_bytes(path.read_bytes().replace(b"stop.sh", b"stop.bh"))


DAMAGES = {
    "a flipped bit": _flip,
    "a shorter file": lambda folder: os.truncate(folder / "stop.sh", 3),
    "a missing file": lambda folder: (folder / "stop.sh").unlink(),
    "a file too many": lambda folder: (folder / "extra.auto.tfvars").write_bytes(b"x"),
    "a hidden file too many": lambda folder: (folder / ".x").write_bytes(b"x"),
    "a file too many, deeper": lambda folder: (
        (folder / "a").mkdir() or (folder / "a" / "b").write_bytes(b"x")
    ),
    "a link to the right bytes": _swap_for_a_link,
    "a folder that is a link": _folder_to_link,
    "a pipe": lambda folder: os.mkfifo(folder / "pipe"),
    "a damaged manifest": _damage_manifest,
    "a folder as manifest": lambda folder: (
        (folder.parent / ".shell.json").unlink() or (folder.parent / ".shell.json").mkdir()
    ),
    "a manifest that is none": lambda folder: (folder.parent / ".shell.json").write_bytes(b"\xff["),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_not_what_it_was_is_quarantined_and_can_be_had_anew(under, damage):
    under.add(STOP, FILES)
    damage(under.folder(STOP))
    assert under.cache.find(STOP) is None
    assert not os.path.lexists(under.folder(STOP))
    (aside,) = under.aside()
    assert aside.name.startswith("quarantine/stop-rds-v1.0.0/shell-")
    assert os.path.lexists(under.cache.layout.root / aside.name)
    assert under.cache.usage()["entries"] == 0
    under.add(STOP, FILES)
    assert under.bytes_of(STOP) == FILES


def test_an_empty_folder_inside_changes_no_byte(under):
    under.add(STOP, FILES)
    (under.folder(STOP) / "empty").mkdir()
    assert under.bytes_of(STOP) == FILES


def test_another_entrys_folder_and_manifest_are_not_taken_for_it(under):
    other = key_of("stop-rds@2.0.0")
    under.add(STOP, FILES)
    under.folder(STOP).parent.rename(under.folder(other).parent)
    assert under.cache.find(other) is None
    assert under.cache.find(STOP) is None


def test_age_by_the_ttl_and_a_clock_that_was_wrong(make):
    under = make(ttl=100)
    under.add(STOP, FILES)
    under.now += 99
    assert under.cache.find(STOP).fresh
    under.now += 1
    assert not under.cache.find(STOP).fresh
    assert under.cache.refresh(STOP)
    assert under.cache.find(STOP).fresh
    under.now -= 299
    assert under.cache.find(STOP).fresh, "clocks differ by a little"
    under.now -= 10
    assert not under.cache.find(STOP).fresh, "fetched in the future is not fetched for ever"
    assert not under.cache.refresh(key_of("gone@1.0.0"))


def test_a_home_that_can_only_be_read_still_answers(under, monkeypatch):
    under.add(STOP, FILES)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert under.bytes_of(STOP) == FILES


# -- room -----------------------------------------------------------------------------------
def test_the_least_recently_used_goes_first(make):
    under = make(max_kib=40, lease=10)
    for number in (1, 2, 3):
        under.add(*_numbered(number))
        under.now += 20
    assert under.bytes_of(_numbered(1)[0]) == _numbered(1)[1]
    under.now += 20
    under.add(*_numbered(4))
    there = {entry.key.ref.playbook_id for entry in under.cache.entries()}
    assert there == {"p-1", "p-3", "p-4"}
    assert under.cache.usage()["evicted_bytes"] > 10_000
    assert [entry.key.ref.playbook_id for entry in under.cache.entries()] == ["p-4", "p-1", "p-3"]


def test_room_is_on_disk_before_it_is_given(make):
    under = make(max_kib=40, lease=0)
    for number in (1, 2, 3):
        under.add(*_numbered(number))
        under.now += 1
    under.reserve(STOP, 30_000, "hex")
    assert under.disk_bytes() <= 10_960
    assert under.cache.usage()["reserved_bytes"] == 30_000


def test_what_is_in_use_stays_and_nothing_goes_in_vain(make):
    under = make(max_kib=40, lease=10)
    under.add(*_numbered(1))
    under.now += 20
    under.add(*_numbered(2))
    under.add(*_numbered(3))
    under.now += 4
    with pytest.raises(CacheFull) as caught:
        under.add(*_numbered(4, 25_000))
    assert caught.value.retry_after == pytest.approx(6)
    assert len(under.cache.entries()) == 3
    under.now += 6
    under.add(*_numbered(4, 25_000))
    assert under.disk_bytes() <= under.cache.max_bytes


def test_a_reservation_counts_until_it_is_given_back(make):
    under = make(max_kib=40)
    under.reserve(STOP, 35_000, "hex")
    with pytest.raises(CacheFull):
        under.add(*_numbered(1))
    with under.journal.database.write() as connection:
        under.forget(STOP, connection)
    under.add(*_numbered(1))


def test_more_than_the_whole_cache_is_refused_for_good(make):
    under = make(max_kib=40)
    with pytest.raises(Refused, match="cache_max_size_mb"):
        under.add(*_numbered(1, 50_000))


def test_a_use_in_the_future_is_a_lease_that_ends(make):
    under = make(max_kib=40, lease=10)
    under.add(*_numbered(1, 30_000))
    under.now -= 1_000_000
    with pytest.raises(CacheFull):
        under.add(*_numbered(2, 30_000))
    under.now += 10
    under.add(*_numbered(2, 30_000))


def test_quarantine_goes_first_and_stays_within_its_share(make):
    under = make(max_kib=100, lease=0)
    for number in range(1, 8):
        key, files = _numbered(number, 4_000)
        under.add(key, files)
        under.cache.quarantine(key, "it looked odd")
        under.now += 1
    rows = under.aside()
    assert len(rows) == 2, "a tenth of the cache"
    assert under.cache.usage()["quarantined_bytes"] == sum(row.size_bytes for row in rows)
    under.add(*_numbered(1, 80_000))
    under.add(*_numbered(2, 14_000))
    assert len(under.cache.entries()) == 2
    assert len(under.aside()) < 2


def test_wrong_downloads_are_set_aside(under):
    staged = under.stage(STOP, FILES, name="hex")
    under.cache.quarantine_staged(staged.folder, STOP, "wrong checksum")
    (row,) = under.aside()
    assert row.key == STOP
    assert row.reason == "wrong checksum"
    assert under.cache.usage()["reserved_bytes"] == 0
    assert under.cache.find(STOP) is None


# -- replacing ------------------------------------------------------------------------------
def test_the_same_again_keeps_the_folder_and_other_bytes_take_its_place(under):
    under.add(STOP, FILES)
    inode = under.folder(STOP).stat().st_ino
    under.now += 50
    assert under.add(STOP, FILES).fetched_at == under.now
    assert under.folder(STOP).stat().st_ino == inode
    under.add(STOP, other := {"shell/stop.sh": b"other", "shell/lib.sh": b"lib"})
    assert under.bytes_of(STOP) == other
    assert under.aside() == []
    assert under.cache.verify() == []


def test_a_batch_is_one_transaction_and_fails_as_one(under):
    items = [under.stage(*_numbered(number)) for number in (1, 2)]
    hits = under.cache.promote_many(items)
    assert [hit.listing for hit in hits] == [item.listing for item in items]
    gone = under.stage(*_numbered(3))
    (gone.folder / "shell" / "a.sh").unlink()
    (gone.folder / "shell").rmdir()
    with pytest.raises(Exception, match="into the cache"):
        under.cache.promote_many([under.stage(*_numbered(4)), gone])
    assert under.cache.find(_numbered(4)[0]) is None
    assert under.cache.usage()["entries"] == 2


# -- evict and clear ------------------------------------------------------------------------
def test_evict_takes_what_is_too_old_but_not_what_is_in_use(make):
    under = make(ttl=100, lease=10)
    under.add(*_numbered(1))
    under.add(*_numbered(2, 1_000))
    under.cache.quarantine(_numbered(2)[0], "odd")
    under.now += 99
    assert under.cache.evict().bytes_freed == 0
    under.cache.find(_numbered(1)[0])
    under.now += 2
    report = under.cache.evict()
    assert (report.entries, report.quarantined, report.in_use) == (0, 1, 1)
    under.now += 10
    report = under.cache.evict()
    assert (report.entries, report.quarantined, report.in_use) == (1, 0, 0)
    assert report.bytes_freed > 10_000
    assert under.disk_bytes() == 0


def test_a_stale_entry_is_kept_for_serve_stale_until_room_is_needed(make):
    under = make(ttl=100, lease=10, max_kib=40, serve_stale=True)
    under.add(*_numbered(1))
    under.now += 60
    under.add(*_numbered(2))
    under.now += 60
    assert under.cache.evict().entries == 0
    assert not under.cache.find(_numbered(1)[0]).fresh
    under.now += 20
    under.add(*_numbered(3, 20_000))
    there = {entry.key.ref.playbook_id for entry in under.cache.entries()}
    assert there == {"p-2", "p-3"}, "what is too old goes before what was used less recently"


def test_clear_leaves_what_is_in_use(under):
    under.add(*_numbered(1))
    under.now += 20
    under.add(*_numbered(2))
    report = under.cache.clear()
    assert (report.entries, report.in_use) == (1, 1)
    under.now += 20
    assert under.cache.clear().in_use == 0
    assert under.disk_bytes() == 0


# -- telling --------------------------------------------------------------------------------
def test_usage_says_what_counts(under):
    assert under.cache.usage()["next_expiry"] is None
    under.add(STOP, FILES)
    for _ in range(3):
        under.cache.hit()
    under.cache.miss()
    usage = under.cache.usage()
    assert (usage["hits"], usage["misses"], usage["entries"]) == (3, 1, 1)
    assert usage["max_bytes"] == 64 * 1024
    assert under.disk_bytes() <= usage["used_bytes"] <= under.disk_bytes() + 20
    assert usage["next_expiry"] == pytest.approx(under.now + 86_400)


def test_counters_wait_for_nobody_and_lose_nothing(under):
    under.cache.hit()
    with under.journal.database.write():
        assert under.cache.usage()["hits"] == 0
    assert under.cache.usage()["hits"] == 1


def test_what_was_counted_before_a_fork_is_counted_once(under):
    under.cache.hit()
    child = multiprocessing.get_context("fork").Process(target=under.cache.close)
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert under.cache.usage()["hits"] == 1


def test_room_is_found_behind_what_a_clock_that_was_set_back_makes_look_used(make):
    under = make(max_kib=32)
    first, second, third = (_numbered(number) for number in (1, 2, 3))
    under.add(*first)
    under.add(*second)
    shutil.rmtree(under.folder(second[0]))  # by hand: the index still counts it
    under.now -= 60
    under.add(third[0], {"shell/a.sh": b"c" * 15_000})
    assert under.bytes_of(first[0]) == first[1], "it may be in use"


def test_finding_and_evicting_at_once_never_gives_a_wrong_byte(make):
    under = make(max_kib=30, lease=0)
    keys = [_numbered(number, 5_000) for number in range(1, 9)]
    wrong: list[object] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            for key, files in keys:
                hit = under.cache.find(key)
                if hit is not None and hit.listing != listing_of(key, files):
                    wrong.append(hit)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            for key, files in keys:
                under.now += 1
                under.add(key, files)
                assert under.disk_bytes() <= under.cache.max_bytes
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not wrong
    assert under.aside() == [], "an evicted entry is no damaged one"
    assert under.cache.verify() == []
