from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.script_cache import key_of, listing_of

from core.errors import IntegrityError
from core.scripts.entries import (
    Manifest,
    Place,
    decode,
    footprint,
    place_of,
    read_manifest,
    write_manifest,
)

KEY = key_of("vpc@1.0.0", "terraform")
LISTING = listing_of(KEY, {"terraform/main.tf": b"a", "terraform/größe.tf": b"bb"})
MANIFEST = Manifest(LISTING, "tenant", 1_800_000_000.123456)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = place_of(tmp_path, KEY)
    place.root.mkdir(parents=True)
    return place


def test_what_is_written_is_read_again_and_leaves_nothing_beside_it(place):
    assert read_manifest(place) is None
    write_manifest(place, MANIFEST)
    assert read_manifest(place) == MANIFEST
    assert [path.name for path in place.root.iterdir()] == [".terraform.json"]


def test_a_row_of_the_index_has_the_same(place):
    assert Manifest.of_row(MANIFEST.row(place, 1.0)) == MANIFEST


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(where: int, bit: int) -> None:
    content = bytearray(MANIFEST.encode())
    content[where % len(content)] ^= 1 << bit
    place = place_of(Path("/nowhere"), KEY)
    found = None
    with suppress(IntegrityError):
        found = decode(bytes(content), place)
    assert found in (None, MANIFEST), "white space at its end changes nothing"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format_version", 2),
        ("playbook_id", "other"),
        ("entry_point", "terraform/none.tf"),
        ("files", [["../up.tf", 1, "sha256:" + "a" * 64]]),
        ("files", [["shell/a.sh", 1, "sha256:" + "a" * 64]]),
        ("files", [["terraform/main.tf", -1, "sha256:" + "a" * 64]]),
        ("files", [["terraform/main.tf", 1, "md5:1"]]),
        ("files", 3),
    ],
)
def test_a_field_that_can_not_be_is_refused_with_a_right_digest_too(place, field, value):
    from core.scripts import entries as module

    body = json.loads(MANIFEST.encode())
    del body["digest"]
    body[field] = value
    with pytest.raises(IntegrityError, match="damaged"):
        decode(module._sealed(json.dumps(body).encode()), place)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff", b"{}", b"[" * 100_000])
def test_what_is_no_manifest_is_refused(place, content):
    with pytest.raises(IntegrityError, match="damaged"):
        decode(content, place)


def test_a_link_or_a_folder_in_its_place_is_damage(place):
    place.manifest.symlink_to("elsewhere")
    with pytest.raises(IntegrityError):
        read_manifest(place)
    place.manifest.unlink()
    place.manifest.mkdir()
    with pytest.raises(IntegrityError):
        read_manifest(place)


@given(st.floats(0, 9_999_999_999.9))
def test_the_footprint_is_never_too_small(at: float) -> None:
    for source in ("tenant", "library"):
        written = len(Manifest(LISTING, source, at).encode()) + LISTING.size_bytes
        assert written <= footprint(LISTING)
    assert footprint(LISTING) <= written + 25
