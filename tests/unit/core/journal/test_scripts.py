from __future__ import annotations

import pytest
from support.postgres import on_sqlite

from core.journal import scripts as module
from core.journal.scripts import CacheRow, ProofRow, QuarantineRow
from core.models import FileEntry, Ref

FILE = FileEntry("shell/a.sh", 7, "sha256:" + "a" * 64)


def _row(name: str, used: float, fetched: float = 0.0) -> CacheRow:
    return CacheRow(Ref(name, "1.0.0"), "shell", "tenant", FILE.path, (FILE,), 10, fetched, used)


def test_entries_come_by_last_use_page_by_page(journal, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    rows = [_row(f"p-{number}", float(number // 4)) for number in range(10)]
    with journal.database.write() as connection:
        journal.script_cache.put(list(reversed(rows)), connection)
        assert list(journal.script_cache.by_last_use(connection)) == rows
    assert [row.last_used for row in journal.script_cache.all()] == [2, 2, 1, 1, 1, 1, 0, 0, 0, 0]


def test_a_row_is_replaced_looked_up_marked_and_forgotten(journal):
    rows = journal.script_cache
    with journal.database.write() as connection:
        rows.put([_row("a", 1.0), _row("b", 1.0)], connection)
        rows.put([_row("a", 2.0, fetched=5.0)], connection)
        rows.seen({_row("b", 0).key: 9.5}, connection)
        assert rows.get(_row("a", 0).key, connection) == _row("a", 2.0, fetched=5.0)
        assert rows.get((Ref("b", "1.0.0"), "python"), connection) is None
        assert rows.expired(4.9, 100.0, connection) == [_row("b", 9.5)]
        assert rows.expired(-1.0, 4.0, connection) == [_row("a", 2.0, fetched=5.0)]
        rows.delete([_row("a", 0).key], connection)
    assert rows.all() == [_row("b", 9.5)]
    assert rows.versions("b", "shell") == ["1.0.0"]
    assert rows.earliest_fetch() == 0.0


def test_all_that_counts_is_summed(journal):
    rows = journal.script_cache
    assert rows.sizes() == (0, 0, 0, 0, 0)
    aside = QuarantineRow("a-v1.0.0/shell-1", "a", "1.0.0", "shell", 5, 1.0, "odd")
    with journal.database.write() as connection:
        rows.put([_row("a", 1.0), _row("b", 1.0)], connection)
        rows.put_quarantined(aside, connection)
        rows.lock_room(connection)
    assert rows.sizes() == (20, 5, 0, 2, 0)
    assert rows.sizes().used == 25
    assert rows.quarantined() == [aside]


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
