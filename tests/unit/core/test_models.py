from __future__ import annotations

import hashlib
import json
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import EscherError, InvalidPlaybook, UsageError
from core.models import (
    SERVER_OWNED_FIELDS,
    FileEntry,
    Ref,
    Strategy,
    canonical_json,
    check_id,
    content_digest,
    parse_json_object,
    parse_metadata,
)

RAW: dict[str, Any] = {
    "playbook_id": "stop-rds",
    "version": "1.0.0",
    "name": "Stop idle RDS",
    "description": "Stops what nobody uses.",
    "cloud_provider": ["aws"],
    "created_at": 1_700_000_000,
    "updated_at": 1_700_000_000,
}
FILES = [
    FileEntry("shell/stop.sh", 5, "sha256:" + "a" * 64),
    FileEntry("parameters.json", 2, "sha256:" + "b" * 64),
]
KNOWN_DIGEST = "sha256:26f05f1012b72acf6afeb08b93801a152f1c6ee122b360efe70fe76bf01c7289"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


class TestContentDigest:
    def test_is_the_one_other_clients_and_servers_work_out(self) -> None:
        # the RFC 8785 form by hand: keys sorted, no spaces, server-owned fields left out
        canonical = (
            '{"files":[["parameters.json","sha256:' + "b" * 64 + '"],'
            '["shell/stop.sh","sha256:' + "a" * 64 + '"]],'
            '"metadata":{"cloud_provider":["aws"],"description":"Stops what nobody uses.",'
            '"name":"Stop idle RDS","playbook_id":"stop-rds","version":"1.0.0"}}'
        )
        expected = "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
        assert content_digest(RAW, FILES) == expected == KNOWN_DIGEST

    @given(st.dictionaries(st.sampled_from(sorted(SERVER_OWNED_FIELDS)), json_values))
    def test_leaves_out_what_the_server_owns(self, owned: dict[str, Any]) -> None:
        assert content_digest(RAW | owned, FILES) == content_digest(RAW, FILES)

    @given(st.randoms())
    def test_does_not_depend_on_any_order(self, chance: random.Random) -> None:
        files, fields = [*FILES, FileEntry("shell/z.sh", 1, "sha256:c")], list(RAW.items())
        digest = content_digest(RAW, files)
        chance.shuffle(files)
        chance.shuffle(fields)
        assert content_digest(dict(fields), files) == digest

    @given(st.text(max_size=8), json_values)
    def test_follows_every_other_field(self, name: str, value: Any) -> None:
        changed = RAW | {name: value}
        same = name in SERVER_OWNED_FIELDS or changed == RAW
        assert (content_digest(changed, FILES) == content_digest(RAW, FILES)) is same

    @pytest.mark.parametrize(
        "files",
        [
            FILES[:1],
            [FILES[0], FileEntry("parameters.json", 2, "sha256:" + "c" * 64)],
            [FILES[0], FileEntry("explain_plan.json", 2, "sha256:" + "b" * 64)],
        ],
        ids=["fewer", "other content", "other name"],
    )
    def test_follows_every_file(self, files: list[FileEntry]) -> None:
        assert content_digest(RAW, files) != content_digest(RAW, FILES)


class TestIds:
    @pytest.mark.parametrize(
        "playbook_id", ["", "-a", "A", "a_b", "a/b", "..", "a\n", "ä", "a" * 101, "a@1.0.0"]
    )
    def test_others_are_refused(self, playbook_id: str) -> None:
        with pytest.raises(InvalidPlaybook, match="not well-formed"):
            check_id(playbook_id)

    def test_a_ref_reads_back(self) -> None:
        ref = Ref("stop-rds", "1.0.0-rc.1")
        assert Ref.parse(str(ref)) == ref

    @pytest.mark.parametrize(
        "text", ["stop-rds", "@1.0.0", "a@", "a@1", "a@1.0.0@2.0.0", "../a@1.0.0"]
    )
    def test_what_is_no_ref_is_refused(self, text: str) -> None:
        with pytest.raises(EscherError):
            Ref.parse(text)


def test_strategies_have_short_names() -> None:
    assert [Strategy.parse(name) for name in ("keep", "review", "trusted")] == [
        Strategy.LOCAL_ONLY,
        Strategy.REVIEW,
        Strategy.TRUSTED,
    ]
    assert Strategy.parse("uploaded_trusted") is Strategy.TRUSTED
    with pytest.raises(UsageError, match="'dance'"):
        Strategy.parse("dance")


class TestMetadata:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("playbook_id", "Stop RDS"),
            ("version", 1),
            ("version", None),
            ("name", "ab"),
            ("name", "x" * 201),
            ("description", ""),
            ("description", "x" * 4001),
            ("use_cases", ["x"] * 51),
            ("keywords", "not a list"),
            ("prerequisites", [1]),
            ("cloud_provider", ["aws", "oracle"]),
            ("author", "somebody"),
            ("storage_strategy", "upload"),
            ("status", "great"),
            ("entry_points", {"shell": 1}),
            ("tags", []),
            ("sensitive", "yes"),
            ("created_at", -1),
            ("updated_at", "2024-01-01"),
            ("updated_at", 1.5),
        ],
    )
    def test_an_error_names_the_field(self, field: str, value: Any) -> None:
        with pytest.raises(InvalidPlaybook, match=rf"metadata\.json: {field}\b"):
            parse_metadata(RAW | {field: value})

    def test_all_broken_rules_are_in_one_error(self) -> None:
        with pytest.raises(InvalidPlaybook, match=r"a/metadata\.json: name: .*; status: "):
            parse_metadata(RAW | {"name": "", "status": "great"}, "a/metadata.json")

    def test_a_missing_field_is_named(self) -> None:
        without = {key: value for key, value in RAW.items() if key != "description"}
        with pytest.raises(InvalidPlaybook, match="description: field required"):
            parse_metadata(without)

    def test_a_version_with_build_metadata_is_refused(self) -> None:
        with pytest.raises(InvalidPlaybook, match=re.escape("1.0.0+b")):
            parse_metadata(RAW | {"version": "1.0.0+b"})

    @given(st.dictionaries(st.text(max_size=8).map("x-".__add__), json_values, max_size=4))
    def test_unknown_fields_are_kept_and_absent_ones_not_made_up(
        self, unknown: dict[str, Any]
    ) -> None:
        assert parse_metadata(RAW | unknown).as_json() == RAW | unknown

    @pytest.mark.parametrize(
        "value",
        [float("nan"), float("inf"), 2**60, "\ud800", {"\udfff": 1}],
        ids=["NaN", "infinity", "2^60", "lone surrogate", "lone surrogate in a key"],
    )
    def test_a_value_without_a_canonical_form_is_refused(self, value: Any) -> None:
        with pytest.raises(InvalidPlaybook):
            parse_metadata(RAW | {"tags": {"x": value}})
        with pytest.raises(InvalidPlaybook):
            parse_metadata(RAW | {"newer": [value]})

    def test_a_value_nested_beyond_reason_is_refused(self) -> None:
        deep: Any = 1
        for _ in range(5000):
            deep = [deep]
        with pytest.raises(InvalidPlaybook):
            parse_metadata(RAW | {"newer": deep})


class TestJson:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"[1]", "not a JSON object"),
            (b"", "line 1, column 1"),
            (b'{"a": 1,\n "b"}', "line 2, column 5"),
            (b'{"a": NaN}', "NaN"),
            (b'{"a": -Infinity}', "-Infinity"),
            (b'{"a": "\xff"}', "byte 7"),
            (b'{"a":' * 100_000, "nested too deeply"),
            (b'{"a": ' + b"1" * 5000 + b"}", "number"),
        ],
        ids=["list", "empty", "syntax", "NaN", "infinity", "latin-1", "depth", "digits"],
    )
    def test_what_is_wrong_and_where(self, content: bytes, words: str) -> None:
        with pytest.raises(InvalidPlaybook) as refused:
            parse_json_object(content, "a/metadata.json")
        assert "a/metadata.json" in refused.value.detail
        assert words in refused.value.detail

    @given(st.dictionaries(st.text(max_size=5), json_values))
    def test_what_is_right_is_read(self, value: dict[str, Any]) -> None:
        assert parse_json_object(json.dumps(value).encode(), "x") == value
        assert json.loads(canonical_json(value)) == value
