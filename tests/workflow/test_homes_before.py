"""Homes of the version before: they open, and the new rules alone change nothing in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.homes_before import HomeBefore, running_home_before

from core.models import SyncState
from core.service import PlaybookService

CONTENT = ("content_digest", "metadata", "sync_state", "published_digest", "revision", "error")


@pytest.fixture
def before(tmp_path: Path) -> Iterator[HomeBefore]:
    with running_home_before(tmp_path) as home:
        yield home


def folders(home: HomeBefore) -> dict[str, bytes]:
    """Every file of the playbooks' folders."""
    root = home.home / "playbooks"
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def settled(service: PlaybookService) -> dict[str, tuple]:
    """What is published or in conflict, and how."""
    waiting = {SyncState.PENDING, SyncState.DEFERRED, SyncState.LOCAL}
    return {
        str(record.ref): tuple(getattr(record, name) for name in CONTENT)
        for record in service.journal.versions.select()
        if record.sync_state not in waiting
    }


def leave_modes_and_leftovers(before: HomeBefore) -> None:
    """As an editor, a share or a tool leaves a home: no content of a version from before."""
    for path in (before.home / "playbooks").glob("*/*/*/*/*"):
        if path.is_file():
            path.chmod(0o755)
            path.with_name(f"{path.name}~").write_bytes(b"an editor's backup")


@pytest.mark.parametrize("left", [False, True], ids=["as it was", "with modes and leftovers"])
def test_the_first_sync_changes_nothing_that_stood(before: HomeBefore, left: bool):
    if left:
        leave_modes_and_leftovers(before)
    with PlaybookService.open(before.settings) as service:
        known, there = settled(service), folders(before)
        refs = set(service.journal.versions.refs())
        service.sync_all_metadata()
        assert {ref: now for ref, now in settled(service).items() if ref in known} == known
        assert set(service.journal.versions.refs()) == refs  # no edit, no new version
        assert len(service.journal.conflicts.open_ones()) == 1  # the one that was open
        after = folders(before)
        moved = {path for path in there if "waiting/" in path or "wished-trusted/" in path}
        assert {path: after.get(path) for path in there if path not in moved} == {
            path: content for path, content in there.items() if path not in moved
        }
        assert service.verify().problems == []


def test_what_was_published_is_still_published_after_a_second_sync(before: HomeBefore):
    with PlaybookService.open(before.settings) as service:
        published = {ref for ref, now in settled(service).items() if now[2] == "published"}
        service.sync_all_metadata()
        service.sync_all_metadata()
        assert published <= {ref for ref, now in settled(service).items() if now[2] == "published"}
        assert len(published) == 8
