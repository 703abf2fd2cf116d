"""A cache folder is this home's, or nothing in it is touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.script_cache import CacheUnderTest, key_of

from core.errors import Refused
from core.scripts.layout import MARKER

KEY = key_of("stop-idle@1.0.0")
FILES = {"shell/run.sh": b"echo stop"}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere"


@pytest.fixture
def under(tmp_path: Path, elsewhere: Path) -> Iterator[CacheUnderTest]:
    made = CacheUnderTest(tmp_path / "home", cache_dir=elsewhere)
    yield made
    made.close()


def tree(root: Path) -> dict[str, bytes | None]:
    found = sorted(root.rglob("*"))
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in found}


THEIRS = {
    "a file": "thesis.tex",
    "a folder of the same name": "scripts/backup.sh",
    "somebody's trash": "trash/old-mail.mbox",
    "somebody's staging": "staging/release/app.bin",
    "somebody's quarantine": "quarantine/virus/sample",
    "somebody's library": "library/books/one.pdf",
    "what looks like a version": "scripts/site-v1.0.0/index.html",
    "what looks like an entry": "scripts/site-v1.0.0/shell/run.sh",
    "other copies": "copies/2026/photo.jpg",
    "other copies by digest": f"copies/{'a' * 64}/photo.jpg",
}


@pytest.mark.parametrize("name", THEIRS.values(), ids=THEIRS)
def test_things_of_others_are_never_moved_or_removed(
    under: CacheUnderTest, elsewhere: Path, name: str
) -> None:
    (elsewhere / name).parent.mkdir(parents=True)
    (elsewhere / name).write_text("theirs")
    before = tree(elsewhere)
    cache = under.cache
    for change in (
        cache.reconcile,
        cache.clear,
        cache.evict,
        lambda: under.stage(KEY, FILES),
        lambda: cache.quarantine(KEY, "wrong"),
        lambda: cache.refresh(KEY),
    ):
        with pytest.raises(Refused, match="holds what is not the cache's") as refused:
            change()
        assert str(elsewhere) in refused.value.detail
        assert "cache_dir" in refused.value.remedy
    cache.verify()
    assert tree(elsewhere) == before


@pytest.mark.parametrize("made", [False, True])
def test_a_new_or_empty_folder_gets_a_marker(
    under: CacheUnderTest, elsewhere: Path, made: bool
) -> None:
    if made:
        elsewhere.mkdir()
        (elsewhere / ".DS_Store").write_text("")
    under.add(KEY, FILES)
    assert json.loads((elsewhere / MARKER).read_text())["home"] == str(under.settings.home)
    (elsewhere / "scripts" / "stray").write_text("it strayed into our cache")
    under.cache.reconcile()
    assert not (elsewhere / "scripts" / "stray").exists(), "ours is kept tidy as ever"


class TestACacheOfBefore:
    """One without a marker, as homes of before have it."""

    @pytest.fixture(params=["in the home", "elsewhere"])
    def of_before(
        self, request: pytest.FixtureRequest, tmp_path: Path, elsewhere: Path
    ) -> Iterator[CacheUnderTest]:
        place = {} if request.param == "in the home" else {"cache_dir": elsewhere}
        made = CacheUnderTest(tmp_path / "home", **place)
        made.add(KEY, FILES)
        made.add(key_of("other@2.0.0", "python"), {"python/main.py": b"pass"})
        root = made.cache.layout.root
        made.cache.quarantine(key_of("other@2.0.0", "python"), "for a test")
        (root / "metadata").mkdir()
        (root / "metadata" / "last_sync.json").write_text("{}")
        (root / "library" / "escher-a-v1.0.0").mkdir(parents=True)
        (root / MARKER).unlink()
        made.open()
        yield made
        made.close()

    def test_is_known_again_and_gets_its_marker(self, of_before: CacheUnderTest) -> None:
        assert of_before.bytes_of(KEY) == FILES
        of_before.cache.reconcile()
        assert (of_before.cache.layout.root / MARKER).is_file()
        assert of_before.bytes_of(KEY) == FILES

    def test_is_known_by_its_manifests_when_the_journal_is_lost(
        self, of_before: CacheUnderTest
    ) -> None:
        of_before.journal.close()
        for path in of_before.settings.home.glob("journal.db*"):
            path.unlink()
        of_before.open()
        of_before.cache.reconcile()
        assert (of_before.cache.layout.root / MARKER).is_file()
        assert of_before.bytes_of(KEY) == FILES

    @pytest.mark.parametrize("name", ["notes.txt", "scripts-old/run.sh", "trash.zip"])
    def test_with_something_beside_it_is_refused(
        self, of_before: CacheUnderTest, name: str
    ) -> None:
        root = of_before.cache.layout.root
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("theirs")
        with pytest.raises(Refused, match=name.partition("/")[0]):
            of_before.cache.reconcile()
        assert of_before.bytes_of(KEY) == FILES, "it is read all the same: its bytes are proven"


def test_a_cache_of_another_home_is_refused(
    under: CacheUnderTest, tmp_path: Path, elsewhere: Path
) -> None:
    under.add(KEY, FILES)
    before = tree(elsewhere)
    other = CacheUnderTest(tmp_path / "other", cache_dir=elsewhere)
    with pytest.raises(Refused, match="belongs to another home"):
        other.cache.clear()
    other.close()
    assert tree(elsewhere) == before


def test_a_home_that_was_moved_keeps_its_cache(tmp_path: Path) -> None:
    under = CacheUnderTest(tmp_path / "home")
    under.add(KEY, FILES)
    under.close()
    shutil.move(tmp_path / "home", tmp_path / "moved")
    moved = CacheUnderTest(tmp_path / "moved")
    moved.cache.reconcile()
    assert moved.bytes_of(KEY) == FILES
    moved.close()


def test_copies_alone_do_not_keep_a_cache_that_lost_its_marker_from_us(
    under: CacheUnderTest, elsewhere: Path
) -> None:
    """As after a backup that leaves out names with a dot."""
    copy = elsewhere / "copies" / ("a" * 64) / "shell" / "run.sh"
    copy.parent.mkdir(parents=True)
    copy.write_text("ours")
    under.cache.reconcile()
    assert (elsewhere / MARKER).is_file()
    assert copy.is_file()


class TestLinks:
    """A link inside the cache leads out of it."""

    @pytest.mark.parametrize("name", ["scripts", "staging", "quarantine", "trash", "library"])
    def test_of_its_folders_are_refused(
        self, under: CacheUnderTest, elsewhere: Path, tmp_path: Path, name: str
    ) -> None:
        under.add(KEY, FILES)
        theirs = tmp_path / "theirs"
        (elsewhere / name).mkdir(exist_ok=True)
        (elsewhere / name).rename(theirs)
        (theirs / "0123456789abcdef0123456789abcdef").mkdir()
        (elsewhere / name).symlink_to(theirs)
        before = tree(theirs)
        for change in (under.cache.reconcile, under.cache.clear, lambda: under.stage(KEY, FILES)):
            with pytest.raises(Refused, match=name):
                change()
        assert tree(theirs) == before

    @pytest.mark.parametrize("change", ["find", "reconcile", "clear", "add", "quarantine"])
    def test_of_an_entry_are_removed_and_not_followed(
        self, under: CacheUnderTest, tmp_path: Path, change: str
    ) -> None:
        under.add(KEY, FILES)
        root = under.cache.layout.place(KEY).root
        theirs = tmp_path / "theirs"
        root.rename(theirs)
        root.symlink_to(theirs)
        before = tree(theirs)
        match change:
            case "find":
                assert under.cache.find(KEY) is None
            case "reconcile":
                under.cache.reconcile()
            case "clear":
                under.now += 1000
                under.cache.clear()
            case "add":
                under.add(KEY, FILES)
                assert under.bytes_of(KEY) == FILES
            case _:
                under.cache.quarantine(KEY, "for a test")
        assert tree(theirs) == before
        assert not root.is_symlink()
