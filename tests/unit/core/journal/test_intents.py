from __future__ import annotations

import contextlib
import dataclasses

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from core.journal import Intent, Journal
from core.journal.tables import intents
from core.journal.versions import VersionRecord
from core.models import Area, FileEntry, Ref, Strategy, SyncState

FILES = (
    FileEntry("shell/ä.sh", 5, "sha256:" + "a" * 64, executable=True),
    FileEntry("parameters.json", 2, "sha256:" + "b" * 64),
)


def full(record: VersionRecord) -> VersionRecord:
    """The record with a value of its own in every field."""
    return dataclasses.replace(
        record,
        generation=7,
        fetched=False,
        warnings=("one", "two"),
        sync_state=SyncState.DEFERRED,
        publish_as=Strategy.REVIEW,
        publish_gate="block",
        uploaded_digest="sha256:u",
        s3_paths={"shell/ä.sh": "s3://x"},
        published_digest="sha256:p",
        revision=3,
        published_at=4,
        deleting=True,
        made_here=True,
        modes_known=True,
        intake="edit",
        asked={"storage_strategy": "uploaded_trusted"},
        filled=("shell", "arm"),
        published_here=True,
        published_by="ada",
        status_at=10,
        absent_since=11,
        error_type="ServerBusy",
        error="Busy.",
        attempts=2,
        next_attempt_at=5,
        indexed_digest="sha256:i",
        health="broken",
        execution_count=9,
        success_count=8,
        last_executed=6,
    )


def test_a_record_survives_its_intent_whole(journal, make_record):
    for record in (make_record(), full(make_record(metadata={"name": "Größe", "x": [1.5, None]}))):
        for files in (FILES, ()):
            intent = Intent(record.ref, "write", record=record, files=files)
            journal.intents.begin([intent])
            assert journal.intents.open() == [intent]
            with journal.database.write() as connection:
                journal.intents.finish([record.ref], connection)
    assert all(
        getattr(full(make_record()), field.name) != field.default
        for field in dataclasses.fields(VersionRecord)
    ), "a new field must be tried here, too"


def test_what_was_begun_is_there_after_a_crash(journal_url, journal, make_record):
    begun = [
        Intent(
            Ref("a", "1.0.0"),
            "write",
            "staged-1",
            None,
            Area.LOCAL,
            full(make_record()),
            FILES,
            2**40,
        ),
        Intent(Ref("b", "1.0.0"), "move", None, Area.LOCAL, Area.SYNCED),
        Intent(Ref("c", "1.0.0"), "delete", from_area=Area.AI_GENERATED),
    ]
    journal.intents.begin(begun)

    again = Journal(journal_url)
    assert sorted(again.intents.open(), key=lambda intent: intent.ref) == begun
    with again.database.write() as connection:
        again.intents.finish([begun[0].ref, begun[2].ref], connection)
    again.close()
    assert journal.intents.open() == [begun[1]]


def test_an_intent_goes_only_with_what_it_led_to(journal):
    intent = Intent(Ref("a", "1.0.0"), "delete", from_area=Area.LOCAL)
    journal.intents.begin([intent])
    with contextlib.suppress(RuntimeError), journal.database.write() as connection:
        journal.intents.finish([intent.ref], connection)
        raise RuntimeError
    assert journal.intents.open() == [intent]


def test_a_version_has_one_at_a_time(journal):
    intent = Intent(Ref("a", "1.0.0"), "delete", from_area=Area.LOCAL)
    other = Intent(Ref("b", "1.0.0"), "delete", from_area=Area.LOCAL)
    journal.intents.begin([intent])
    with pytest.raises(IntegrityError):
        journal.intents.begin([other, intent])
    assert journal.intents.open() == [intent], "all of a batch or none of it"


@pytest.mark.parametrize(("inode", "fetched"), [(3, True), (0, False)])
@pytest.mark.parametrize("marks", [True, False], ids=["format 5", "0.1.0"])
def test_an_intent_of_an_earlier_format_is_read(journal, make_record, inode, fetched, marks):
    record = make_record()
    journal.intents.begin([Intent(record.ref, "write", record=record, files=FILES)])
    body = journal.database.scalar(select(intents.c.record))
    del body["record"]["fetched"]
    body["files"] = [
        [*row[:3], 133, 1_700_000_000_123_456_789, 2, inode, *row[3 : 3 + marks]]
        for row in body["files"]
    ]
    journal.database.run(update(intents).values(record=body))
    (intent,) = journal.intents.open()
    assert (intent.record.fetched, intent.files, intent.inode) == (fetched, FILES, None)
    assert [file.executable for file in intent.files] == [marks, False]


def test_what_is_kept_holds_no_content_only_digests(journal, make_record):
    record = make_record()
    journal.intents.begin([Intent(record.ref, "write", record=record, files=FILES)])
    body = journal.database.scalar(select(intents.c.record))
    assert set(body) == {"record", "ref", "warnings", "files"}
