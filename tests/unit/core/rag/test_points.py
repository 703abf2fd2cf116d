from __future__ import annotations

import json
import uuid

from support.rag import document, metadata

from core.models import FileEntry, Ref
from core.rag.points import (
    MAX_SCRIPT_TEXT,
    PLAIN_FIELDS,
    IndexDocument,
    ScriptText,
    embedded_text,
    plain_payload,
    point_id,
    sealed_content,
    vector_key,
)

CONTRACT_FIELDS = {
    "playbook_id",
    "version",
    "name",
    "description",
    "keywords",
    "cloud_provider",
    "resource_types",
    "storage_strategy",
    "author",
    "status",
    "created_at",
    "updated_at",
    "health",
    "execution_count",
    "success_count",
    "last_executed",
    "deprecated_by",
    "based_on_escher",
    "escher_playbook_id",
    "content_digest",
}


def test_ids_are_the_contracts() -> None:
    expected = uuid.uuid5(uuid.NAMESPACE_URL, "escher:stop-rds@1.0.0")
    assert point_id(Ref("stop-rds", "1.0.0")) == str(expected)
    shared = uuid.uuid5(uuid.NAMESPACE_URL, "escher:acme/h1/stop-rds@1.0.0")
    assert point_id(Ref("stop-rds", "1.0.0"), "acme/h1") == str(shared)


def test_the_plain_payload_is_the_contracts_and_nothing_else() -> None:
    found = metadata("a", purpose="secret plan", sensitive=True, tags={"k": "v"})
    state = {"health": "broken", "execution_count": 3, "sync_state": "published"}
    payload = plain_payload(IndexDocument(found, "sha256:x", state))
    assert set(payload) == CONTRACT_FIELDS == set(PLAIN_FIELDS)
    assert payload["health"] == "broken"
    assert payload["execution_count"] == 3
    assert payload["success_count"] == 0


def test_all_else_is_sealed() -> None:
    script = ScriptText.of(FileEntry("shell/stop.sh", 8, "sha256:c"), b"echo hi\n")
    doc = IndexDocument(
        metadata("a", purpose="p"), "d", parameters={"parameters": []}, scripts=[script]
    )
    content = json.loads(sealed_content(doc))
    assert content["metadata"]["purpose"] == "p"
    assert content["parameters"] == {"parameters": []}
    assert content["explain_plan"] is None
    assert content["scripts"] == [
        {"path": "shell/stop.sh", "size_bytes": 8, "checksum": "sha256:c", "text": "echo hi\n"}
    ]


def test_long_or_binary_scripts_keep_size_and_checksum_only() -> None:
    for content in (b"x" * (MAX_SCRIPT_TEXT + 1), b"\xff\xfe\x00"):
        file = FileEntry("shell/a", len(content), "sha256:c")
        assert ScriptText.of(file, content).as_json() == {
            "path": "shell/a", "size_bytes": len(content), "checksum": "sha256:c", "text": None
        }  # fmt: skip


def test_embedded_text_is_name_description_use_cases_keywords() -> None:
    found = metadata(
        "a", name="Stop RDS", description="Stops it.", use_cases=["save money"], keywords=["rds"]
    )
    assert embedded_text(found) == "Stop RDS. Stops it. save money rds"
    assert embedded_text(found | {"status": "archived", "updated_at": 9}) == embedded_text(found)
    assert embedded_text({"name": "A b", "description": "c"}) == "A b. c"


def test_another_model_is_another_key() -> None:
    assert vector_key("sha256:a", "text") != vector_key("sha256:b", "text")
    assert document("a").ref == Ref("a", "1.0.0")
