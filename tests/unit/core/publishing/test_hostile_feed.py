"""A server, or one member of the tenant, that tells the feed what may not be believed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.hostile_server import HostileServer, running_hostile
from support.machines import Machine

from core.errors import NotEscherServer, NotFound
from core.journal import pulls
from core.models import Ref, Strategy, SyncState
from core.publishing import feed
from core.settings import Settings

GOOD = [Ref("good-a", "1.0.0"), Ref("good-b", "1.0.0")]
BAD = Ref("bad", "1.0.0")


@pytest.fixture
def hostile() -> Iterator[HostileServer]:
    with running_hostile() as server:
        yield server


@pytest.fixture
def here(hostile, tmp_path) -> Iterator[Machine]:
    machine = Machine(Settings(home=tmp_path / "home", server_url=hostile.url, server_token="t"))
    yield machine
    machine.close()


def tell_between(hostile: HostileServer, text: str) -> None:
    """A page with a good item on either side of ``text``, as it stands."""
    for ref in GOOD:
        hostile.add(ref)

    def lie(honest: Any, asked: Any) -> bytes:
        items = [json.dumps(item) for item in honest["changes"]]
        if asked.query.get("since", "0") == "0" and items:
            items.insert(1, text)
        rest = json.dumps({"cursor": honest["cursor"], "more": honest["more"]})[1:]
        return ('{"changes": [' + ", ".join(items) + "], " + rest).encode()

    hostile.lie("changes", lie)


def bad_item(metadata: str = "{}", **fields: Any) -> str:
    """An item whose metadata is this JSON text."""
    item = {
        "playbook_id": "bad", "version": "1.0.0", "revision": 3, "status": "pending_review",
        "storage_strategy": "uploaded_for_review", "deleted": False, "updated_at": 2,
        "content_digest": "sha256:" + "0" * 64, "files": [], **fields,
    }  # fmt: skip
    return json.dumps(item)[:-1] + f', "metadata": {metadata}}}'


@pytest.mark.parametrize(
    "text",
    [
        bad_item('{"tags": ' + "[" * 33 + "]" * 33 + "}"),
        bad_item('{"tags": ' + "[" * 210 + "]" * 210 + "}"),
        bad_item('{"tags": ' + '{"a": ' * 5000 + "1" + "}" * 5000 + "}"),
        bad_item('{"name": "one", "name": "two"}'),
        bad_item('{"risk": NaN}'),
        bad_item('{"risk": 1e999}'),
        bad_item('{"risk": ' + "9" * 5000 + "}"),
        bad_item("null"),
        bad_item(),
        bad_item(revision=10**30),
        bad_item(updated_at=-(10**30)),
        bad_item(content_digest="sha256:short"),
    ],
    ids=["33-deep", "210-deep", "5000-deep", "a-key-twice", "nan", "infinity", "digits", "null",
         "wrong-digest", "huge-revision", "huge-time", "short-digest"],
)  # fmt: skip
def test_one_bad_item_is_named_and_stops_no_other(hostile, here, text):
    tell_between(hostile, text)
    for report in (here.pull(), here.pull_all()):
        assert list(report.failed) == [str(BAD)]
        assert report.is_partial
        assert report.stopped is None
    assert here.journal.versions.refs() == GOOD
    [waiting] = here.journal.waiting.failed()
    assert waiting.ref == BAD
    assert len(waiting.reason) <= pulls.MAX_REASON_CHARS
    assert here.journal.pull_state.last_complete() is not None
    assert here.pull().failed == {}, "the cursor has gone on"


@pytest.mark.parametrize(
    ("text", "passed_over"),
    [
        ("null", 1), ("[]", 1), ('"text"', 1), ('{"revision": 1}', 1), ("{}, {}, 7", 3),
        ('{"playbook_id": {}, "version": []}', 0),
    ],
)  # fmt: skip
def test_what_has_no_name_is_counted(hostile, here, text, passed_over):
    tell_between(hostile, text)
    report = here.pull()
    assert (report.passed_over, report.is_partial) == (passed_over, True)
    assert here.journal.versions.refs() == GOOD


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "\x1b[2Jevil\u202e",
        "A" * 5000,
        "escher-library-id",
        "a\nb: c",
        "\u009b2J",
    ],
)
def test_a_hostile_name_is_shown_in_a_way_that_does_no_harm(hostile, here, name):
    tell_between(hostile, bad_item(playbook_id=name))
    [told] = here.pull().failed
    assert told.isprintable()
    assert len(told) <= 170
    assert here.journal.versions.refs() == GOOD


def test_cursors_that_go_round_end_the_pull(hostile, here):
    hostile.add(GOOD[0])
    turns = iter("0101010101")
    hostile.lie("changes", lambda honest, asked: {**honest, "cursor": next(turns), "more": True})
    report = here.pull()
    assert "came back to a cursor" in report.stopped
    assert report.is_partial
    assert report.pulled == [GOOD[0]], "what was read is applied"
    assert here.journal.pull_state.last_complete() is None
    assert len(hostile.asked_of("changes")) == 3


@pytest.mark.parametrize("bound", ["pages", "seconds", "same cursor"])
def test_a_feed_without_an_end_is_given_up(hostile, here, monkeypatch, bound):
    hostile.add(GOOD[0])
    numbers = iter(range(10_000))
    if bound == "pages":
        monkeypatch.setattr(feed, "MAX_PAGES", 7)
    elif bound == "seconds":
        monkeypatch.setattr(feed, "MAX_SECONDS", -1.0)

    def lie(honest: Any, _asked: Any) -> Any:
        cursor = "5" if bound == "same cursor" else str(next(numbers))
        return {**honest, "changes": [], "cursor": cursor, "more": True}

    hostile.lie("changes", lie)
    assert here.pull().stopped
    assert len(hostile.asked_of("changes")) <= 7


def test_a_page_that_is_too_long_is_asked_for_in_smaller_pieces(hostile, here):
    for number in range(9):
        hostile.add(Ref(f"p-{number}", "1.0.0"))

    def lie(honest: Any, asked: Any) -> Any:
        if int(asked.query["limit"]) > 8:
            return {**honest, "changes": honest["changes"] * 200}
        return honest

    hostile.lie("changes", lie)
    assert len(here.pull().pulled) == 9


def test_a_page_of_17_mib_is_asked_for_in_smaller_pieces(hostile, here):
    hostile.add(GOOD[0])

    def lie(honest: Any, asked: Any) -> Any:
        if int(asked.query["limit"]) > 8:
            return b" " * (17 << 20)
        return honest

    hostile.lie("changes", lie)
    assert here.pull().pulled == [GOOD[0]]


def test_junk_does_not_fill_the_journal(hostile, here, monkeypatch):
    monkeypatch.setattr(pulls, "MAX_FAILED", 100)
    for ref in GOOD:
        hostile.add(ref)
    for number in range(601):
        junk = {"purpose": "x" * 20_000, "number": number}
        hostile.add(Ref(f"junk-{number}", "1.0.0"), metadata=junk, status=f"junk-{'y' * 1000}")
    hostile.page_size = 100
    report = here.pull()
    assert report.pulled == GOOD
    assert len(report.failed) == 601
    assert report.passed_over == 501
    assert len(here.journal.waiting.failed()) == 100
    files = list(here.settings.home.glob("journal.db*"))
    assert sum(path.stat().st_size for path in files) < 5 << 20
    assert here.pull_all().pulled == []


@pytest.mark.parametrize("answer", [b"[]", b"{", b'{"changes": 7, "cursor": "a", "more": false}',
                                    b'{"changes": [], "cursor": 7, "more": false}', b"[" * 200_000,
                                    b'{"changes": [' + b"[" * 200_000])  # fmt: skip
def test_a_page_that_is_none_ends_the_pull_and_keeps_what_was(hostile, here, answer):
    hostile.add(GOOD[0])
    assert here.pull().pulled == [GOOD[0]]
    hostile.lie("changes", lambda *_: answer)
    with pytest.raises(NotEscherServer):
        here.pull()
    hostile.honest("changes")
    hostile.add(GOOD[1])
    assert here.pull().pulled == [GOOD[1]]


class TestOtherBytesUnderAName:
    REF = Ref("stop-rds", "1.0.0")

    @pytest.mark.parametrize("way", ["revision", "same revision", "set up anew", "deleted between"])
    def test_the_pinned_ones_stay(self, hostile, here, way):
        hostile.add(self.REF, {"shell/run.sh": b"#!/bin/sh\necho one\n"})
        here.pull()
        here.folders.fetch_contents(self.REF, {"shell/run.sh": b"#!/bin/sh\necho one\n"})
        before = here.record(self.REF).content_digest
        if way == "deleted between":
            hostile.remove(self.REF)
            here.pull_all()
            assert here.trash() == ["echo one"]
            hostile.add(self.REF, {"shell/run.sh": b"evil\n"}, revision=9)
        elif way == "set up anew":
            hostile.add(self.REF, {"shell/run.sh": b"evil\n"}, revision=1, updated_at=10**9)
        else:
            hostile.replace(self.REF, {"shell/run.sh": b"evil\n"})
            if way == "same revision":
                hostile.item(self.REF)["revision"] = 1
        report = here.pull_all()
        assert [decided.rule for decided in report.conflicts] == ["immutable"]
        assert here.journal.pins.get(self.REF) == before
        if way == "deleted between":
            assert not here.has(self.REF)
        else:
            assert here.script(self.REF) == "echo one"
            assert here.record(self.REF).sync_state is SyncState.PUBLISHED

    def test_a_name_that_was_published_and_deleted_here_is_not_used_again(self, hostile, here):
        ref = here.created_and_published("echo one")
        here.deleted(ref)
        assert not here.has(ref)
        del hostile.items[ref]
        hostile.add(ref, {"shell/run.sh": b"evil\n"})
        assert here.pull_all().pulled == []
        assert here.journal.conflicts.entries()[0].kind == "immutable"


class TestAPrivateId:
    """The server has versions of an id that is only ours so far."""

    OURS = Ref("stop-rds", "1.0.0")
    HIGH = Ref("stop-rds", "99.0.0")

    @pytest.fixture
    def waiting(self, hostile, here):
        here.create("echo ours", storage_strategy="local_only")
        hostile.add(Ref("stop-rds", "2.0.0"))
        hostile.add(self.HIGH)
        report = here.pull()
        assert (report.pulled, report.failed) == ([], {})
        assert [decided.rule for decided in report.conflicts] == ["private_id"]
        return here

    def test_theirs_waits_as_one_conflict_and_ours_goes_on(self, waiting):
        assert waiting.journal.versions.refs() == [self.OURS]
        assert waiting.state(self.OURS)[0] is SyncState.LOCAL
        assert len(waiting.journal.conflicts.entries()) == 1
        assert waiting.pull_all().conflicts == []
        assert len(waiting.journal.conflicts.entries()) == 1

    def test_ours_is_not_sent_into_it(self, waiting, hostile):
        waiting.publisher.request([self.OURS], Strategy.REVIEW)
        assert waiting.publish(self.OURS) == {self.OURS: "failed"}
        assert hostile.asked_of("publish") == []

    @pytest.mark.parametrize("named", ["1.0.0", "2.0.0", "99.0.0"])
    def test_theirs_beside_ours(self, waiting, named):
        waiting.resolve(Ref("stop-rds", named), take="theirs")
        waiting.pull()
        assert set(waiting.journal.versions.refs()) == {
            self.OURS, self.HIGH, Ref("stop-rds", "2.0.0"),
        }  # fmt: skip
        assert waiting.script(self.OURS) == "echo ours"
        assert waiting.journal.conflicts.entries() == []

    def test_a_version_that_nobody_has_names_no_conflict(self, waiting):
        with pytest.raises(NotFound):
            waiting.resolve(Ref("stop-rds", "7.7.7"), take="theirs")

    def test_ours_moves_to_another_id_with_all_its_versions(self, waiting):
        waiting.create("echo two", storage_strategy="local_only", version="1.1.0")
        done = waiting.resolve(self.HIGH, rename="mine")
        assert set(done.moved) == {Ref("mine", "1.0.0"), Ref("mine", "1.1.0")}
        waiting.pull()
        assert waiting.script(Ref("mine", "1.1.0")) == "echo two"
        assert self.HIGH in waiting.journal.versions.refs()
        assert self.OURS not in waiting.journal.versions.refs()

    def test_what_was_to_be_published_goes_on_when_it_is_over(self, waiting, hostile):
        waiting.publisher.request([self.OURS], Strategy.REVIEW)
        waiting.publish(self.OURS)
        waiting.resolve(self.HIGH, take="theirs")
        waiting.pull()
        assert waiting.publish() == {self.OURS: "done"}

    def test_ours_deleted_theirs_comes(self, waiting):
        waiting.store.delete([self.OURS])
        assert len(waiting.pull().pulled) == 2
        assert waiting.journal.conflicts.entries() == []

    def test_theirs_lost_nothing_is_left_of_it(self, waiting, hostile):
        hostile.items.clear()
        waiting.pull_all()
        assert waiting.journal.conflicts.entries() == []

    def test_the_very_same_version_on_both_sides_is_none(self, here, hostile):
        ref = here.create("echo alike", storage_strategy="local_only")
        metadata = dict(here.record(ref).metadata)
        files = {"shell/run.sh": b"#!/bin/sh\necho alike\n"}
        hostile.add(ref, files, metadata=metadata)
        report = here.pull()
        assert (report.updated, report.conflicts) == ([ref], [])
        assert here.state(ref)[0] is SyncState.PUBLISHED
