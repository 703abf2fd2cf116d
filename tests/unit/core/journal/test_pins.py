"""A name stands for one content: the first, for ever."""

from __future__ import annotations

import dataclasses

import pytest

from core.journal.leases import VERSION
from core.journal.pins import LIBRARY, SERVER, TOMBSTONE
from core.journal.versions import Advance
from core.models import Area, Ref

REF = Ref("stop-rds", "1.0.0")
A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def published(record, ref, digest=A, **fields):
    metadata = record.metadata | {"playbook_id": ref.playbook_id, "version": ref.version}
    values = {"content_digest": digest, "published_digest": digest, "revision": 1, **fields}
    return dataclasses.replace(record, ref=ref, metadata=metadata, **values)


def test_the_first_digest_stays(journal):
    journal.pins.put([(REF, A)], SERVER)
    journal.pins.put([(REF, B)], LIBRARY)
    assert journal.pins.get(REF) == A
    journal.pins.replace(REF, B)
    journal.pins.put([(REF, A)], SERVER)
    assert journal.pins.get(REF) == B


def test_what_comes_from_the_server_is_pinned_in_its_own_transaction(journal, make_record):
    record = published(make_record("stop-rds@1.0.0"), REF)

    def put_and_fail() -> None:
        with journal.database.write() as connection:
            journal.versions.put([(record, ())], connection)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        put_and_fail()
    assert journal.pins.get(REF) is None
    with journal.database.write() as connection:
        journal.versions.put([(record, ())], connection)
    assert journal.pins.get(REF) == A


def test_what_is_not_published_is_not_pinned(journal, make_record):
    record = make_record("stop-rds@1.0.0")
    with journal.database.write() as connection:
        journal.versions.put([(record, ())], connection)
    assert journal.pins.get(record.ref) is None


@pytest.mark.parametrize("is_current", [True, False])
def test_a_commit_is_pinned_whatever_became_of_the_row_meanwhile(journal, make_record, is_current):
    record = make_record("stop-rds@1.0.0")
    ref = record.ref
    with journal.database.write() as connection:
        journal.versions.put([(record, ())], connection)
    lease = journal.leases.take(VERSION, [ref]).token
    seen = record.content_digest if is_current else B
    facts = {"published_digest": seen, "revision": 1, "published_here": True}
    assert journal.versions.advance([Advance(ref, lease, seen, facts, {"error": None})]) == [
        is_current
    ]
    assert journal.pins.get(ref) == seen


def test_a_deleted_row_leaves_its_pin(journal, make_record):
    with journal.database.write() as connection:
        journal.versions.put([(published(make_record("stop-rds@1.0.0"), REF), ())], connection)
    with journal.database.write() as connection:
        journal.versions.delete([REF], connection)
    assert journal.pins.get(REF) == A
    assert journal.pins.versions_of("stop-rds") == ["1.0.0"]


def test_an_id_is_private_until_a_version_of_it_is_published_or_comes(journal, make_record):
    rows = [
        make_record("private@1.0.0"),
        published(make_record("shared@1.0.0"), Ref("shared", "1.0.0")),
        dataclasses.replace(make_record("journal-lost@1.0.0"), area=Area.SYNCED),
    ]
    with journal.database.write() as connection:
        journal.versions.put([(row, ()) for row in rows], connection)
    ids = ["private", "shared", "journal-lost", "unknown"]
    assert journal.pins.private_ids(ids) == {"private"}
    journal.pins.put([(Ref("private", "7.0.0"), A)], TOMBSTONE)
    assert journal.pins.private_ids(ids) == {"private"}, "a tombstone brings nothing here"
    journal.pins.put([(Ref("private", "8.0.0"), A)], SERVER)
    assert journal.pins.private_ids(ids) == set()
