"""The main job on some three thousand real playbooks."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.server_side import assert_server_equals_disk, server_objects
from support.service import MakeService, ServiceUnderTest, eventually

from core.models import Ref
from core.service import PlaybookService

PLAYBOOKS = 2998
HOLD_SECRETS = {  # each has a literal credential of its source's
    "aws-pipes-msk-to-salesforce-apidestination@1.0.0",
    "azure-cli-media-services-create-event-grid@1.0.0",
    "azure-guacamole-rdp-vnc-gateway-existing-vnet@1.0.0",
}
CAP_MB = 2
EVERY = 4  # of the formats; ESCHER_WHOLE_CORPUS asks for each


@pytest.mark.corpus
@pytest.mark.timeout(900)
def test_the_corpus_goes_in_is_published_once_and_found(
    new_service: MakeService, corpus: Path
) -> None:
    service = new_service(real_model=True)
    service.up()
    report = service.json("import", str(corpus), timeout=600)
    assert (report["imported"], report["failed"]) == (PLAYBOOKS, [])

    job = service.json("publish", "--all", "--as", "review", "--wait", timeout=600)
    assert set(job["left_out"]) == HOLD_SECRETS  # by the default of the secrets gate
    assert (job["state"], job["succeeded"]) == ("succeeded", PLAYBOOKS - len(HOLD_SECRETS))
    _accept_and_publish(service, report["findings"])
    assert_server_equals_disk(service, PLAYBOOKS)

    before = service.server_stats()
    assert before["revisions"] == before["versions"] == PLAYBOOKS
    assert service.json("publish", "--all", "--as", "review", "--wait")["total"] == 0
    after = service.server_stats()
    assert after["revisions"] == before["revisions"]
    assert after["bytes_received"] == before["bytes_received"]

    with service.service() as opened:
        eventually(lambda: not opened.journal.versions.unindexed(), 240, "all of it is indexed")
    question = "who opened port 22 to the world"
    running = service.json("search", question)
    assert not running.get("degraded")
    assert any(
        "22" in hit["description"] or "ssh" in hit["name"].lower() for hit in running["results"][:3]
    )
    assert service.json("verify")["clean"]
    service.down()
    alone = service.json("search", question)
    assert [hit["playbook_id"] for hit in alone["results"]] == [
        hit["playbook_id"] for hit in running["results"]
    ]
    _assert_every_script_comes_back_from_the_server(service)


def _accept_and_publish(service: ServiceUnderTest, findings: list[dict[str, Any]]) -> None:
    """Let each certain finding pass by its key, as somebody who looked at it."""
    for ref in sorted(HOLD_SECRETS):
        keys = [
            finding["key"]
            for finding in findings
            if finding["degree"] == "certain"
            and f"{finding['playbook_id']}@{finding['version']}" == ref
        ]
        accepted = [part for key in keys for part in ("--accept-finding", key)]
        choice = ("--as", "review", "--reason", "a sample of the source's", "--yes", "--wait")
        assert service.json("publish", ref, *accepted, *choice)["succeeded"] == 1


def _assert_every_script_comes_back_from_the_server(service: ServiceUnderTest) -> None:
    """Without the folders in ``synced/``: every byte right, the cache never above its cap."""
    with service.server_alone():
        truth = server_objects(service)
        for folder in (service.home / "playbooks" / "synced").glob("*/v*"):
            shutil.rmtree(folder)
        # a part of what there is, so that most of it has to go again
        settings = service.settings
        settings.cache_max_size_mb, settings.cache_lease_seconds = CAP_MB, 0
        every = 1 if os.environ.get("ESCHER_WHOLE_CORPUS") else EVERY
        wanted = sorted(
            {
                (ref, path.split("/")[0])
                for ref, files in truth.items()
                for path in files
                if "/" in path
            }
        )[::every]
        with PlaybookService.open(settings) as opened, _watched(settings.cache_path) as sizes:

            def resolve(item: tuple[Ref, str]) -> str | None:
                ref, format_ = item
                script = opened.locate_script(str(ref), format_)
                right = {p: c for p, c in truth[ref].items() if p.startswith(f"{format_}/")}
                found = {file.path: file.checksum for file in script.listing.files}
                return None if (script.source.value, found) == ("download", right) else f"{ref}"

            with ThreadPoolExecutor(8) as pool:
                wrong = [ref for ref in pool.map(resolve, wanted) if ref]
            assert wrong == []
            cache = opened.script_manager.usage(limit=None)
        assert sizes
        assert max(sizes) <= CAP_MB * (1 << 20)
        assert 0 < cache["entry_count"] < len(wanted)
        assert cache["used_bytes"] <= cache["max_bytes"]


@contextlib.contextmanager
def _watched(folder: Path) -> Iterator[list[int]]:
    """The bytes of scripts below ``folder``, looked at over and over."""
    sizes: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.2):
            total = 0
            for root, _, names in os.walk(folder):
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        total += 0 if name.startswith(".") else os.lstat(f"{root}/{name}").st_size
            sizes.append(total)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield sizes
    finally:
        stop.set()
        thread.join()
