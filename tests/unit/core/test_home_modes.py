"""Nobody else reads or writes a home, whatever the umask was and whatever stood there before."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import permissions
from core.errors import Refused, StorageError
from core.permissions import mend, open_to_others, writable_by_others
from core.service.home import Home
from core.settings import Settings

# what a home of before held, each as an ordinary umask made it
FILES = {
    "journal.db": 0o644, "journal.db-wal": 0o644, "journal.db-shm": 0o644, "api.token": 0o644,
    "config.toml": 0o640, "keys/master.key": 0o604, "run/beat-schedule": 0o644,
    "run/logs/broker.log": 0o644, "run/broker/appendonlydir/a.aof": 0o644, "run/up.json": 0o664,
    "server/server.db": 0o644,
}  # fmt: skip
DEEP = {
    "playbooks/local/a/v1.0.0/metadata.json": 0o644,
    "playbooks/local/a/v1.0.0/shell/run.sh": 0o755,
    "conflicts/a/x/metadata.json": 0o666,
}


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def settings(tmp_path: Path, umask: None) -> Settings:
    home = tmp_path / "home"
    for name, mode in {**FILES, **DEEP}.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        path.chmod(mode)
    return Settings(home=home)


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o777


def test_an_open_home_is_closed_wholly_and_it_is_said(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    home = settings.home
    assert mode(home) == 0o755
    mend(settings)
    assert open_to_others(home) == []
    assert mode(home / "playbooks/local/a/v1.0.0/shell/run.sh") == 0o700, "still executable"
    assert mode(home / "keys/master.key") == 0o600
    assert str(home) in caplog.text
    assert "closed" in caplog.text
    caplog.clear()
    assert mend(settings) == 0
    assert not caplog.text, "once"


@pytest.mark.parametrize("name", FILES)
def test_in_a_closed_home_what_is_sensitive_is_closed_at_each_start(
    settings: Settings, name: str
) -> None:
    settings.home.chmod(0o700)
    mend(settings)
    assert mode(settings.home / name) == 0o600


def test_what_lies_deep_in_a_closed_home_waits_for_up(settings: Settings) -> None:
    settings.home.chmod(0o700)
    mend(settings)
    deep = [settings.home / name for name in DEEP]
    assert set(deep) <= set(open_to_others(settings.home)), "doctor tells of it"
    mend(settings, whole=True)
    assert open_to_others(settings.home) == []


def test_a_walk_that_was_killed_is_done_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Path) -> Iterator[tuple[Path, os.stat_result]]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(permissions, "_below", killed)
        with pytest.raises(KeyboardInterrupt):
            mend(settings)
    assert mode(settings.home) == 0o700, "the door was closed first"
    mend(settings)
    assert open_to_others(settings.home) == []


def test_links_are_left_alone(settings: Settings, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "file").write_text("x")
    (settings.home / "link").symlink_to(theirs)
    (settings.home / "keys" / "link").symlink_to(theirs / "file")
    mend(settings, whole=True)
    assert (mode(theirs), mode(theirs / "file")) == (0o755, 0o644)
    assert open_to_others(settings.home) == []


def test_a_home_that_is_itself_a_link_is_closed_where_it_leads(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(settings.home)
    mend(Settings(home=tmp_path / "link"))
    assert mode(settings.home) == 0o700


class TestWhatBelongsToAnother:
    @pytest.fixture(autouse=True)
    def not_ours(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        real = Path.chmod

        def chmod(path: Path, mode: int, **options: bool) -> None:
            if path.name in {"api.token", "master.key", "journal.db", "run.sh"}:
                raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
            real(path, mode, **options)

        monkeypatch.setattr(Path, "chmod", chmod)

    def test_is_a_warning(self, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
        (settings.home / "api.token").unlink()
        (settings.home / "keys/master.key").unlink()
        mend(settings)
        assert "journal.db" in caplog.text
        assert "stay open" in caplog.text

    @pytest.mark.parametrize("kept", ["api.token", "keys/master.key"])
    def test_is_an_error_for_a_secret(self, settings: Settings, kept: str) -> None:
        for name in {"api.token", "keys/master.key"} - {kept}:
            (settings.home / name).unlink()
        with pytest.raises(StorageError, match=kept) as refused:
            mend(settings)
        assert "chown" in refused.value.remedy


@pytest.mark.parametrize("mode_of_it", [0o1777, 0o1755, 0o3770])
def test_a_folder_that_users_share_is_no_home_and_stays_open(
    tmp_path: Path, umask: None, mode_of_it: int
) -> None:
    """Closing ``/tmp`` would take it away from everybody else."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "theirs").write_text("x")
    shared.chmod(mode_of_it)
    with pytest.raises(Refused, match="share") as refused:
        Home(Settings(home=shared))
    assert "ESCHER_HOME" in refused.value.remedy
    assert shared.stat().st_mode & 0o7777 == mode_of_it
    assert mode(shared / "theirs") == 0o644
    Home(Settings(home=shared / "mine")).close()


def test_a_folder_mounted_for_a_home_alone_is_taken(tmp_path: Path, umask: None) -> None:
    """A container's tmpfs looks like ``/tmp``, but for what is in it."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    mounted.chmod(0o1777)
    (mounted / "config.toml").write_text("")
    for _ in range(2):
        Home(Settings(home=mounted)).close()
        mounted.chmod(0o1777)  # mounted again


@pytest.mark.parametrize("setting", ["playbooks_dir", "cache_dir"])
class TestAFolderThatASettingNames:
    @pytest.mark.parametrize(
        ("found", "left"), [(0o777, 0o755), (0o775, 0o755), (0o755, 0o755), (0o1777, 0o1777)]
    )
    def test_is_nobody_elses_to_change(
        self, settings: Settings, tmp_path: Path, setting: str, found: int, left: int
    ) -> None:
        """Who can rename in it puts a folder of his in the place of ours."""
        chosen = tmp_path / "disk"
        chosen.mkdir()
        chosen.chmod(found)
        settings = settings.model_copy(update={setting: chosen})
        assert writable_by_others(settings) == ([chosen] if found != left else [])
        mend(settings)
        assert chosen.stat().st_mode & 0o7777 == left
        assert writable_by_others(settings) == []

    def test_that_is_not_there_yet_is_left_alone(
        self, settings: Settings, tmp_path: Path, setting: str
    ) -> None:
        mend(settings.model_copy(update={setting: tmp_path / "later"}))
        assert not (tmp_path / "later").exists()


def test_the_library_makes_private_files_whatever_the_umask(tmp_path: Path, umask: None) -> None:
    parts = Home(Settings(home=tmp_path / "home", server_url="http://127.0.0.1:9"))
    parts.journal.facts.set("key", "value")
    found = {path.name: mode(path) for path in parts.settings.home.iterdir()}
    parts.close()
    assert {"journal.db", "journal.db-wal", "journal.db-shm"} <= set(found)
    assert set(found.values()) <= {0o600, 0o700}
    assert open_to_others(tmp_path / "home") == []


def test_commands_write_for_nobody_else(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.umask(0o022); sys.argv[1:] = ['--version']\n"
        "from escher_playbooks.cli.main import main\ntry:\n    main()\nfinally:\n    print(os.umask(0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == str(0o077)
