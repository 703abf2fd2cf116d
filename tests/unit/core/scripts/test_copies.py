"""Read-only copies count towards the cache, go when it needs room, and not within their lease."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.script_cache import KIBIBYTE, CacheUnderTest, key_of, listing_of

from core.errors import CacheFull, IntegrityError, Refused
from core.files import write_tree
from core.models import Ref, ScriptKey

LEASE = 10


@pytest.fixture
def under(tmp_path: Path):
    under = CacheUnderTest(tmp_path / "home", max_kib=64, lease=LEASE)
    yield under
    under.close()


def copy(under: CacheUnderTest, name: str, kib: int = 10) -> Path:
    key = ScriptKey(Ref(name, "1.0.0"), "shell")
    files = {"shell/run.sh": name.encode() * (kib * KIBIBYTE // len(name))}
    source = under.settings.home / "source" / name
    if not source.exists():
        write_tree(source, files)
    return under.cache.copies.of(listing_of(key, files), source)


def used(under: CacheUnderTest) -> int:
    return int(under.cache.usage()["used_bytes"])


def test_it_counts_towards_the_cache_and_the_same_content_is_one_copy(under):
    first = copy(under, "abcd")
    assert used(under) == 10 * KIBIBYTE == under.cache.usage()["copies_bytes"]
    assert copy(under, "abcd") == first
    assert used(under) == 10 * KIBIBYTE


def test_copies_give_way_to_downloads_and_to_each_other_but_not_within_their_lease(under):
    made = [copy(under, name, 20) for name in ("aaaa", "bbbb", "cccc")]
    with pytest.raises(CacheFull):
        copy(under, "dddd", 20)
    under.now += LEASE / 2
    copy(under, "aaaa", 20)  # used again
    under.now += LEASE / 2 + 1
    fourth = copy(under, "dddd", 20)
    assert [path.exists() for path in (*made, fourth)] == [True, False, True, True]
    under.now += LEASE + 1
    under.add(key_of("a@1.0.0"), {"shell/a.sh": b"x" * 40 * KIBIBYTE})
    assert used(under) <= 64 * KIBIBYTE


def test_what_is_too_old_or_cleared_goes(under):
    first = copy(under, "abcd")
    under.cache.evict()
    assert first.exists()
    under.now += LEASE + 1
    assert under.cache.clear().bytes_freed == 10 * KIBIBYTE
    assert not first.exists()
    second = copy(under, "abcd")
    under.now += 2 * 86_400
    under.cache.evict()
    assert not second.exists()
    assert used(under) == 0


def test_more_than_the_cache_holds_is_refused_and_wrong_bytes_are_no_copy(under):
    with pytest.raises(Refused, match="whole cache"):
        copy(under, "abcd", 100)
    listing = listing_of(key_of("a@1.0.0"), {"shell/a.sh": b"right"})
    source = under.settings.home / "other"
    write_tree(source, {"shell/a.sh": b"wrong"})
    with pytest.raises(IntegrityError):
        under.cache.copies.of(listing, source)
    assert list((under.settings.cache_path / "copies").iterdir()) == []
    assert used(under) == 0
