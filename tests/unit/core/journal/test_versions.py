from __future__ import annotations

import dataclasses
import itertools

import pytest

from core.journal.leases import VERSION
from core.journal.versions import Advance
from core.models import Area, Ref, Status, Strategy, SyncState

A = Ref("a", "1.0.0")
OTHER_DIGEST = "sha256:" + "c" * 64


@pytest.fixture
def versions(journal):
    return journal.versions


def names(records):
    return [str(record.ref) for record in records]


def test_a_row_comes_back_as_it_went_in(versions, put):
    record = put(
        metadata={"name": "Größe „x“", "tags": {"a": [1, None]}, "sensitive": True},
        warnings=("one", "two"),
        s3_paths={"shell/a.sh": "s3://x"},
        publish_as=Strategy.TRUSTED,
        sync_state=SyncState.PENDING,
        revision=2**40,
    )
    assert versions.get(record.ref) == record
    assert versions.get(Ref("a", "9.0.0")) is None
    assert [file.path for file in versions.files(record.ref)] == ["shell/a.sh"]


def test_a_row_is_replaced_with_its_files(journal, versions, put, make_record):
    put()
    with journal.database.write() as connection:
        versions.put([(make_record(generation=2), ())], connection)
    assert versions.get(A).generation == 2
    assert versions.files(A) == ()
    assert versions.refs() == [A]


def test_more_refs_than_a_statement_takes(journal, versions, make_record):
    with journal.database.write() as connection:
        versions.put([(make_record(f"p{n:04}@1.0.0"), ()) for n in range(900)], connection)
    refs = versions.refs()
    assert len(refs) == len(versions.get_many(refs)) == 900
    with journal.database.write() as connection:
        versions.delete(refs, connection)
    assert versions.refs() == []
    assert sorted(journal.stale_points.refs()) == refs


class TestSelect:
    @pytest.fixture(autouse=True)
    def rows(self, put):
        put("a@1.0.0", metadata={"status": "active", "cloud_provider": ["aws", "gcp"]})
        put("a@1.1.0", metadata={"status": "draft"}, sync_state=SyncState.PENDING)
        put("b@1.0.0", metadata={"status": "active", "author": "ai_generated"})
        put("c@1.0.0", metadata={"storage_strategy": "uploaded_trusted"}, area=Area.SYNCED)
        put("d@1.0.0", metadata={"status": "active", "cloud_provider": []})

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({}, ["a@1.0.0", "a@1.1.0", "b@1.0.0", "c@1.0.0", "d@1.0.0"]),
            ({"status": "active"}, ["a@1.0.0", "b@1.0.0", "d@1.0.0"]),
            ({"status": "ready"}, ["c@1.0.0"]),
            ({"strategy": "uploaded_trusted"}, ["c@1.0.0"]),
            ({"author": "ai_generated"}, ["b@1.0.0"]),
            ({"sync": "pending"}, ["a@1.1.0"]),
            ({"area": Area.SYNCED}, ["c@1.0.0"]),
            ({"cloud": "gcp"}, ["a@1.0.0"]),
            ({"cloud": "%"}, []),
            ({"cloud": "aw"}, []),
            ({"status": "active", "cloud": "aws"}, ["a@1.0.0", "b@1.0.0"]),
            ({"status": "no such"}, []),
        ],
        ids=str,
    )
    def test_every_filter_holds(self, versions, filters, expected):
        assert sorted(names(versions.select(**filters))) == expected

    def test_pages_are_of_playbooks_and_miss_none(self, versions):
        for size in (1, 2, 3, 10):
            seen, after = [], None
            while page := versions.select(after=after, playbooks=size):
                assert len({record.ref.playbook_id for record in page}) <= size
                seen += names(page)
                after = page[-1].ref.playbook_id
            assert sorted(seen) == names(sorted(versions.select(), key=lambda r: r.ref))

    def test_filters_and_pages_go_together(self, versions):
        assert names(versions.select(status="active", playbooks=2)) == ["a@1.0.0", "b@1.0.0"]
        assert names(versions.select(status="active", playbooks=2, after="b")) == ["d@1.0.0"]

    def test_counts(self, versions):
        counts = versions.counts()
        assert (counts["playbooks"], counts["versions"]) == (4, 5)
        assert (counts["pending"], counts["local"], counts["failed"]) == (1, 4, 0)


def test_what_is_to_be_published_and_due(versions, put):
    put("a@1.0.0", sync_state=SyncState.PENDING)
    put("b@1.0.0", sync_state=SyncState.DEFERRED, next_attempt_at=100)
    put("c@1.0.0", sync_state=SyncState.DEFERRED, next_attempt_at=101)
    put("d@1.0.0", sync_state=SyncState.PENDING, deleting=True)
    put("e@1.0.0", sync_state=SyncState.PUBLISHED, deleting=True, next_attempt_at=101)
    for number, state in enumerate(("local", "published", "failed", "conflict")):
        put(f"z{number}@1.0.0", sync_state=SyncState(state))

    assert names(versions.wanting_publish(100)) == ["a@1.0.0", "b@1.0.0"]
    assert names(versions.wanting_delete(100)) == ["d@1.0.0"]
    assert names(versions.wanting_delete(101)) == ["d@1.0.0", "e@1.0.0"]


def test_unindexed_in_sql_is_the_records_own_digest(versions, put):
    records = [
        put(
            f"p{number}@1.0.0",
            metadata={"status": status.value, "storage_strategy": strategy.value},
            area=area,
            health=health,
        )
        for number, (status, strategy, area, health) in enumerate(
            itertools.product(list(Status)[:3], list(Strategy)[:2], Area, ("ok", "broken"))
        )
    ]
    assert len(versions.unindexed()) == len(records), "none has been indexed"
    for record in records:
        versions.set(record.ref, indexed_digest=record.index_digest)
    assert versions.unindexed() == []

    changed = records[0].ref
    for values in (
        {"content_digest": OTHER_DIGEST},
        {"health": "unknown"},
        {"area": Area.AI_GENERATED},
        {"metadata": {**records[0].metadata, "status": "archived"}},
        {"metadata": {**records[0].metadata, "storage_strategy": "using_default"}},
        {"indexed_digest": None},
    ):
        versions.set(changed, **values)
        assert versions.unindexed() == [changed], values
        versions.set(changed, indexed_digest=versions.get(changed).index_digest)
        assert versions.unindexed() == []


def test_new_metadata_brings_what_is_filtered_by(versions, put):
    record = put()
    metadata = {**record.metadata, "status": "archived", "cloud_provider": ["gcp"]}
    assert versions.set(A, metadata=metadata)
    assert names(versions.select(status="archived", cloud="gcp")) == ["a@1.0.0"]
    assert versions.get(A) == dataclasses.replace(record, metadata=metadata)
    assert not versions.set(Ref("gone", "1.0.0"), error="x")


class TestAdvance:
    FACTS = {"revision": 5}  # noqa: RUF012  read only
    STATE = {"sync_state": SyncState.PUBLISHED}  # noqa: RUF012  read only

    @pytest.fixture
    def step(self, journal, put):
        record = put(sync_state=SyncState.PENDING)
        held = journal.leases.take(VERSION, [A])
        return Advance(A, held.token, record.content_digest, self.FACTS, self.STATE)

    def found(self, versions):
        record = versions.get(A)
        return record.revision, record.sync_state.value

    def test_writes_facts_and_state(self, versions, step):
        assert versions.advance([step]) == [True]
        assert self.found(versions) == (5, "published")

    def test_of_an_edit_it_did_not_see_writes_facts_alone(self, versions, step):
        versions.set(A, content_digest=OTHER_DIGEST)
        assert versions.advance([step]) == [False]
        assert self.found(versions) == (5, "pending")

    def test_of_a_lost_lease_writes_nothing(self, versions, step):
        late = dataclasses.replace(step, lease="of another taking")
        assert versions.advance([late]) == [False]
        assert self.found(versions) == (None, "pending")

    def test_of_a_row_that_is_gone_writes_nothing(self, journal, versions, step):
        with journal.database.write() as connection:
            versions.delete([A], connection)
        assert versions.advance([step]) == [False]
        assert versions.get(A) is None

    def test_of_nothing_is_done(self, versions, step):
        assert versions.advance([Advance(A, step.lease, step.content_digest)]) == [True]
        assert versions.advance([]) == []


def test_modes_are_set_under_the_lease_with_the_digest_that_they_make(journal, versions, put):
    put()
    held = journal.leases.take(VERSION, [A])
    assert not versions.set_modes(A, ["shell/a.sh"], OTHER_DIGEST, lease="of another")
    assert [file.executable for file in versions.files(A)] == [False]
    for marked in (["shell/a.sh"], []):
        assert versions.set_modes(A, marked, OTHER_DIGEST, lease=held.token)
        assert [file.executable for file in versions.files(A)] == [bool(marked)]
    assert (versions.get(A).content_digest, versions.get(A).modes_known) == (OTHER_DIGEST, True)
