"""A version of another machine is judged by its digest and by safety, whatever our doors would say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.hostile_server import HostileServer, running_hostile

from core.errors import NotFound
from core.models import Ref, SyncState
from core.service import PlaybookService
from core.settings import Settings

REF = Ref("stop", "1.0.0")
SCRIPT = b"#!/bin/sh\necho one\n"
DECOMPOSED = "shell/pru\u0308fen.sh"


@pytest.fixture
def hostile() -> Iterator[HostileServer]:
    with running_hostile() as server:
        yield server


@pytest.fixture
def here(hostile, tmp_path) -> Iterator[PlaybookService]:
    settings = Settings(
        home=tmp_path / "home",
        server_url=hostile.url,
        server_token="t",
        cache_lease_seconds=0,
        edit_quiet_seconds=0,
    )
    with PlaybookService.open(settings) as service:
        yield service


@pytest.mark.parametrize(
    ("files", "executable"),
    [
        ({"shell/run.sh": SCRIPT}, ["shell/run.sh"]),
        ({"shell/run.sh": SCRIPT, "shell/lib.sh": b"x=1\n"}, ["shell/run.sh"]),
        ({"shell/run.sh": SCRIPT, "python/tool.py": b"#!/usr/bin/python3\n"}, ["python/tool.py"]),
        ({DECOMPOSED: SCRIPT}, []),
        ({DECOMPOSED: SCRIPT, "shell/a.sh": b"a\n"}, [DECOMPOSED]),
        ({"shell/run.sh": SCRIPT, "shell/run.sh~": b"old\n"}, []),
        ({"terraform/main.tf": b"#\n", "terraform/x.tfstate": b"{}\n", "shell/run.sh": SCRIPT}, []),
    ],
    ids=[
        "executable",
        "one-of-two",
        "another-format",
        "nfd",
        "nfd-executable",
        "leftover",
        "state",
    ],
)
def test_it_is_taken_kept_and_stays_what_it_is(hostile, here, files, executable):
    hostile.add(REF, files, status="approved", executable=executable)
    report = here.puller.pull()
    assert not report.failed
    here.sync.run()
    script = here.locate_script("stop", "shell")
    assert {file.path for file in script.listing.files} == {p for p in files if p[:6] == "shell/"}
    here.pulled_folders.fetch_contents(REF, here.contents.fetch(REF))
    assert not here.pulled_folders.is_edited(REF)
    assert not here.scan.run().has_changes
    assert [f for f in here.verify().problems if f.ref] == []
    shown = here.catalog.show("stop")
    assert {f["path"] for f in shown.as_json()["files"] if f["executable"]} == set(executable)
    assert shown.content_digest == hostile.item(REF)["content_digest"]
    assert (
        here.locate_script("stop@1.0.0", "shell").path.read_bytes()
        == files[script.listing.entry_point]
    )


def test_an_edit_of_it_is_kept_and_it_is_restored_as_it_was(hostile, here):
    hostile.add(REF, {"shell/run.sh": SCRIPT}, status="approved", executable=["shell/run.sh"])
    here.puller.pull()
    here.pulled_folders.fetch_contents(REF, here.contents.fetch(REF))
    path = here.store.folder(REF) / "shell" / "run.sh"
    path.write_bytes(b"#!/bin/sh\necho edited\n")
    found = here.scan.run_one(REF)
    here.edits.take(found, here.contents.fetch)
    assert path.read_bytes() == SCRIPT
    assert not here.scan.run().has_changes
    [file] = here.catalog.show("stop@1.0.0").files
    assert file.executable


def test_what_the_server_lost_is_sent_again_with_its_bits(hostile, here):
    hostile.add(REF, {"shell/run.sh": SCRIPT}, status="approved", executable=["shell/run.sh"])
    here.puller.pull()
    here.pulled_folders.fetch_contents(REF, here.contents.fetch(REF))
    digest = here.catalog.show("stop").content_digest
    here.journal.versions.set(
        REF, uploaded_digest=None, absent_since=1, sync_state=SyncState.PENDING
    )
    hostile.items.clear()
    outcomes = here.publish_refs([REF])
    assert outcomes[REF].error is None, outcomes
    assert hostile.item(REF)["content_digest"] == digest
    assert [f["executable"] for f in hostile.item(REF)["files"]] == [True]


@pytest.mark.parametrize("pulled_before", [True, False])
def test_what_was_deleted_there_is_not_run_from_the_cache(hostile, here, pulled_before):
    hostile.add(REF, {"shell/run.sh": SCRIPT}, status="approved")
    assert here.locate_script(str(REF), "shell").path.read_bytes() == SCRIPT
    if pulled_before:
        here.puller.pull()
    hostile.remove(REF)
    here.journal.pull_state.want_full_pass("a test")
    here.puller.pull()
    for target in (str(REF), REF.playbook_id):
        with pytest.raises(NotFound):
            here.locate_script(target, "shell")
