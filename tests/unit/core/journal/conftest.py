"""A new journal, and rows for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.postgres import ENGINES, POSTGRESQL, Postgres

from core.journal import Journal, VersionRecord
from core.models import Area, FileEntry, Ref

MakeRecord = Callable[..., VersionRecord]
Put = Callable[..., VersionRecord]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Every test of the journal runs on both, but those of SQLite's files."""
    return str(request.param)


@pytest.fixture
def journal_url(engine: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a journal that has its tables and nothing else; on SQLite no file yet."""
    if engine == POSTGRESQL:
        postgres: Postgres = request.getfixturevalue("postgres")
        url = postgres.new_journal()
        yield url
        postgres.give_back(url)
    else:
        yield request.getfixturevalue("new_journal_url")()


@pytest.fixture
def journal(journal_url: str) -> Iterator[Journal]:
    opened = Journal(journal_url)
    yield opened
    opened.close()


@pytest.fixture
def make_record() -> MakeRecord:
    def make(ref: str = "a@1.0.0", metadata: dict[str, Any] | None = None, **row: Any) -> Any:
        found = Ref.parse(ref)
        body = {
            "playbook_id": found.playbook_id,
            "version": found.version,
            "name": f"Playbook {found.playbook_id}",
            "cloud_provider": ["aws"],
            "created_at": 1,
            "updated_at": 2,
            **(metadata or {}),
        }
        digest = row.pop("content_digest", "sha256:" + "a" * 64)
        return VersionRecord(found, row.pop("area", Area.LOCAL), digest, body, **row)

    return make


@pytest.fixture
def put(journal: Journal, make_record: MakeRecord) -> Put:
    """Write a row with one file, and give it back."""

    def write(ref: str = "a@1.0.0", **fields: Any) -> VersionRecord:
        record = make_record(ref, **fields)
        entry = FileEntry("shell/a.sh", 1, "sha256:" + "b" * 64)
        with journal.database.write() as connection:
            journal.versions.put([(record, (entry,))], connection)
        return record

    return write
