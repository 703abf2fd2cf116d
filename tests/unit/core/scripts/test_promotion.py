"""A staged folder becomes an entry, whatever of its version is in the cache already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.script_cache import CacheUnderTest, key_of

from core.scripts.entries import Manifest, Place, write_manifest

SHELL = {"shell/stop.sh": b"echo stop\n"}
TERRAFORM = {"terraform/main.tf": b"resource {}\n", "terraform/in/a.tf": b"a\n"}


@pytest.fixture
def under(tmp_path: Path):
    under = CacheUnderTest(tmp_path / "home")
    yield under
    under.close()


def all_are_there(under: CacheUnderTest, *entries: tuple[str, dict[str, bytes]]) -> None:
    for format_, files in entries:
        assert under.bytes_of(key_of("a@1.0.0", format_)) == files
    layout = under.cache.layout
    assert list(layout.staging.iterdir()) == []
    assert under.cache.verify() == []


def test_a_version_that_is_new_to_the_cache(under):
    staged = under.stage(key_of("a@1.0.0"), SHELL)
    under.cache.promote_many([staged])
    all_are_there(under, ("shell", SHELL))


def test_two_formats_of_a_version_at_once(under):
    shell = under.stage(key_of("a@1.0.0"), SHELL)
    terraform = under.stage(key_of("a@1.0.0", "terraform"), TERRAFORM)
    under.cache.promote_many([shell, terraform])
    all_are_there(under, ("shell", SHELL), ("terraform", TERRAFORM))


def test_a_format_beside_another(under):
    under.cache.promote_many([under.stage(key_of("a@1.0.0"), SHELL)])
    under.cache.promote_many([under.stage(key_of("a@1.0.0", "terraform"), TERRAFORM)])
    all_are_there(under, ("shell", SHELL), ("terraform", TERRAFORM))


def test_a_manifest_in_staging_of_a_promotion_that_was_killed_is_replaced(under):
    staged = under.stage(key_of("a@1.0.0"), SHELL)
    write_manifest(
        Place(staged.listing.key, staged.folder), Manifest(staged.listing, "tenant", 1.0)
    )
    hit = under.cache.promote_many([staged])[0]
    assert hit.fetched_at == under.now
    all_are_there(under, ("shell", SHELL))


def test_what_else_is_in_staging_does_not_come_along(under):
    staged = under.stage(key_of("a@1.0.0"), SHELL | {"other": b"?"})
    listing = under.stage(key_of("a@1.0.0"), SHELL).listing
    under.cache.promote_many([replace(staged, listing=listing)])
    assert not (under.folder(key_of("a@1.0.0")).parent / "other").exists()
    assert under.bytes_of(key_of("a@1.0.0")) == SHELL
