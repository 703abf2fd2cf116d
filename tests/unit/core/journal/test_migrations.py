from __future__ import annotations

import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from support.homes_before import unpack_home
from support.postgres import ENGINES

from core.errors import StorageError
from core.journal import Journal, migrations
from core.journal.executions import Execution
from core.journal.scripts import CacheFolder, FolderState
from core.journal.tables import FORMAT_VERSION
from core.models import FileEntry, Ref, ScriptKey, Strategy


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return unpack_home(tmp_path)


def open_journal(home: Path) -> Journal:
    return Journal(f"sqlite:///{home / 'journal.db'}")


def rows(path: Path, query: str) -> list[tuple]:
    with closing(sqlite3.connect(path)) as journal:
        return journal.execute(query).fetchall()


OLD_COLUMNS = "playbook_id, version, content_digest, metadata, sync_state, revision, health"


class TestAHomeFromBefore:
    def test_keeps_every_row(self, home: Path):
        before = rows(home / "journal.db", f"SELECT {OLD_COLUMNS} FROM versions ORDER BY 1, 2")
        open_journal(home).close()
        after = rows(home / "journal.db", f"SELECT {OLD_COLUMNS} FROM versions ORDER BY 1, 2")
        trusted = [row[0] for row in before if row[4] == "pending" and "_trusted" in row[3]]
        assert trusted == ["wished-trusted"]
        changed = [(*row[:4], "local", *row[5:]) if row[0] in trusted else row for row in before]
        assert after == changed
        assert len(after) == 17

    def test_what_was_to_be_trusted_waits_for_a_choice_and_what_was_to_be_reviewed_goes_on(
        self, home: Path
    ):
        journal = open_journal(home)
        records = {record.ref.playbook_id: record for record in journal.versions.select()}
        wished = records["wished-trusted"]
        assert (wished.publish_as, wished.asked) == (None, {"storage_strategy": "uploaded_trusted"})
        assert "publish wished-trusted@1.0.0 --as trusted" in wished.warnings[0]
        assert wished.chosen_strategy is Strategy.LOCAL_ONLY
        assert records["waiting"].publish_as is Strategy.REVIEW
        assert records["active-status"].asked == {"status": "active"}
        assert journal.choices.for_review(list(records)) == set()

    def test_is_copied_before_it_is_changed(self, home: Path):
        open_journal(home).close()
        copy = home / "journal.db.before-2"
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert rows(copy, "SELECT value FROM home WHERE key = 'format_version'") == [("1",)]
        assert rows(copy, "SELECT count(*) FROM versions") == [(17,)]

    def test_a_journal_that_was_put_back_and_used_is_copied_anew(self, home: Path):
        journal, copy = home / "journal.db", home / "journal.db.before-2"
        Journal(f"sqlite:///{journal}").close()
        for name in ("journal.db-wal", "journal.db-shm"):
            (home / name).unlink(missing_ok=True)
        journal.write_bytes(copy.read_bytes())
        with closing(sqlite3.connect(journal)) as old, old:
            old.execute("INSERT INTO home (key, value) VALUES ('used_since', '1')")
        Journal(f"sqlite:///{journal}").close()
        with closing(sqlite3.connect(copy)) as kept:
            facts = dict(kept.execute("SELECT key, value FROM home"))
        assert (facts["format_version"], facts["used_since"]) == ("1", "1")

    def test_what_is_unpublished_was_made_here_and_what_is_published_may_be_anybodys(
        self, home: Path
    ):
        journal = open_journal(home)
        records = journal.versions.select()
        assert {r.made_here for r in records if r.is_published} == {False}
        assert {r.made_here for r in records if not r.is_published} == {True}

    def test_pins_what_is_published(self, home: Path):
        journal = open_journal(home)
        published = {r.ref: r.published_digest for r in journal.versions.select() if r.is_published}
        pinned = rows(home / "journal.db", "SELECT playbook_id, version, content_digest FROM pins")
        assert {Ref(*row[:2]): row[2] for row in pinned} == published

    def test_keeps_what_is_cached(self, home: Path):
        before = rows(home / "journal.db", "SELECT playbook_id, version, format FROM cache_entries")
        entries = open_journal(home).cache_folders.of(FolderState.COMPLETE)
        assert {(*row.key.ref, row.key.format) for row in entries} == set(before) != set()

    def test_what_was_pulled_without_its_content_is_still_to_be_fetched(self, home: Path):
        query = "SELECT DISTINCT playbook_id, version FROM files WHERE inode = 0 ORDER BY 1, 2"
        before = [Ref(*row) for row in rows(home / "journal.db", query)]
        assert 0 < len(before) < 17
        assert open_journal(home).versions.unfetched() == before
        columns = {row[1] for row in rows(home / "journal.db", "PRAGMA table_info(files)")}
        assert columns == {"playbook_id", "version", "path", "size_bytes", "checksum", "executable"}

    def test_none_of_it_knows_modes(self, home: Path):
        """Its files were all written alike: what a folder shows now is no part of a version."""
        journal = open_journal(home)
        assert {record.modes_known for record in journal.versions.select()} == {False}
        marks = {file.executable for ref in journal.versions.refs() for file in
                 journal.versions.files(ref)}  # fmt: skip
        assert marks == {False}

    def test_is_upgraded_once_by_many_first_starts(self, home: Path):
        failures: list[BaseException] = []

        def start() -> None:
            try:
                open_journal(home).close()
            except BaseException as error:  # shown below
                failures.append(error)

        threads = [threading.Thread(target=start) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        assert open_journal(home).facts.get("format_version") == str(FORMAT_VERSION)

    def test_a_step_that_fails_changes_nothing(self, home: Path, monkeypatch):
        before = rows(home / "journal.db", "SELECT sql FROM sqlite_master ORDER BY 1")
        with monkeypatch.context() as patched:
            real = migrations._to_2
            patched.setattr(
                migrations,
                "STEPS",
                (migrations.Step(2, lambda connection: (real(connection), _full())[0]),),
            )
            with pytest.raises(StorageError, match="full"):
                open_journal(home)
        assert rows(home / "journal.db", "SELECT sql FROM sqlite_master ORDER BY 1") == before
        open_journal(home).close()  # and the next start does it

    def test_without_room_for_the_copy_nothing_is_changed(self, home: Path, monkeypatch):
        (home / "journal.db.before-2.tmp").mkdir()  # stands in the copy's way
        with pytest.raises(StorageError, match="Copying the journal"):
            open_journal(home)
        assert rows(home / "journal.db", "SELECT value FROM home WHERE key = 'format_version'") == [
            ("1",)
        ]


def _full() -> None:
    raise StorageError("The disk is full.")


OLD_RUNS = (
    "DROP INDEX executions_ref",
    "ALTER TABLE executions DROP COLUMN failures_in_a_row",
    "ALTER TABLE executions DROP COLUMN attempts",
    "ALTER TABLE executions DROP COLUMN next_attempt_at",
    "CREATE TABLE execution_refs (playbook_id TEXT, version TEXT, failures_in_a_row INTEGER)",
    "ALTER TABLE execution_refs ADD COLUMN attempts INTEGER",
    "ALTER TABLE execution_refs ADD COLUMN next_attempt_at BIGINT",
    "ALTER TABLE execution_refs ADD COLUMN reason TEXT",
    "INSERT INTO execution_refs VALUES ('a', '1.0.0', 2, 4, 2000, 'busy')",
    "UPDATE home SET value = '4' WHERE key = 'format_version'",
)


def test_format_4_kept_what_follows_from_the_runs_beside_them(journal_url: str, journal, put):
    ref = put("a@1.0.0").ref
    journal.versions.set(ref, revision=1)
    for number in range(2):
        journal.executions.record(ref, Execution(f"run-{number}", False, 1, 1), now=1)
    with journal.database.write() as connection:
        for statement in OLD_RUNS:
            connection.execute(text(statement))

    again = Journal(journal_url)
    assert again.facts.get("format_version") == str(FORMAT_VERSION)
    assert again.executions.attempts(ref) == 4
    assert again.executions.due_refs(1000) == []
    assert again.executions.due_refs(2000) == [ref]
    third = again.executions.record(ref, Execution("run-2", False, 1, 1), now=1)
    assert third.health == "broken"
    again.close()


class TestAJournalOfANewerVersion:
    @pytest.mark.parametrize("newer", [FORMAT_VERSION + 1, 99, "nonsense"])
    def test_is_refused_and_left_alone(self, tmp_path: Path, newer):
        journal = open_journal(tmp_path)
        journal.facts.set("format_version", str(newer))
        journal.close()
        with pytest.raises(StorageError, match="format"):
            open_journal(tmp_path)
        assert list(tmp_path.glob("*.before-*")) == []


def test_a_new_journal_is_of_this_version_and_needs_no_copy(tmp_path: Path):
    assert open_journal(tmp_path).facts.get("format_version") == str(FORMAT_VERSION)
    assert list(tmp_path.glob("*.before-*")) == []


def test_a_first_start_that_was_killed_before_its_number(tmp_path: Path):
    open_journal(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "journal.db")) as journal, journal:
        journal.execute("DELETE FROM home")
    assert open_journal(tmp_path).facts.get("format_version") == str(FORMAT_VERSION)


OF_FORMAT_3 = """
DROP TABLE cache_folders;
CREATE TABLE cache_entries (playbook_id VARCHAR(100), version VARCHAR(64), format VARCHAR(32),
    source VARCHAR(16), entry_point TEXT, files TEXT, size_bytes BIGINT, fetched_at FLOAT,
    last_used FLOAT, PRIMARY KEY (playbook_id, version, format));
CREATE TABLE quarantined (name TEXT PRIMARY KEY, playbook_id VARCHAR(100), version VARCHAR(64),
    format VARCHAR(32), size_bytes BIGINT, at FLOAT, reason TEXT);
CREATE TABLE downloads (playbook_id VARCHAR(100), version VARCHAR(64), format VARCHAR(32),
    fence BIGINT, state VARCHAR(12), reserved_bytes BIGINT, staged TEXT, files TEXT,
    entry_point TEXT, source VARCHAR(16), error_type VARCHAR(40), error TEXT, ended_at FLOAT,
    PRIMARY KEY (playbook_id, version, format));
CREATE TABLE script_copies (name VARCHAR(64) PRIMARY KEY, size_bytes BIGINT, made_at BIGINT);
INSERT INTO cache_entries VALUES ('a', '1.0.0', 'shell', 'tenant', 'shell/a.sh',
    '[["shell/a.sh", 7, "sha256:00"]]', 300, 5.5, 6.5);
INSERT INTO quarantined VALUES ('a-v1.0.0/shell-ff', 'a', '1.0.0', 'shell', 40, 7.0, 'odd');
INSERT INTO downloads VALUES ('a', '1.0.0', 'shell', 2, 'running', 500, 'f1', NULL, NULL, NULL,
    'ServerUnreachable', 'away', 3.0);
INSERT INTO downloads VALUES ('b', '1.0.0', 'shell', 1, 'staged', 60, 'f2',
    '[["shell/a.sh", 7, "sha256:00"]]', 'shell/a.sh', 'tenant', NULL, NULL, 4.0);
INSERT INTO downloads VALUES ('c', '1.0.0', 'shell', 3, 'failed', 0, NULL, NULL, NULL, NULL,
    'NotFound', 'no such', 5.0);
INSERT INTO script_copies VALUES ('dd', 9, 8);
INSERT INTO counters VALUES ('room', 0);
UPDATE home SET value = '3' WHERE key = 'format_version'
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_what_four_tables_said_of_the_cache_is_said_by_one(journal_url: str):
    journal = Journal(journal_url)
    with journal.database.write() as connection:
        for statement in OF_FORMAT_3.split(";"):
            connection.exec_driver_sql(statement)
    journal.close()
    journal = Journal(journal_url)
    a, b, c = (ScriptKey(Ref(name, "1.0.0"), "shell") for name in "abc")
    files = (FileEntry("shell/a.sh", 7, "sha256:00"),)
    entry = CacheFolder("scripts/a-v1.0.0/shell", FolderState.COMPLETE, a, 300, 5.5, 6.5, "tenant",
                        "shell/a.sh", files)  # fmt: skip
    assert journal.cache_folders.of(FolderState.COMPLETE) == [entry]
    running = CacheFolder("staging/f1", FolderState.DOWNLOADING, a, 500, 3.0, attempts=2,
                          error_type="ServerUnreachable", reason="away")  # fmt: skip
    staged = CacheFolder("staging/f2", FolderState.STAGED, b, 60, 4.0, 0.0, "tenant",
                         "shell/a.sh", files, 1)  # fmt: skip
    failed = CacheFolder("staging/c-v1.0.0/shell", FolderState.FAILED, c, 0, 5.0, attempts=3,
                         error_type="NotFound", reason="no such")  # fmt: skip
    assert journal.downloads.all() == [running, staged, failed]
    aside = CacheFolder("quarantine/a-v1.0.0/shell-ff", FolderState.QUARANTINED, a, 40, 7.0,
                        reason="odd")  # fmt: skip
    copy = CacheFolder("copies/dd", FolderState.COPY, size_bytes=9, since=8.0)
    assert journal.cache_folders.of(FolderState.QUARANTINED, FolderState.COPY) == [aside, copy]
    assert journal.counters.all() == {}
    assert journal.downloads.claim({c: "staging/f3"}).mine == {c: failed}
    with journal.database.read() as connection:
        left = set(inspect(connection).get_table_names())
    assert left.isdisjoint({"cache_entries", "quarantined", "downloads", "script_copies"})
    journal.close()
