"""A data directory of the first release opens and keeps everything.

``frozen_schema_1`` was made by the server of the first release: versions approved, deprecated,
waiting, rejected and deleted, executions, objects, and a cursor of the feed.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from escher_server import migrations
from escher_server.database import Database, open_database
from escher_server.migrations import SCHEMA_VERSION, NewerData, bring_up_to_date, schema_version

FROZEN = Path(__file__).parent / "frozen_schema_1"


@pytest.fixture
def old_data(tmp_path: Path) -> Path:
    data_dir = tmp_path / "server"
    data_dir.mkdir(mode=0o700)
    shutil.copytree(FROZEN / "objects", data_dir / "objects")
    connection = sqlite3.connect(data_dir / "escher.db")
    connection.executescript((FROZEN / "escher.sql").read_text())
    connection.close()
    return data_dir


def test_what_the_first_release_stored_is_all_there(
    old_data: Path, start_server: Callable[..., Any]
) -> None:
    before = json.loads((FROZEN / "feed.json").read_text())
    server = start_server(data_dir=old_data)
    after = {"/".join(key): item for key, item in server.member.feed().items()}
    assert after.keys() == before["feed"].keys()
    for key, item in before["feed"].items():
        for file in item["files"]:
            file["executable"] = False
        assert after[key] == {**item, "published_by": None}, key
    tenants = {"acme": server.member, "other": server.other}
    for client in tenants.values():
        answer = client.get("/api/script/download", playbook_id="stop", version="1.0.0").json()
        assert answer["files"]
        for file in answer["files"]:
            assert server.http.get(file["url"]).status_code == 200


def test_a_cursor_of_before_goes_on_where_it_stood(
    old_data: Path, start_server: Callable[..., Any]
) -> None:
    cursor = json.loads((FROZEN / "feed.json").read_text())["cursor"]
    server = start_server(data_dir=old_data)
    assert server.member.changes(cursor)["changes"] == []
    server.member.publish("new", "1.0.0")
    assert [item["playbook_id"] for item in server.member.changes(cursor)["changes"]] == ["new"]


def test_what_was_once_approved_still_asks_for_a_reviewer(
    old_data: Path, start_server: Callable[..., Any]
) -> None:
    server = start_server(data_dir=old_data)
    feed = server.member.feed()
    for version in ("1.0.0", "1.1.0", "1.2.0"):  # deprecated, approved, of an unknown publisher
        refused = server.member.delete("stop", version, feed["stop", version]["revision"])
        assert refused.status_code == 403, version
    assert server.reviewer.delete("stop", "1.1.0", feed["stop", "1.1.0"]["revision"]).is_success


def test_the_digest_of_what_the_first_release_deleted_is_kept(
    old_data: Path, start_server: Callable[..., Any]
) -> None:
    server = start_server(data_dir=old_data)
    other = {"shell/gone.sh": b"echo something else\n"}
    server.member.upload("gone", "1.0.0", other)
    body = server.member.publish_body(server.member.metadata("gone", "1.0.0"), other)
    assert server.member.send_publish(body).status_code == 409


def test_before_a_step_there_is_a_private_copy_that_the_old_server_can_read(
    old_data: Path,
) -> None:
    open_database(old_data).close()
    copy = old_data / "escher.db.schema-1"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    connection = sqlite3.connect(copy)
    assert schema_version(connection) == 1
    frozen = (FROZEN / "escher.sql").read_text().splitlines()
    kept = {line for line in frozen if line.startswith("INSERT")}
    assert {line for line in connection.iterdump() if line.startswith("INSERT")} == kept
    assert [path.name for path in old_data.glob(".*")] == []


def test_a_step_that_fails_leaves_everything_as_it_was(
    old_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = (*migrations.STEPS[:1], migrations.STEPS[1] + "SELECT * FROM not_there;")
    monkeypatch.setattr(migrations, "STEPS", broken)
    with pytest.raises(sqlite3.OperationalError, match="not_there"):
        open_database(old_data)
    monkeypatch.undo()
    database = open_database(old_data)
    assert database.read().execute("SELECT count(*) FROM versions").fetchone()[0] == 6
    database.close()


def test_a_new_database_goes_through_the_same_steps_and_again_through_none(tmp_path: Path) -> None:
    open_database(tmp_path / "server").close()
    path = tmp_path / "server" / "escher.db"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.glob("*.schema-*")) == []
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    done: list[int] = []
    bring_up_to_date(connection, path, step_done=done.append)
    assert (done, schema_version(connection)) == ([], SCHEMA_VERSION)


def test_a_database_of_a_newer_server_is_refused_and_left_alone(tmp_path: Path) -> None:
    open_database(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "escher.db")
    connection.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (SCHEMA_VERSION + 1,))
    connection.commit()
    before = sorted(connection.iterdump())
    with pytest.raises(NewerData, match=f"schema {SCHEMA_VERSION + 1}"):
        open_database(tmp_path)
    assert sorted(connection.iterdump()) == before


class TestARestoredServer:
    """Its change numbers are given again, to other changes."""

    def test_a_cursor_from_after_the_copy_starts_from_the_beginning(
        self, tmp_path: Path, start_server: Callable[..., Any]
    ) -> None:
        server = start_server()
        server.member.publish("first")
        copied = tmp_path / "copy"
        database = sqlite3.connect(server.data_dir / "escher.db")
        copied.mkdir()
        database.execute("VACUUM INTO ?", (str(copied / "escher.db"),))
        for name in ("second", "third"):
            server.member.publish(name)
        cursor = server.member.changes()["cursor"]  # behind the third
        restored = start_server(data_dir=copied)
        for name in ("fourth", "fifth", "sixth"):
            restored.member.publish(name)
        found = [item["playbook_id"] for item in restored.member.changes(cursor)["changes"]]
        assert found == ["first", "fourth", "fifth", "sixth"]

    def test_an_ordinary_restart_makes_nobody_read_again(
        self, start_server: Callable[..., Any]
    ) -> None:
        server = start_server()
        server.member.publish("first")
        cursor = server.member.changes()["cursor"]
        again = start_server()
        again.member.publish("second")
        found = [item["playbook_id"] for item in again.member.changes(cursor)["changes"]]
        assert found == ["second"]


def test_the_number_of_starts_that_are_kept_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("escher_server.database._LIVES_KEPT", 3)
    database = Database(tmp_path / "escher.db")
    for _ in range(6):
        database.begin_life()
    assert database.read().execute("SELECT count(*) FROM starts").fetchone()[0] == 3
    database.close()
