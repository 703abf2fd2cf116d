"""An edit of what is sealed, or of what a file may not decide, sends nothing; with real workers."""

from __future__ import annotations

import json
from pathlib import Path

from support.playbooks import draft, write_folder
from support.service import ServiceUnderTest, eventually


def test_nothing_leaves_by_an_edit_or_a_dropped_folder(
    service: ServiceUnderTest, tmp_path: Path
) -> None:
    script = {"shell/main.sh": b"#!/bin/sh\necho CANARY\n"}
    wishes = {"storage_strategy": "uploaded_trusted", "status": "approved"}
    sealed = write_folder(tmp_path / "s", draft("Sealed", script, sensitive=True))
    service.json("create", str(sealed), "--strategy", "keep")
    local = service.home / "playbooks" / "local"
    stands = local / "sealed" / "v1.0.0"
    metadata = json.loads((stands / "metadata.json").read_bytes())
    (stands / "metadata.json").write_text(json.dumps(metadata | wishes | {"sensitive": False}))
    (stands / "shell" / "main.sh").write_bytes(b"#!/bin/sh\necho CANARY-clear\n")
    write_folder(local / "dropped" / "v1.0.0", draft("Dropped", script, **wishes))

    with service.service() as opened:
        eventually(lambda: opened.status()["journal"]["held"] == 1, 60, "the edit is held")
    eventually(lambda: service.counts()["versions"] == 2, 60, "the folder is taken in")
    assert service.json("status")["journal"]["held"] == 1
    assert service.json("sync", "--wait")["state"] == "succeeded"
    job = service.json("publish", "--all", "--wait")
    assert job["accepted"] == []
    assert service.server_stats()["bytes_received"] == 0
    assert service.json("show", "dropped")["asked"] == wishes
    shown = service.json("show", "sealed")
    assert (shown["metadata"]["sensitive"], shown["metadata"]["storage_strategy"]) == (
        True,
        "local_only",
    )
    assert not [
        path
        for path in (service.home / "playbooks" / "local" / "sealed").rglob("*")
        if path.is_file() and b"CANARY" in path.read_bytes()
    ]
