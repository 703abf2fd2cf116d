"""The journal's lock comes before the lock on the files, whatever changes the cache.

Two who take them in another order wait for each other, and no database sees a deadlock of which the
files' lock is part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.script_cache import CacheUnderTest, key_of

from core.scripts.layout import CacheLock

STOP, START = key_of("stop-rds@1.0.0"), key_of("start-rds@1.0.0")
FILES = {"shell/stop.sh": b"#!/bin/sh\necho stop\n"}


def _wrong_byte(under: CacheUnderTest) -> None:
    (under.folder(STOP) / "stop.sh").write_bytes(b"#!/bin/sh\necho stoq\n")
    assert under.cache.find(STOP) is None


def _lost_manifest(under: CacheUnderTest) -> None:
    under.cache.layout.place(STOP).manifest.unlink()
    under.cache.reconcile()


CHANGES: dict[str, Callable[[CacheUnderTest], object]] = {
    "promote": lambda under: under.add(START, FILES),
    "refresh": lambda under: under.cache.refresh(STOP),
    "quarantine": lambda under: under.cache.quarantine(STOP, "for a test"),
    "quarantine_staged": lambda under: under.cache.quarantine_staged(
        under.stage(START, FILES).folder, START, "for a test"
    ),
    "evict": lambda under: under.cache.evict(),
    "clear": lambda under: under.cache.clear(),
    "a wrong byte": _wrong_byte,
    "a lost manifest": _lost_manifest,
}


@pytest.fixture
def under(tmp_path: Path) -> Iterator[CacheUnderTest]:
    made = CacheUnderTest(tmp_path / "home")
    made.add(STOP, FILES)
    yield made
    made.close()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_journals_lock_is_taken_before_the_files(
    under: CacheUnderTest, change: Callable[[CacheUnderTest], object], monkeypatch
) -> None:
    writing: list[object] = []  # transactions that are open
    taken: list[bool] = []
    write, exclusive = under.journal.database.write, CacheLock.exclusive

    @contextmanager
    def noted(**options: bool) -> Iterator[object]:
        with write(**options) as connection:
            if options.get("alone", True):
                writing.append(connection)
            yield connection
        writing.clear()

    @contextmanager
    def excluding(lock: CacheLock) -> Iterator[None]:
        taken.append(bool(writing))
        with exclusive(lock):
            yield

    monkeypatch.setattr(under.journal.database, "write", noted)
    monkeypatch.setattr(CacheLock, "exclusive", excluding)
    change(under)
    assert taken
    assert all(taken)
