from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.bounded_json import (
    MAX_DEPTH,
    BadJson,
    read_items,
    read_json,
    read_object,
    read_stored,
)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (nested(33), "more than 32 levels"),
        (nested(400), "more than 32 levels"),
        (nested(200_000), "more than 32 levels"),
        ("[" * 200_000, "more than 32 levels"),
        ('{"a":' * 200_000, "more than 32 levels"),
        ('{"a": ' * 33 + "1" + "}" * 33, "more than 32 levels"),
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' twice"),
        ('{"x": [{"a": 1, "\\u0061": 2}]}', "key 'a' twice"),
        ("NaN", "NaN"),
        ("[-Infinity]", "Infinity"),
        ("[1e999]", "too large"),
        ("9" * 5000, "too long"),
        ("[1, 2", "not JSON"),
        ("", "not JSON"),
        ('"abc', "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
    ],
)
def test_a_fault_is_one_error_with_its_reason(text: str | bytes, why: str) -> None:
    with pytest.raises(BadJson, match=why):
        read_json(text)


def test_brackets_in_texts_are_none() -> None:
    text = json.dumps({"a": "[" * 500, "b": ["}" * 500, '"[\\"{' * 100]})
    assert read_json(text) == json.loads(text)


def test_a_text_over_the_size_is_not_looked_at() -> None:
    with pytest.raises(BadJson, match="more than 1 MiB"):
        read_json(b" " * (1 << 20) + b"{}", max_bytes=1 << 20)


def test_the_limits_are_kept_to_the_level() -> None:
    assert read_json(nested(MAX_DEPTH)) is not None
    assert read_object(b'\xef\xbb\xbf{"a": [1.5, 10, null, "\xc3\xa9"]}')["a"][3] == "é"
    with pytest.raises(BadJson, match="not a JSON object"):
        read_object("[]")


@pytest.mark.parametrize("text", ["[" * 200_000, nested(300), nested(200_000)])
def test_what_was_stored_is_bounded_too(text: str) -> None:
    with pytest.raises(BadJson):
        read_stored(text)


def test_what_was_stored_may_be_what_no_door_takes_today() -> None:
    assert read_stored('{"a": 1, "a": 2}') == {"a": 2}
    assert read_stored(nested(200)) is not None


@pytest.mark.parametrize(
    "bad",
    [
        '{"metadata": ' + nested(210) + "}",
        '{"metadata": ' + nested(100_000) + "}",
        '{"a": 1, "a": 2}',
        '{"score": NaN}',
        '{"a": "\\q"}',
    ],
)
def test_a_page_loses_the_bad_item_only(bad: str) -> None:
    before, after = (
        '{"cursor": "c]},:", "changes": [{"v": "1\\"]"}, ',
        ', {"v": [2]} ], "more": false}',
    )
    page = before + bad + after
    rest, items = read_items(page, "changes")
    assert rest == {"cursor": "c]},:", "more": False}
    assert items[0] == {"v": '1"]'}
    assert isinstance(items[1], BadJson)
    assert items[2] == {"v": [2]}


@pytest.mark.parametrize(
    "page",
    [
        "",
        "[]",
        '{"changes": 5}',
        '{"cursor": "a"}',
        '{"changes": [1, 2',
        '{"changes": [' + "[" * 100_000,
        '{"changes": [], "changes": []}',
        '{"changes": [NaN], "cursor": 1, "cursor": 2}',
        '{"changes": [NaN]} trailing',
        '{"changes": [NaN] "cursor": 1}',
        'x{"changes": [NaN]}',
        '{"changes": [NaN], "cursor": "' + '\\"' * 100_000,
    ],
)
def test_a_page_that_is_none_is_refused_whole(page: str) -> None:
    began = time.monotonic()
    with pytest.raises(BadJson):
        read_items(page, "changes")
    assert time.monotonic() - began < 5


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(values, max_size=6), st.integers(0, 6), st.booleans())
def test_by_hand_an_item_is_what_the_parser_makes_of_it(
    items: list[object], position: int, spaced: bool
) -> None:
    position = min(position, len(items))
    separators = (" , ", " : ") if spaced else (",", ":")
    texts = [json.dumps(item, separators=separators) for item in items]
    texts.insert(position, "NaN")
    page = '{"cursor": "x", "changes": [' + ",".join(texts) + "]}"
    rest, found = read_items(page, "changes")
    assert rest == {"cursor": "x"}
    assert isinstance(found.pop(position), BadJson)
    assert found == items
