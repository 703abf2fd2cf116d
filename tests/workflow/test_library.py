"""An Escher Library playbook that was used once is found from then on, with or without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.rag import metadata
from support.service import MakeService, eventually

from core.models import METADATA_FILE

FIRST, SECOND = "escher-stop-idle-databases", "escher-rotate-access-keys"
SCRIPT = b"#!/bin/sh\necho of the library\n"


@pytest.fixture
def shelves(tmp_path: Path) -> Path:
    """What ``--library-dir`` names."""
    for playbook_id in (FIRST, SECOND):
        folder = tmp_path / "library" / playbook_id / "v1.0.0"
        (folder / "shell").mkdir(parents=True)
        body = metadata(playbook_id, author="escher_library", storage_strategy="using_default")
        (folder / METADATA_FILE).write_text(json.dumps(body | {"status": "approved"}))
        (folder / "shell" / "main.sh").write_bytes(SCRIPT)
    return tmp_path / "library"


def _ids(answer: dict[str, Any]) -> list[str]:
    return [result["playbook_id"] for result in answer["results"]]


@pytest.mark.timeout(300)
def test_used_once_found_ever_after(new_service: MakeService, shelves: Path) -> None:
    # no sync: what is found at once is not the next tick's doing
    service = new_service(
        server_embedded="false", server_token="CANARY-LIBRARY", sync_enabled="false"
    )
    service.home.mkdir(mode=0o700)
    port = urlsplit(service.env["ESCHER_SERVER_URL"]).port
    options = ("--library-dir", str(shelves), "--port", str(port))
    query = "stop idle databases"

    with service.server_alone(*options):
        used = service.json("resolve", FIRST, "--format", "shell")
        assert (used["source"], Path(used["path"]).read_bytes()) == ("download", SCRIPT)
    assert _ids(service.json("search", query)) == [FIRST], "offline"
    assert service.json("resolve", FIRST, "--format", "shell")["source"] == "cache"
    assert service.json("list")["items"] == []
    assert service.json("verify")["problems"] == []
    service.json("publish", FIRST, "--as", "review", code=3)
    service.json("delete", FIRST, code=3)

    service.up()
    with service.api as api:

        def search(text: str) -> dict[str, Any]:
            answer: dict[str, Any] = api.post("/v1/search", json={"query": text}).json()
            return answer

        found = eventually(lambda: search(query)["results"], 60, "found with `up`")
        assert [(item["playbook_id"], item["status"]) for item in found] == [(FIRST, "approved")]

        with service.server_alone(*options):
            answer = api.get(f"/v1/scripts/{SECOND}/latest/shell").json()
            assert answer["source"] == "download"
            eventually(lambda: SECOND in _ids(search("rotate access keys")), 60, "found at once")
        assert not search("rotate access keys").get("degraded")

        runs = f"/v1/playbooks/{SECOND}/versions/1.0.0/executions"
        for _ in range(3):
            run = api.post(runs, json={"success": False, "duration_ms": 5})
            assert run.status_code == 200, run.text
        assert run.json()["health"] == "broken"
        eventually(lambda: SECOND not in _ids(search("rotate access keys")), 60, "hidden")
        api.post(runs, json={"success": True, "duration_ms": 5})
        eventually(lambda: SECOND in _ids(search("rotate access keys")), 60, "mended")

        job = service.json("reindex", "--wait")
        assert (job["state"], job["total"]) == ("succeeded", 2)
        assert set(_ids(search("playbooks"))) <= {FIRST, SECOND}
        eventually(lambda: _ids(search(query))[:1] == [FIRST], 60, "found after the reindex")
    assert service.json("verify")["problems"] == []
    service.down()
