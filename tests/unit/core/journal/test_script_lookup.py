"""The look-up of scripts: right after any commit, by whoever, in threads and forked processes."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from support.postgres import on_sqlite

from core.errors import UsageError
from core.journal import Journal
from core.journal.script_lookup import KEPT_ANSWERS, ScriptRow, ToldStatus, VersionFacts
from core.journal.tables import pins
from core.models import Area, FileEntry, Ref

SUM = "sha256:" + "b" * 64


@pytest.fixture
def put_files(journal: Journal, make_record: Callable) -> Callable:
    def write(ref: str, paths: list[str], in_journal: Journal = journal, **fields) -> None:
        files = tuple(FileEntry(path, len(path), SUM) for path in paths)
        with in_journal.database.write() as connection:
            in_journal.versions.put([(make_record(ref, **fields), files)], connection)

    return write


@pytest.fixture
def other(journal_url: str) -> Iterator[Journal]:
    """The same journal as another process has it open."""
    opened = Journal(journal_url)
    yield opened
    opened.close()


def _paths(row: ScriptRow | None) -> list[str]:
    assert row is not None
    return [file.path for file in row.files]


def test_one_format_of_one_version(journal, put_files):
    paths = ["shell/b.sh", "shell/a.sh", "terraform/main.tf", "parameters.json", "shell-like/x"]
    put_files("a@1.0.0", paths, metadata={"entry_points": {"shell": "b.sh"}}, area=Area.SYNCED,
              revision=3, generation=7)  # fmt: skip
    row = journal.script_rows.find("a", "1.0.0", "shell")
    assert row == ScriptRow(
        Ref("a", "1.0.0"), sensitive=False, generation=7, entry_points={"shell": "b.sh"},
        files=(FileEntry("shell/a.sh", 10, SUM), FileEntry("shell/b.sh", 10, SUM)),
        facts=row.facts,
    )  # fmt: skip
    assert (row.area, row.published) == (Area.SYNCED, True)
    assert _paths(journal.script_rows.find("a", "1.0.0", "terraform")) == ["terraform/main.tf"]
    assert _paths(journal.script_rows.find("a", "1.0.0", "python")) == []
    assert journal.script_rows.find("a", "1.0.1", "shell") is None
    assert journal.script_rows.find("b", "1.0.0", "shell") is None


def test_what_is_sensitive_or_unpublished_says_so(journal, put_files):
    put_files("a@1.0.0", ["shell/a.sh"], metadata={"sensitive": True})
    row = journal.script_rows.find("a", "1.0.0", "shell")
    assert (row.sensitive, row.published, row.entry_points) == (True, False, None)


def test_all_versions_with_what_may_be_decided_from(journal, put_files):
    put_files("a@1.0.0", ["shell/a.sh"], area=Area.SYNCED, revision=1, published_by="mia",
              status_at=77, metadata={"status": "deprecated", "deprecated_by": "1.1.0",
                                      "storage_strategy": "uploaded_trusted"})  # fmt: skip
    put_files("a@1.1.0", ["python/a.py"], made_here=True, metadata={"updated_at": 88})
    journal.conflicts.open(Ref("a", "1.1.0"), "open_conflict", "they differ")
    found = {facts.version: facts for facts in journal.script_rows.versions_of("a", "shell")}
    assert found == {
        "1.0.0": VersionFacts(
            "1.0.0", Area.SYNCED, "deprecated", "uploaded_trusted", published=True,
            made_here=False, health="ok", published_by="mia", status_at=77, in_conflict=False,
            deprecated_by="1.1.0", has_format=True, origin_known=False,
        ),
        "1.1.0": VersionFacts(
            "1.1.0", Area.LOCAL, "ready", "local_only", published=False, made_here=True,
            health="ok", published_by=None, status_at=88, in_conflict=True, has_format=False,
        ),
    }  # fmt: skip
    assert journal.script_rows.find("a", "1.0.0", "shell").facts == found["1.0.0"]
    assert journal.script_rows.find("a", "1.1.0", "shell").facts == found["1.1.0"]
    assert journal.script_rows.versions_of("b", "shell") == ()


def test_a_version_that_was_pulled_is_of_a_known_origin(journal, put_files):
    put_files("a@1.0.0", ["shell/a.sh"], area=Area.SYNCED, revision=1, intake="pull")
    [facts] = journal.script_rows.versions_of("a", "shell")
    assert facts.origin_known
    assert not facts.made_here


def test_an_id_is_private_until_a_version_was_published_or_pulled(journal, put_files):
    rows = journal.script_rows
    assert not rows.is_private("a"), "it is nobody's here"
    put_files("a@1.0.0", ["shell/a.sh"])
    assert rows.is_private("a")
    put_files("a@1.1.0", ["shell/a.sh"], revision=3)
    assert not rows.is_private("a")
    put_files("b@1.0.0", ["shell/a.sh"])
    pin = {"playbook_id": "b", "version": "0.9.0", "content_digest": SUM, "source": "server",
           "pinned_at": 1}  # fmt: skip
    with journal.database.write() as connection:
        connection.execute(pins.insert(), [pin])
    assert not rows.is_private("b"), "one was here and is deleted"


def test_what_the_server_told_is_kept(journal, other):
    ref = Ref("a", "1.0.0")
    assert journal.script_rows.told(ref) is None
    for told in (ToldStatus("pending_review", None, "mia", None, 5),
                 ToldStatus("approved", "uploaded_trusted", "mia", "2.0.0", 9)):  # fmt: skip
        other.script_rows.note_told({ref: told})
        assert journal.script_rows.told(ref) == told


def test_any_commit_is_seen_at_the_next_look(journal, other, put_files):
    assert journal.script_rows.find("a", "1.0.0", "shell") is None
    put_files("a@1.0.0", ["shell/a.sh"], other)
    assert _paths(journal.script_rows.find("a", "1.0.0", "shell")) == ["shell/a.sh"]
    put_files("a@1.0.0", ["shell/b.sh"])  # by this process
    assert _paths(journal.script_rows.find("a", "1.0.0", "shell")) == ["shell/b.sh"]
    with other.database.write() as connection:
        other.versions.delete([Ref("a", "1.0.0")], connection)
    assert journal.script_rows.find("a", "1.0.0", "shell") is None


@on_sqlite
def test_an_answer_is_kept_until_then(journal, put_files):
    put_files("a@1.0.0", ["shell/a.sh"])
    first = journal.script_rows.find("a", "1.0.0", "shell")
    assert journal.script_rows.find("a", "1.0.0", "shell") is first


@on_sqlite
def test_what_is_kept_is_bounded(journal):
    for number in range(KEPT_ANSWERS + 10):
        assert journal.script_rows.find("a", f"1.0.{number}", "shell") is None
    assert len(journal.script_rows._kept) <= KEPT_ANSWERS


def test_threads_share_it_while_it_is_written(journal, other, put_files):
    put_files("a@1.0.0", ["shell/0.sh"])
    seen: list[list[str]] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.append(_paths(journal.script_rows.find("a", "1.0.0", "shell")))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(30):
        put_files("a@1.0.0", [f"shell/{number}.sh", f"shell/{number}b.sh"], other)
        assert f"shell/{number}.sh" in _paths(journal.script_rows.find("a", "1.0.0", "shell"))
    done.set()
    for thread in threads:
        thread.join(20)
    assert all(len({path.split(".")[0].rstrip("b") for path in paths}) == 1 for paths in seen)


def test_a_forked_child_is_told_to_open_its_own(journal, put_files):
    put_files("a@1.0.0", ["shell/a.sh"])
    assert journal.script_rows.find("a", "1.0.0", "shell") is not None
    child = os.fork()
    if child == 0:
        status = 1
        try:
            journal.script_rows.close()
            journal.script_rows.find("a", "1.0.0", "shell")
        except UsageError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    put_files("a@1.0.0", ["shell/b.sh"])
    assert _paths(journal.script_rows.find("a", "1.0.0", "shell")) == ["shell/b.sh"]


def test_it_opens_again_after_close(journal, put_files):
    put_files("a@1.0.0", ["shell/a.sh"])
    for _ in range(2):
        assert journal.script_rows.find("a", "1.0.0", "shell") is not None
        journal.script_rows.close()


@on_sqlite
def test_the_same_by_plain_selects(journal, put_files, monkeypatch):
    """As on PostgreSQL, which has no data_version."""
    put_files("a@1.0.0", ["shell/a.sh", "python/a.py"], metadata={"entry_points": {"x": "y"}})
    put_files("a@1.1.0", ["shell/a.sh"], revision=1)
    wanted = [("1.0.0", "shell"), ("1.1.0", "shell"), ("1.0.0", "python"), ("9.9.9", "shell")]

    def look() -> list[object]:
        rows = journal.script_rows
        found = [rows.find("a", *key) for key in wanted]
        return [
            *found,
            rows.versions_of("a", "shell"),
            rows.is_private("a"),
            rows.told(Ref("a", "1.0.0")),
        ]

    before = look()
    monkeypatch.setattr(journal.database, "is_sqlite", False)
    assert look() == before


@on_sqlite
def test_a_damaged_journal_is_told_in_words(journal, put_files, monkeypatch):
    from core.errors import StorageError

    def broken() -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(journal.script_rows, "_open", broken)
    with pytest.raises(StorageError, match="malformed"):
        journal.script_rows.find("a", "1.0.0", "shell")


def test_another_process_sees_what_this_one_commits(journal, put_files, journal_url):
    put_files("a@1.0.0", ["shell/a.sh"])
    program = (
        "import json, sys\nfrom core.journal import Journal\n"
        f"journal = Journal({journal_url!r})\n"
        "for line in sys.stdin:\n"
        "    row = journal.script_rows.find('a', '1.0.0', 'shell')\n"
        "    print(json.dumps([file.path for file in row.files]), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        for name in ("a", "b", "c"):
            put_files("a@1.0.0", [f"shell/{name}.sh"])
            process.stdin.write("\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == [f"shell/{name}.sh"]
        process.stdin.close()
