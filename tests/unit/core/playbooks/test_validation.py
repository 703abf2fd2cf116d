from __future__ import annotations

import contextlib
import json

import pytest

from core.encryption import Envelope, MasterKey, Place
from core.errors import EscherError, InvalidPlaybook, Refused
from core.models import PlaybookDraft, Strategy
from core.playbooks.validation import MIB, Limits, draft_warnings, normalise


def test_absent_fields_are_filled_and_unknown_ones_kept(make_draft):
    draft = make_draft(playbook_id=None, owner={"team": "dba"}, purpose=None)
    metadata = normalise(draft, now=1000).metadata
    assert metadata["playbook_id"] == "stop-idle-rds"
    assert metadata["version"] == "1.0.0"
    assert (metadata["author"], metadata["storage_strategy"]) == ("user_custom", "local_only")
    assert (metadata["status"], metadata["resource_types"]) == ("ready", [])
    assert metadata["created_at"] == metadata["updated_at"] == 1000
    assert metadata["owner"] == {"team": "dba"}


def test_what_is_given_goes_before_the_metadata(make_draft):
    metadata = normalise(
        make_draft(version="2.0.0"),
        now=1,
        playbook_id="other",
        version="3.0.0",
        strategy=Strategy.REVIEW,
        author="ai_generated",
    ).metadata
    assert (metadata["playbook_id"], metadata["version"]) == ("other", "3.0.0")
    assert metadata["storage_strategy"] == "uploaded_for_review"
    assert metadata["status"] == "draft"


def test_normalising_twice_changes_nothing(make_draft):
    once = normalise(make_draft(parameters=[{"name": "a"}]), now=1_767_225_600)
    assert normalise(once, now=1_767_225_601) == once


@pytest.mark.parametrize(
    "fields",
    [
        {"name": None},
        {"name": "ab"},
        {"description": ""},
        {"cloud_provider": ["ibm"]},
        {"cloud_provider": "aws"},
        {"version": "1.0"},
        {"version": "1.0.0+build"},
        {"version": "1.0.0\n"},
        {"version": 1},
        {"playbook_id": "../etc"},
        {"playbook_id": "Stop"},
        {"playbook_id": "a" * 101},
        {"status": "unheard"},
        {"keywords": ["x"] * 51},
        {"tags": "x"},
        {"sensitive": "yes"},
        {"created_at": -1},
        {"owner": float("inf")},
        {"owner": "\ud800"},
    ],
)
def test_a_broken_rule_names_the_file(make_draft, fields):
    with pytest.raises(InvalidPlaybook, match=r"metadata\.json") as caught:
        normalise(make_draft(**fields), now=1)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"playbook_id": "escher-stop"}, "Escher Library"),
        ({"playbook_id": None, "name": "Escher stop"}, "Escher Library"),
    ],
)
def test_policy_refuses(make_draft, fields, word):
    with pytest.raises(Refused, match=word) as caught:
        normalise(make_draft(**fields), now=1)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "paths",
    [
        ["../x.sh"],
        ["/etc/passwd"],
        ["shell/../../x"],
        ["shell/"],
        ["shell//x"],
        ["shell/a\\b"],
        ["shell/a\x00b"],
        ["shell"],
        ["metadata.json"],
        ["README.md"],
        ["ruby/x.rb"],
        ["shell/a", "shell/A"],
        ["shell/D/a", "shell/d/b"],
        ["shell/a", "shell/a/b"],
    ],
)
def test_names_that_are_no_playbooks_are_refused(make_draft, paths):
    with pytest.raises(InvalidPlaybook) as caught:
        normalise(make_draft(dict.fromkeys(paths, b"x")), now=1)
    assert caught.value.remedy


def test_size_and_number_are_capped(make_draft):
    limits = Limits(file_bytes=10, total_bytes=25, files=3)
    normalise(make_draft({"shell/a": b"x" * 10, "shell/b": b"x" * 10}), now=1, limits=limits)
    for files, word in (
        ({"shell/a": b"x" * 11}, "shell/a"),
        ({f"shell/{i}": b"x" * 9 for i in range(3)}, "together"),
        ({f"shell/{i}": b"" for i in range(4)}, "More than 3"),
    ):
        with pytest.raises(InvalidPlaybook, match=word):
            normalise(make_draft(files), now=1, limits=limits)


def test_the_limit_of_a_file_follows_the_setting(settings):
    settings.max_script_size_mb = 2
    assert Limits.of(settings) == Limits(2 * MIB, 1024 * MIB, 2000)


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{}",
        b"{",
        b"\xff\xfe",
        b'{"parameters": {}}',
        b'{"parameters": [1]}',
        b'{"parameters": [{"type": "x"}]}',
        b'{"parameters": [{"name": ""}]}',
        b'{"parameters": [{"name": "a\\u0007"}]}',
        b'{"parameters": [{"name": "a", "sensitive": "yes"}]}',
        b'{"parameters": [{"name": "a", "default": NaN}]}',
        b'{"parameters": [{"name": "a", "sensitive": true, "default": 1e999}]}',
        b'{"parameters": [{"name": "a", "sensitive": true, "default": "\\ud800"}]}',
        b'{"parameters": [{"name": "a", "default": {"$encrypted": "eA=="}}]}',
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
)
def test_parameters_json_is_checked(make_draft, content):
    with pytest.raises(InvalidPlaybook, match=r"parameters\.json"):
        normalise(make_draft({"parameters.json": content}), now=1)


def test_the_plan_is_any_object(make_draft):
    normalise(make_draft({"explain_plan.json": b'{"steps": []}'}), now=1)
    with pytest.raises(InvalidPlaybook, match=r"explain_plan\.json"):
        normalise(make_draft({"explain_plan.json": b"[1]"}), now=1)


def test_sealed_content_of_another_place_is_refused(make_draft):
    sealed = Envelope(MasterKey(b"x" * 32)).seal(b"echo", Place("a", "1.0.0", "shell/a.sh", 1))
    with pytest.raises(InvalidPlaybook, match=r"shell/a\.sh is encrypted"):
        normalise(make_draft({"shell/a.sh": sealed}), now=1)


def test_oddities_are_warnings(make_draft):
    draft = make_draft(
        {"shell/b.sh": b"", "shell/a.sh": b"", "python/x.py": b""},
        parameters=[{"name": "SecretARN"}, {"name": "twice"}, {"name": "twice"}],
    )
    draft = PlaybookDraft(draft.metadata, draft.files, ("README.md",))
    warnings = "\n".join(draft_warnings(normalise(draft, now=1)))
    for word in ("README.md", "SecretARN", "twice", "shell/a.sh is taken"):
        assert word in warnings
    assert "no script" in "\n".join(draft_warnings(normalise(make_draft({}), now=1)))


def test_odd_metadata_never_escapes_the_error_tree(make_draft):
    values = [None, 0, "", [], {}, [[]], {"a": {}}, "\x00", True, 1e308, 2**70]
    for field in ("playbook_id", "version", "name", "entry_points", "author", "tags", "created_at"):
        for value in values:
            draft = make_draft()
            draft.metadata[field] = value
            with contextlib.suppress(EscherError):
                json.dumps(normalise(draft, now=1).metadata)
