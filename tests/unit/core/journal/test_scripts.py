from __future__ import annotations

import pytest
from support.postgres import on_sqlite

from core.journal import scripts as module
from core.journal.scripts import DOWNLOADS, NOBODYS, CacheFolder, FolderState, ProofRow
from core.models import FileEntry, Ref, ScriptKey

FILE = FileEntry("shell/a.sh", 7, "sha256:" + "a" * 64)


def _row(name: str, used: float, fetched: float = 0.0) -> CacheFolder:
    key = ScriptKey(Ref(name, "1.0.0"), "shell")
    place = f"scripts/{name}-v1.0.0/shell"
    return CacheFolder(
        place, FolderState.COMPLETE, key, 10, fetched, used, "tenant", FILE.path, (FILE,)
    )


def test_entries_come_by_last_use_page_by_page(journal, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    rows = [_row(f"p-{number}", float(number // 4)) for number in range(10)]
    with journal.database.write() as connection:
        journal.cache_folders.put(reversed(rows), connection)
        assert list(journal.cache_folders.by_last_use(connection)) == rows


def test_a_row_is_replaced_looked_up_marked_and_forgotten(journal):
    rows = journal.cache_folders
    with journal.database.write() as connection:
        rows.put([_row("a", 1.0), _row("b", 1.0)], connection)
        rows.put([_row("a", 2.0, fetched=5.0)], connection)
        rows.seen({_row("b", 0).name: 9.5}, connection)
        assert rows.get(_row("a", 0).name, connection) == _row("a", 2.0, fetched=5.0)
        assert rows.get("scripts/b-v1.0.0/python", connection) is None
        assert rows.expired(4.9, 100.0, connection) == [_row("b", 9.5)]
        assert rows.expired(-1.0, 4.0, connection) == [_row("a", 2.0, fetched=5.0)]
        rows.delete([_row("a", 0).name], connection)
    assert rows.of(FolderState.COMPLETE) == [_row("b", 9.5)]
    assert rows.versions("b", "shell") == ["1.0.0"]


def test_all_that_counts_is_summed(journal):
    rows = journal.cache_folders
    assert set(rows.totals().values()) == {(0, 0, None)}
    aside = CacheFolder("quarantine/unknown/1", FolderState.QUARANTINED, NOBODYS, 5, 1.0)
    copy = CacheFolder("copies/1", FolderState.COPY, size_bytes=7, since=1.0)
    lease = journal.downloads.claim({_row("a", 0).key: "staging/1"}).lease
    with journal.database.write() as connection:
        rows.put([_row("a", 1.0, fetched=4.0), _row("b", 1.0, fetched=3.0)], connection)
        rows.put([aside, copy], connection)
        journal.downloads.reserve({_row("a", 0).key: 100}, lease, connection)
        assert rows.used_bytes(connection) == 20 + 5 + 7 + 100
    totals = rows.totals()
    assert totals[FolderState.COMPLETE] == (2, 20, 3.0)
    assert [totals[state].size_bytes for state in DOWNLOADS] == [100, 0, 0]
    assert rows.of(FolderState.QUARANTINED, FolderState.COPY) == [copy, aside]


def test_counters_add_up_with_and_without_waiting(journal):
    with journal.database.write() as connection:
        journal.counters.add({"hits": 2}, connection)
        assert not journal.counters.add_now({"hits": 1}), "another writes"
    assert journal.counters.add_now({"hits": 3, "misses": 1})
    assert journal.counters.all() == {"hits": 5, "misses": 1}
    if journal.database.is_sqlite:
        with journal.database.write() as connection:  # the connection waits for a lock again
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000


@on_sqlite
def test_counting_on_a_full_disk_is_put_off_and_raises_nothing(journal):
    def fill(pages):
        with journal.database.read() as connection:  # the pool gives this one out again
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    fill(1)
    assert not journal.counters.add_now({f"counter-{number}": 1 for number in range(2000)})
    fill(1 << 30)
    assert journal.counters.add_now({"hits": 1})
    assert journal.counters.all() == {"hits": 1}


@pytest.mark.parametrize(("before", "after", "kept"), [(4.0, 9.0, 1), (5.0, 9.0, 0), (0.0, 4.0, 0)])
def test_proofs_end(journal, before, after, kept):
    row = ProofRow("/a", 1, 2, 3, 4, FILE.checksum, 5.0)
    journal.proofs.put(row._replace(size=9))
    journal.proofs.put(row)
    assert journal.proofs.get("/a") == row
    journal.proofs.forget(before, after)
    assert (journal.proofs.get("/a") is not None) == kept
