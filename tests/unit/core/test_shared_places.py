"""Folders and sockets in places that all users of a machine share."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from core import permissions
from core.errors import Refused
from core.permissions import check_broker, own_private_dir, peer_uid
from core.settings import Settings

STRANGER = 65_534


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home whose socket is in a shared place, as a long path's is."""
    settings = Settings(home=tmp_path / "home")
    settings.__dict__["socket_dir"] = tmp_path / "s"
    return settings


@pytest.fixture
def listening(settings: Settings) -> Iterator[socket.socket]:
    """A server of our own at the socket."""
    settings.socket_dir.mkdir(mode=0o700)
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(settings.broker_socket))
        server.listen()
        yield server


class TestAFolder:
    def test_is_made_private(self, tmp_path: Path) -> None:
        own_private_dir(tmp_path / "new")
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700

    def test_of_ours_is_closed(self, tmp_path: Path) -> None:
        (tmp_path / "open").mkdir()
        (tmp_path / "open").chmod(0o755)
        own_private_dir(tmp_path / "open")
        assert (tmp_path / "open").stat().st_mode & 0o777 == 0o700

    def test_is_refused_as_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "theirs").mkdir(mode=0o700)
        (tmp_path / "link").symlink_to(tmp_path / "theirs")
        with pytest.raises(Refused, match="no folder"):
            own_private_dir(tmp_path / "link")

    def test_is_refused_as_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(Refused, match="no folder"):
            own_private_dir(tmp_path / "file")

    def test_is_refused_when_it_is_somebody_elses(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own_private_dir(tmp_path / "new")
        uid = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
        with pytest.raises(Refused, match=f"belongs to user {uid}") as refused:
            own_private_dir(tmp_path / "new")
        assert "ESCHER_HOME" in refused.value.remedy


class TestTheBroker:
    def test_of_our_own_is_taken(self, settings: Settings, listening: socket.socket) -> None:
        assert check_broker(settings)

    def test_that_is_not_there_is_no_stranger(self, settings: Settings) -> None:
        assert not check_broker(settings)
        settings.socket_dir.mkdir(mode=0o700)
        assert not check_broker(settings)
        with closing(socket.socket(socket.AF_UNIX)) as dead:
            dead.bind(str(settings.broker_socket))
        assert not check_broker(settings), "nobody listens"

    @pytest.mark.parametrize("mode", [0o755, 0o770, 0o777, 0o701])
    def test_in_a_folder_that_others_may_enter_is_refused(
        self, mode: int, settings: Settings, listening: socket.socket
    ) -> None:
        settings.socket_dir.chmod(mode)
        with pytest.raises(Refused, match=f"mode {mode:04o}") as refused:
            check_broker(settings)
        assert f"chmod 700 {settings.socket_dir}" in refused.value.remedy

    @pytest.mark.parametrize("mode", [0o755, 0o777])
    def test_is_no_stranger_where_only_the_folder_stands(
        self, mode: int, settings: Settings
    ) -> None:
        settings.socket_dir.mkdir(mode=0o700)
        settings.socket_dir.chmod(mode)
        assert not check_broker(settings), "as in an open home of before in which nothing runs"

    def test_behind_a_link_is_refused(
        self, settings: Settings, listening: socket.socket, tmp_path: Path
    ) -> None:
        settings.socket_dir.rename(tmp_path / "moved")
        settings.socket_dir.symlink_to(tmp_path / "moved")
        with pytest.raises(Refused, match="no folder"):
            check_broker(settings)

    def test_socket_that_is_none_is_refused(self, settings: Settings, tmp_path: Path) -> None:
        settings.socket_dir.mkdir(mode=0o700)
        settings.broker_socket.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(Refused, match="no socket"):
            check_broker(settings)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    @pytest.mark.parametrize("what", ["folder", "socket"])
    def test_of_a_stranger_is_refused(
        self, what: str, settings: Settings, listening: socket.socket
    ) -> None:
        path = settings.socket_dir if what == "folder" else settings.broker_socket
        os.chown(path, STRANGER, STRANGER)
        with pytest.raises(Refused, match=f"belongs to user {STRANGER}"):
            check_broker(settings)

    def test_that_a_stranger_runs_is_refused(
        self, settings: Settings, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(permissions, "peer_uid", lambda _: STRANGER)
        with pytest.raises(Refused, match=f"runs as user {STRANGER}"):
            check_broker(settings)


def test_the_kernel_says_who_answers(settings: Settings, listening: socket.socket) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(settings.broker_socket))
        assert peer_uid(client) == os.geteuid()


def test_the_runtime_folder_of_somebody_else_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.getuid()
    monkeypatch.setattr(Path, "is_dir", lambda _: True)
    monkeypatch.setattr(os, "access", lambda *_: True)
    real = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **o: real(Path("/"), **o))
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    assert Settings(home=Path("/" + "h" * 200)).socket_dir.parent == Path("/tmp")
