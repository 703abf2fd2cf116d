"""What a request's file asks for is kept; what its fields choose is done; `trusted` is for one."""

from __future__ import annotations

from typing import Any

import pytest
from support.playbooks import metadata

REF = "/v1/playbooks/stop-idle-databases/versions/1.0.0"
WISH = {"storage_strategy": "uploaded_trusted", "status": "approved", "execution_count": 9}


def body(**more: Any) -> dict[str, Any]:
    fields = more.pop("fields", {})
    script = {"path": "shell/main.sh", "content": "#!/bin/sh\necho one\n"}
    return {"metadata": metadata(**fields), "scripts": [script], **more}


@pytest.mark.parametrize("door", ["post", "put"])
def test_the_metadata_only_asks(client, door):
    if door == "put":
        client.post("/v1/playbooks", json=body())
        answer = client.put("/v1/playbooks/stop-idle-databases", json=body(fields=WISH))
    else:
        answer = client.post("/v1/playbooks", json=body(fields=WISH))
    assert any("asks for uploaded_trusted" in text for text in answer.json()["warnings"])
    shown = client.get(REF).json()
    assert shown["asked"] == WISH
    assert (shown["sync"]["state"], shown["metadata"]["storage_strategy"]) == (
        "local",
        "local_only",
    )
    assert shown["metadata"]["status"] == "ready"


@pytest.mark.parametrize("door", ["post", "put"])
def test_the_field_chooses(client, door):
    if door == "put":
        client.post("/v1/playbooks", json=body())
        client.put("/v1/playbooks/stop-idle-databases", json=body(strategy="review"))
    else:
        client.post("/v1/playbooks", json=body(strategy="review"))
    assert client.get(REF).json()["sync"]["state"] == "pending"


@pytest.mark.parametrize(
    "job",
    [
        {"kind": "publish", "all": True, "as": "trusted"},
        {"kind": "publish", "refs": ["stop-idle-databases"], "as": "trusted"},
        {"kind": "import", "path": "/tmp", "as": "uploaded_trusted"},
    ],
)
def test_trusted_is_not_for_many(client, job):
    client.post("/v1/playbooks", json=body())
    client.post("/v1/playbooks", json=body(fields={"version": "1.1.0"}))
    answer = client.post("/v1/jobs", json=job)
    assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (400, "UsageError")
    assert client.get(REF).json()["sync"]["state"] == "local"


def test_declassify_confirms(client):
    client.post("/v1/playbooks", json=body(fields={"sensitive": True}))
    assert client.post(f"{REF}/declassify", json={}).status_code in {400, 422}
    assert client.post(f"{REF}/declassify", json={"confirm": False}).status_code in {400, 422}
    assert client.get(REF).json()["metadata"]["sensitive"] is True
    assert client.post(f"{REF}/declassify", json={"confirm": True}).json()["version"] == "1.0.0"
    assert client.get(REF).json()["metadata"]["sensitive"] is False
    assert client.post(f"{REF}/declassify", json={"confirm": True}).status_code == 409


@pytest.mark.parametrize("decision", ["accept", "discard"])
def test_nothing_is_held(client, decision):
    client.post("/v1/playbooks", json=body(fields={"sensitive": True}))
    assert client.post(f"{REF}/held", json={"decision": decision}).status_code == 404
