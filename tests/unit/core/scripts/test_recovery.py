from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.script_cache import CacheUnderTest, key_of

STOP, START = key_of("stop-rds@1.0.0"), key_of("start-rds@1.0.0")
FILES = {"shell/stop.sh": b"#!/bin/sh\necho stop\n"}


@pytest.fixture
def under(tmp_path: Path) -> Iterator[CacheUnderTest]:
    made = CacheUnderTest(tmp_path / "home")
    made.add(STOP, FILES)
    yield made
    made.close()


def _lose_the_journal(under: CacheUnderTest) -> None:
    under.close()
    for path in under.settings.home.glob("journal.db*"):
        path.unlink()
    under.open()


def _told(under: CacheUnderTest) -> list[str]:
    return [problem.what for problem in under.cache.verify()]


def test_a_lost_journal_is_rebuilt_with_ages_and_last_uses(under):
    fetched = under.now
    under.now += 500
    under.cache.find(STOP)
    _lose_the_journal(under)
    assert under.cache.usage()["entries"] == 0
    assert _told(under) == ["The index does not know it so."]
    under.now += 100
    under.cache.reconcile()
    (entry,) = under.cache.entries()
    assert (entry.key, entry.fetched_at) == (STOP, fetched)
    assert entry.last_used == pytest.approx(fetched + 500)
    assert _told(under) == []


def test_a_lost_manifest_is_written_anew_from_the_index(under):
    under.cache.layout.place(STOP).manifest.unlink()
    assert _told(under) == ["Its manifest is missing."]
    under.cache.reconcile()
    assert under.bytes_of(STOP) == FILES


def test_bytes_that_nothing_vouches_for_are_quarantined(under):
    under.cache.layout.place(STOP).manifest.unlink()
    _lose_the_journal(under)
    under.cache.reconcile()
    assert under.cache.find(STOP) is None
    assert under.cache.usage()["entries"] == 0
    assert under.cache.usage()["quarantined_bytes"] == len(FILES["shell/stop.sh"])
    assert _told(under) == []


def test_rows_and_manifests_without_a_folder_go(under):
    place = under.cache.layout.place(STOP)
    (place.folder / "stop.sh").unlink()
    place.folder.rmdir()
    assert _told(under) == ["Its folder is missing."]
    under.cache.reconcile()
    assert not place.root.exists()
    assert under.cache.usage()["used_bytes"] == 0


def test_a_quarantine_that_was_emptied_by_hand_or_filled(under):
    under.cache.quarantine(STOP, "odd")
    (row,) = under.aside()
    aside = under.cache.layout.root / row.name
    aside.rename(aside.parent / "python-by-hand")
    (under.cache.layout.quarantine / "note.txt").write_bytes(b"12345")
    assert len(_told(under)) == 3
    under.cache.reconcile()
    names = {row.name for row in under.aside()}
    assert names == {"quarantine/stop-rds-v1.0.0/python-by-hand", "quarantine/note.txt"}
    assert _told(under) == []


def test_leftovers_of_killed_processes_go(under):
    layout = under.cache.layout
    nobodys, named = (layout.staging / name for name in ("nobodys", "named"))
    for folder in (nobodys, named, layout.trash / "x"):
        (folder / "shell").mkdir(parents=True)
        (folder / "shell" / "a").write_bytes(b"x")
    under.reserve(START, 10, "named")
    (layout.place(STOP).root / ".shell.json.1234.tmp").write_bytes(b"{")
    assert len(_told(under)) == 3 - 1  # making room has swept the trash
    under.cache.evict()
    assert sorted(path.name for path in layout.staging.iterdir()) == ["named"]
    assert under.aside() == []
    assert _told(under) == []


def test_verify_names_what_it_finds_and_changes_nothing(under):
    (under.folder(STOP) / "stop.sh").write_bytes(b"#!/bin/sh\necho stoq\n")
    (under.cache.layout.scripts / "README").write_bytes(b"hello")
    before = sorted(under.settings.cache_path.rglob("*"))
    damaged, stray = under.cache.verify()
    assert damaged.key == STOP
    assert "'shell/stop.sh' has other bytes" in damaged.what
    assert stray.path.endswith("README")
    assert damaged.as_json()["ref"] == "stop-rds@1.0.0"
    assert sorted(under.settings.cache_path.rglob("*")) == before


def test_an_index_that_says_other_than_the_disk_is_put_right(under, tmp_path):
    elsewhere = CacheUnderTest(tmp_path / "other")
    elsewhere.add(STOP, other := {"shell/stop.sh": b"echo other"})
    elsewhere.close()
    place = under.cache.layout.place(STOP)
    (place.folder / "stop.sh").write_bytes(other["shell/stop.sh"])
    place.manifest.write_bytes(elsewhere.cache.layout.place(STOP).manifest.read_bytes())
    under.cache.reconcile()
    assert under.bytes_of(STOP) == other
    assert _told(under) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda root: root.write_bytes(b"x"),
        lambda root: root.symlink_to("/etc"),
        lambda root: (root / "shell").mkdir(parents=True) or (root / "shell" / "x").touch(),
    ],
)
def test_whatever_stands_in_an_entrys_place_does_not_stop_it(under, make: Callable[[Path], None]):
    make(under.cache.layout.place(START).root)
    assert under.cache.find(START) is None
    under.add(START, FILES)
    assert under.bytes_of(START) == FILES
    assert _told(under) == []


def test_a_cache_that_was_never_used(tmp_path):
    empty = CacheUnderTest(tmp_path / "empty")
    assert empty.cache.verify() == []
    assert empty.cache.evict().bytes_freed == 0
    assert empty.cache.clear().entries == 0
    assert empty.cache.entries() == []
    empty.close()
