"""Links inside a home lead out of it: nothing is read, written or removed through them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.playbooks import draft

from core.encryption import load_master_key
from core.errors import EscherError, KeyUnavailable, Refused, UnsafePath
from core.models import Area, Ref
from core.service import PlaybookService
from core.settings import Settings

REF = Ref("stop-idle-databases", "1.0.0")
Open = Callable[[], PlaybookService]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", server_url="http://127.0.0.1:9", secrets_gate="off")


@pytest.fixture
def open_(settings: Settings) -> Iterator[Open]:
    opened: list[PlaybookService] = []

    def again() -> PlaybookService:
        opened.append(PlaybookService.open(settings))
        return opened[-1]

    yield again
    for service in opened:
        service.close()


@pytest.fixture
def stored(open_: Open) -> PlaybookService:
    """A home with one playbook."""
    service = open_()
    service.store.create(draft())
    return service


def tree(root: Path) -> dict[str, bytes | None]:
    found = sorted(root.rglob("*"))
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in found}


def lead_out(path: Path, tmp_path: Path) -> Path:
    """Put ``path`` elsewhere and leave a link to it."""
    theirs = tmp_path / "theirs"
    if path.exists():
        path.rename(theirs)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        theirs.mkdir()
        (theirs / "thesis.tex").write_text("theirs")
    path.symlink_to(theirs)
    return theirs


@pytest.mark.parametrize(
    "name",
    [
        "playbooks", "cache", "conflicts", "trash", "sealed", "keys", "qdrant",
        "qdrant/collections", "run", "run/broker", "server", "journal.db", "api.token", "playbooks/local", "playbooks/synced",
        "playbooks/ai-generated", "playbooks/.staging",
    ],
)  # fmt: skip
def test_of_the_homes_own_folders_are_refused(
    stored: PlaybookService, settings: Settings, tmp_path: Path, open_: Open, name: str
) -> None:
    stored.close()
    theirs = lead_out(settings.home / name, tmp_path)
    before = tree(theirs) if theirs.is_dir() else theirs.read_bytes()
    with pytest.raises(Refused, match=f"{name} is a link") as refused:
        open_()
    assert "whole may be a link" in refused.value.remedy
    assert (tree(theirs) if theirs.is_dir() else theirs.read_bytes()) == before
    assert ("playbooks_dir" in refused.value.remedy) is (name == "playbooks")


def test_the_home_itself_may_be_one(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "disk").mkdir()
    settings.home.symlink_to(tmp_path / "disk")
    with PlaybookService.open(settings) as service:
        service.store.create(draft())
        assert service.store.read(REF)
    assert (tmp_path / "disk" / "playbooks" / "local").is_dir()


def test_so_may_the_folder_that_a_setting_names(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    chosen = settings.model_copy(update={"playbooks_dir": tmp_path / "link"})
    with PlaybookService.open(chosen) as service:
        service.store.create(draft())
        assert service.store.read(REF)


@pytest.mark.parametrize("which", ["playbook", "version"])
class TestOfOnePlaybook:
    @pytest.fixture
    def theirs(
        self, which: str, stored: PlaybookService, settings: Settings, tmp_path: Path
    ) -> Path:
        folder = stored.store.layout.folder(Area.LOCAL, REF)
        return lead_out(folder if which == "version" else folder.parent, tmp_path)

    def test_is_not_read(self, stored: PlaybookService, theirs: Path) -> None:
        for read in (stored.store.read, stored.store.folder, stored.store.edited_draft):
            with pytest.raises(UnsafePath, match="is a link"):
                read(REF)

    def test_is_not_written(self, stored: PlaybookService, theirs: Path) -> None:
        before = tree(theirs)
        with pytest.raises(EscherError):
            stored.store.create(draft(version="1.0.0"))
        with suppress(UnsafePath):
            stored.store.update(REF.playbook_id, draft(files={"shell/main.sh": b"echo new\n"}))
        assert tree(theirs) == before

    def test_is_not_removed(self, stored: PlaybookService, theirs: Path) -> None:
        before = tree(theirs)
        with suppress(UnsafePath):
            stored.store.delete([REF])
        assert tree(theirs) == before

    def test_stops_no_sync_and_no_other_playbook(
        self, stored: PlaybookService, theirs: Path
    ) -> None:
        before = tree(theirs)
        stored.store.create(draft("Another one"))
        stored.scan.run()
        assert stored.store.read(Ref("another-one", "1.0.0"))
        assert tree(theirs) == before


@pytest.mark.parametrize("name", ["keys", "keys/master.key"])
def test_a_key_behind_one_is_not_taken(settings: Settings, tmp_path: Path, name: str) -> None:
    load_master_key(settings)
    lead_out(settings.home / name, tmp_path)
    with pytest.raises(KeyUnavailable, match="behind a link"):
        load_master_key(settings)


def test_a_token_behind_one_is_not_taken(settings: Settings, tmp_path: Path) -> None:
    settings.home.mkdir()
    (tmp_path / "theirs").write_text("chosen by somebody")
    settings.api_token_path.symlink_to(tmp_path / "theirs")
    with pytest.raises(EscherError, match=r"api\.token"):
        settings.read_api_token()


def test_what_is_not_ours_in_a_staging_folder_stays(
    stored: PlaybookService, settings: Settings, open_: Open
) -> None:
    for name in ("release", "notes.old", ".cache"):
        folder = settings.staging_path / name
        folder.mkdir()
        (folder / "file").write_text("theirs")
        os.utime(folder, (0, 0))
    ours = settings.staging_path / ("0123456789abcdef" * 2 + ".gone")
    ours.mkdir()
    before = tree(settings.staging_path)
    del before[ours.name]
    stored.close()
    open_()
    assert tree(settings.staging_path) == before
