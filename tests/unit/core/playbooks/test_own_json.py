"""What our own JSON may say at the doors: times, nulls, and faults with their place."""

from __future__ import annotations

import json

import pytest

from core.errors import InvalidPlaybook
from core.models import METADATA_FILE, PARAMETERS_FILE, PLAN_FILE, Ref
from core.playbooks.drafts import draft_from_folder

REF = Ref("stop-rds", "1.0.0")


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (1_767_225_600, 1_767_225_600),
        (1_767_225_600.0, 1_767_225_600),
        ("2026-01-01T00:00:00Z", 1_767_225_600),
        ("2026-01-01T01:00:00.750+01:00", 1_767_225_600),
        ("2026-01-01T00:00:00", 1_767_225_600),
        ("2026-01-01", 1_767_225_600),
        ("2026-01-01t00:00:00z", 1_767_225_600),
        ("2026-01-01T00:00:00.123456789Z", 1_767_225_600),
        ("20260101T053000+0530", 1_767_225_600),
        (946_684_800, 946_684_800),
        (4_102_444_800, 4_102_444_800),
    ],
)
def test_a_time_is_seconds_or_iso_text(store, make_draft, given, seconds):
    store.create(make_draft(created_at=given, updated_at=given))
    metadata = store.get(REF).metadata
    assert (metadata["created_at"], metadata["updated_at"]) == (seconds, seconds)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (1_767_225_600_000, "in milliseconds"),
        (1_767_225_600_123, "in milliseconds"),
        (0, "2000 and 2100"),
        (-1, "2000 and 2100"),
        (946_684_799, "2000 and 2100"),
        (4_102_444_801, "2000 and 2100"),
        (10**18, "2000 and 2100"),
        (1_767_225_600.5, "is no time"),
        (True, "is no time"),
        ([], "is no time"),
        ("yesterday", "no ISO 8601"),
        ("1767225600", "no ISO 8601"),
        ("1850-01-01", "2000 and 2100"),
    ],
)
@pytest.mark.parametrize("field", ["created_at", "updated_at"])
def test_other_times_are_refused_by_name(store, make_draft, field, given, why):
    with pytest.raises(InvalidPlaybook, match=rf"metadata\.json: {field} .*{why}"):
        store.create(make_draft(**{field: given}))


def test_milliseconds_are_told_as_seconds(store, make_draft):
    with pytest.raises(InvalidPlaybook) as failure:
        store.create(make_draft(created_at=1_767_225_600_123))
    assert "1767225600" in failure.value.remedy


def test_null_in_a_known_field_is_its_absence(store, make_draft):
    draft = make_draft()
    optional = ["purpose", "use_cases", "keywords", "prerequisites", "resource_types", "tags",
                "estimated_impact", "sensitive", "author", "status", "storage_strategy", "version",
                "deprecated_by", "created_at", "updated_at", "based_on_escher"]  # fmt: skip
    draft.metadata.update(dict.fromkeys(optional), theirs=None)
    store.create(draft)
    metadata = store.get(REF).metadata
    assert None not in [value for name, value in metadata.items() if name != "theirs"]
    assert metadata["theirs"] is None
    assert store.get(REF).playbook().metadata.keywords == []
    digest = store.get(REF).content_digest
    plain = make_draft(playbook_id="other")
    plain.metadata["theirs"] = None
    store.create(plain)
    other = {**store.get(Ref("other", "1.0.0")).metadata, "playbook_id": "stop-rds"}
    assert {k: v for k, v in other.items() if not k.endswith("_at")} == {
        k: v for k, v in metadata.items() if not k.endswith("_at")
    }
    assert digest.startswith("sha256:")


def test_null_where_something_must_be_is_refused(store, make_draft):
    draft = make_draft()
    draft.metadata["description"] = None
    with pytest.raises(InvalidPlaybook, match="description"):
        store.create(draft)


def test_null_flags_of_a_parameter_are_absent(store, make_draft):
    listed = [{"name": "region", "required": None, "sensitive": None, "default": None}]
    store.create(make_draft(parameters=listed))
    assert json.loads(store.read(REF)[PARAMETERS_FILE]) == {"parameters": listed}


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "a\u202eb", 3, None])
def test_a_parameter_without_a_proper_name_is_refused(store, make_draft, name):
    with pytest.raises(InvalidPlaybook, match=r"parameters\.json, parameter 2 has no proper name"):
        store.create(make_draft(parameters=[{"name": "ok"}, {"name": name}]))


def test_odd_names_of_parameters_are_warnings(store, make_draft):
    listed = [{"name": "x" * 128}, {"name": "Instance Id"}, {"name": "größe"}]
    warnings = " ".join(store.create(make_draft(parameters=listed)).warnings)
    assert "Instance Id" in warnings
    assert "größe" in warnings


FAULTS = [
    (b'{"parameters": [],\n  "a": 1,\n  "a": 2}', r"gives the key 'a' twice \(line 3, column 3\)"),
    (b'{"parameters": [],\n "x": NaN}', r"holds NaN, which is not JSON \(line 2, column 7\)"),
    (b'{"x": -Infinity}', r"holds -Infinity.* \(line 1, column 7\)"),
    (b'{"x":\n1e999}', r"number that is too large \(line 2, column 1\)"),
    (b'{"x": ' + b"[" * 32 + b"]" * 32 + b"}", r"more than 32 levels \(line 1, column 38\)"),
    (b'{"x": 1,}', r"line 1, column"),
]


@pytest.mark.parametrize("file", [METADATA_FILE, PARAMETERS_FILE, PLAN_FILE])
@pytest.mark.parametrize(("content", "why"), FAULTS)
def test_a_fault_is_refused_with_file_and_place(store, tmp_path, make_draft, file, content, why):
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / METADATA_FILE).write_text(json.dumps(make_draft().metadata))
    (folder / file).write_bytes(b"\xef\xbb\xbf" + content)
    with pytest.raises(InvalidPlaybook, match=rf"{file} .*{why}"):
        store.create(draft_from_folder(folder))


def test_a_byte_order_mark_is_dropped_at_the_door(store, tmp_path, make_draft):
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / METADATA_FILE).write_bytes(
        b"\xef\xbb\xbf" + json.dumps(make_draft().metadata).encode()
    )
    store.create(draft_from_folder(folder))
    assert (store.folder(REF) / METADATA_FILE).read_bytes().startswith(b"{")


def test_what_was_stored_with_other_times_goes_on(store, make_draft):
    """A version from before the rule, made in milliseconds: it is edited, and comes out in seconds."""
    store.create(make_draft())
    row = store.get(REF)
    store.journal.versions.set(REF, metadata=row.metadata | {"created_at": 1_767_225_600_000})
    store.update("stop-rds", make_draft({"shell/stop.sh": b"echo other\n"}))
    assert store.get(REF).metadata["created_at"] == 1_767_225_600
