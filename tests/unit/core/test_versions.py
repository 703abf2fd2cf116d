from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InvalidPlaybook
from core.models import is_higher, latest, next_patch, parse_version, sorted_versions

_number = st.integers(0, 30).map(str)
_core = st.tuples(_number, _number, _number).map(".".join)
_word = st.from_regex(r"[a-z][a-z0-9-]{0,5}", fullmatch=True)
_prerelease = st.lists(st.one_of(_number, _word), min_size=1, max_size=3).map(".".join)
VERSIONS = st.one_of(_core, st.tuples(_core, _prerelease).map("-".join))

# semver.org, item 11, word for word
PRECEDENCE = [
    "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2",
    "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.9.0", "1.10.0", "2.0.0", "2.1.0", "2.1.1",
]  # fmt: skip


def test_precedence_is_semvers() -> None:
    assert sorted_versions(reversed(PRECEDENCE)) == PRECEDENCE
    assert latest(PRECEDENCE) == "2.1.1"
    for lower, higher in itertools.pairwise(PRECEDENCE):
        assert is_higher(higher, lower)
        assert not is_higher(lower, higher)


def test_of_none_there_is_no_latest() -> None:
    assert latest([]) is None


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "1.0", "v1.0.0", "1.0.0.0", "01.0.0", "1.00.0", "1.0.0-", "1.0.0-01", "1.0.0-a..b",
        "1.0.0+build", "1.0.0-rc.1+build", " 1.0.0", "1.0.0 ", "1.0.0\n", "1.0.0-ü", "-1.0.0",
        "1.0.0/../2", "latest", "١.٠.٠", "1.0.0-" + "a" * 60,
    ],
)  # fmt: skip
def test_anything_else_is_refused_and_named(text: str) -> None:
    with pytest.raises(InvalidPlaybook) as refused:
        parse_version(text)
    assert repr(text) in refused.value.detail or "too long" in refused.value.detail
    assert "SemVer" in refused.value.remedy


@pytest.mark.parametrize(
    ("version", "taken", "expected"),
    [
        ("1.0.0", (), "1.0.1"),
        ("1.0.0-rc.1", (), "1.0.0"),
        ("1.0.0-rc.1", ("1.0.0",), "1.0.1"),
        ("1.0.9", ("1.0.10", "1.0.11", "1.1.0"), "1.0.12"),
    ],
)
def test_the_next_patch(version: str, taken: tuple[str, ...], expected: str) -> None:
    assert next_patch(version, taken) == expected


@settings(max_examples=40)
@given(VERSIONS, st.sets(VERSIONS, max_size=5))
def test_the_next_patch_is_free_and_higher(version: str, taken: set[str]) -> None:
    following = next_patch(version, taken)
    assert following not in taken
    assert is_higher(following, version)


@settings(max_examples=40)
@given(st.lists(VERSIONS, min_size=1, max_size=8))
def test_the_latest_is_the_end_of_the_order_and_a_version_reads_back(versions: list[str]) -> None:
    ordered = sorted_versions(versions)
    top = latest(versions)
    assert top is not None
    assert not is_higher(ordered[-1], top)
    assert not is_higher(top, ordered[-1])
    assert [str(parse_version(version)) for version in versions] == versions
