"""Scripts of the Escher Library, and the metadata that comes with them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.clock import Clock
from support.rag import metadata
from support.reference import Reference, running_reference
from support.scripts import DownloadsUnderTest

from core.models import METADATA_FILE, OutcomeState, Ref, ScriptKey
from core.settings import Settings

REF = Ref("escher-stop", "1.0.0")
SHELL, ARM = ScriptKey(REF, "shell"), ScriptKey(REF, "arm")
DAY = 86_400


@pytest.fixture(scope="module")
def library_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    folder = tmp_path_factory.mktemp("library")
    version = folder / REF.playbook_id / f"v{REF.version}"
    (version / "shell").mkdir(parents=True)
    (version / METADATA_FILE).write_text(json.dumps(metadata(*REF, status="approved")))
    (version / "shell" / "main.sh").write_bytes(b"echo stop\n")
    with running_reference(tmp_path_factory.mktemp("data"), folder) as reference:
        yield reference


@pytest.fixture
def under(library_server: Reference, tmp_path: Path, clock: Clock) -> Iterator[DownloadsUnderTest]:
    tenant_id, token = library_server.tenant()
    made = DownloadsUnderTest(
        Settings(
            home=tmp_path / "home",
            server_url=library_server.url,
            tenant_id=tenant_id,
            server_token=token,  # type: ignore[arg-type]
        ),
        clock=clock,
    )
    yield made
    made.close()
    library_server.faults()


def kept(under: DownloadsUnderTest) -> list[Ref]:
    return list(under.journal.library.get())


def test_a_script_brings_its_versions_metadata(under):
    hit = under.downloads.fetch(SHELL)
    assert (hit.source, under.read(hit)) == ("library", {"shell/main.sh": b"echo stop\n"})
    assert kept(under) == [REF]
    assert [entry.key.format for entry in under.journal.cache_folders.of_library()] == ["shell"]


@pytest.mark.parametrize("keys", [[SHELL, ARM], [ARM, SHELL]])
def test_a_format_that_is_not_there_keeps_no_other_from_it(under, keys):
    outcomes = under.downloads.download(keys)
    assert outcomes[ARM].state is OutcomeState.FAILED
    assert kept(under) == [REF]


def test_metadata_that_is_gone_is_fetched_while_its_scripts_are_cached(under):
    under.downloads.fetch(SHELL)
    under.library.forget([REF])
    assert under.library.missing() == [REF]
    assert under.library.fetch_missing() == [REF]
    assert kept(under) == [REF]


def test_with_a_stale_script_that_is_confirmed_it_comes_again(under, clock):
    under.downloads.fetch(SHELL)
    under.library.forget([REF])
    under.downloads.fetch(SHELL)
    assert kept(under) == [], "it was cached: nobody was asked"
    clock.now += 8 * DAY
    under.downloads.fetch(SHELL)
    assert kept(under) == [REF]
