"""A process killed at every single step: what was acknowledged is there, the rest is whole or gone.

The child counts its system calls on files, its transactions and its acknowledgements, and kills
itself with SIGKILL before the n-th (after a commit, too). Then the store recovers in this process.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.processes import open_anew

from core.journal import Journal
from core.journal.database import Database
from core.models import Area, Move, Ref, Strategy, SyncState
from core.playbooks.decisions import Decision, decide
from core.playbooks.verify import verify

KEPT, REF = Ref("kept", "1.0.0"), Ref("stop-rds", "1.0.0")
OLD, NEW = {"shell/stop.sh": b"old\n"}, {"shell/stop.sh": b"new\n", "python/x.py": b"x = 1\n"}
MAX_POINTS = 150


def run_killed_at(journal: Journal, point: int, work: Callable[[], object]) -> tuple[bool, bool]:
    """Fork, do ``work`` and die at ``point``; (was it acknowledged, did it reach its end)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            open_anew(journal)
            _count_down(point)
            work()
            os.write(writer, b"acknowledged")
        finally:
            os._exit(0)
    os.close(writer)
    acknowledged = os.read(reader, 100) == b"acknowledged"
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    return acknowledged, not os.WIFSIGNALED(status)


def _count_down(point: int) -> None:
    left = [point]

    def tick() -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            tick()
            return real(*args, **kwargs)

        return call

    for name in ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink"):
        setattr(os, name, around(getattr(os, name)))
    real_write = Database.write

    @contextmanager
    def write(self: Database, *, alone: bool = True) -> Iterator[Any]:
        with real_write(self, alone=alone) as connection:
            yield connection
            if alone:  # a heartbeat is no step
                tick()
        if alone:
            tick()

    Database.write = write  # type: ignore[method-assign]


def survives(store, work: Callable[[], object], check: Callable[[bool], None], reset) -> None:
    for point in range(MAX_POINTS):
        reset()
        acknowledged, ended = run_killed_at(store.journal, point, work)
        store.writer.recover()
        assert verify(store) == [], point
        assert store.journal.intents.open() == []
        leftovers = [path.name for path in store.layout.staging.iterdir()]
        assert all("." not in name for name in leftovers), leftovers
        playbooks = store.layout.staging.parent
        strays = [p for p in playbooks.rglob("*.tmp") if store.layout.staging not in p.parents]
        assert strays == [], point
        assert store.read(KEPT) == {"shell/stop.sh": b"echo stop\n"}
        check(acknowledged)
        if ended:
            assert acknowledged
            assert point > 10
            return
    pytest.fail("the work never came to its end")


@pytest.fixture
def crashed(store, make_draft):
    store.create(make_draft(playbook_id="kept"), check_scripts=False)
    return store


def test_create(crashed, make_draft):
    def check(acknowledged: bool) -> None:
        row = crashed.journal.versions.get(REF)
        assert row is not None or not acknowledged
        if row is not None:
            assert crashed.read(REF) == NEW

    survives(
        crashed,
        lambda: crashed.create(make_draft(NEW), check_scripts=False),
        check,
        lambda: crashed.delete([REF]),
    )


def test_create_a_batch(crashed, make_draft):
    refs = [Ref(f"p{n}", "1.0.0") for n in range(3)]
    drafts = [make_draft({"shell/a.sh": ref.playbook_id.encode()}) for ref in refs]
    for ref, draft in zip(refs, drafts, strict=True):
        draft.metadata["playbook_id"] = ref.playbook_id

    def check(acknowledged: bool) -> None:
        rows = crashed.journal.versions.get_many(refs)
        assert len(rows) in ({3} if acknowledged else {0, 3})  # one transaction for the batch
        for ref in rows:
            assert crashed.read(ref) == {"shell/a.sh": ref.playbook_id.encode()}

    survives(
        crashed,
        lambda: crashed.create_many(drafts, check_scripts=False),
        check,
        lambda: crashed.delete(refs),
    )


@pytest.mark.parametrize("sensitive", [False, True])
def test_update_in_place(crashed, make_draft, sensitive):
    def reset() -> None:
        crashed.delete([REF])
        crashed.create(make_draft(OLD, sensitive=sensitive), check_scripts=False)

    def check(acknowledged: bool) -> None:
        content = crashed.read(REF)
        assert content == NEW or (content == OLD and not acknowledged)

    survives(
        crashed,
        lambda: crashed.update(
            "stop-rds", make_draft(NEW, sensitive=sensitive), check_scripts=False
        ),
        check,
        reset,
    )


def test_move(crashed, make_draft):
    def reset() -> None:
        crashed.delete([REF])
        crashed.create(make_draft(OLD), check_scripts=False)

    def check(acknowledged: bool) -> None:
        row = crashed.get(REF)
        assert crashed.read(REF) == OLD
        assert (row.area, row.status) in (
            {(Area.SYNCED, "approved")}
            if acknowledged
            else {(Area.SYNCED, "approved"), (Area.LOCAL, "ready")}
        )

    changes = [Move(REF, Area.SYNCED, {"status": "approved"})]
    survives(crashed, lambda: crashed.move(changes), check, reset)


def test_decide(crashed, make_draft):
    made_by_ai = make_draft(OLD, author="ai_generated", storage_strategy="uploaded_for_review")

    def reset() -> None:
        crashed.delete([REF])
        crashed.create(made_by_ai, check_scripts=False)

    def check(acknowledged: bool) -> None:
        row = crashed.get(REF)
        assert crashed.read(REF) == OLD
        waits = (Area.AI_GENERATED, SyncState.LOCAL, None)
        decided = (Area.LOCAL, SyncState.PENDING, Strategy.TRUSTED)
        found = (row.area, row.sync_state, row.publish_as)
        assert found == decided or (found == waits and not acknowledged)

    survives(crashed, lambda: decide(crashed, REF, Decision.TRUSTED), check, reset)


def test_delete(crashed, make_draft):
    def reset() -> None:
        if crashed.journal.versions.get(REF) is None:
            crashed.create(make_draft(OLD), check_scripts=False)

    def check(acknowledged: bool) -> None:
        if crashed.journal.versions.get(REF) is not None:
            assert not acknowledged
            assert crashed.read(REF) == OLD

    survives(crashed, lambda: crashed.delete([REF]), check, reset)


def test_a_recovery_that_is_killed_itself(crashed, make_draft):
    """Whatever a killed recovery left, the next one finishes."""
    for first in range(8, 30, 3):
        crashed.delete([REF])
        crashed.create(make_draft(OLD), check_scripts=False)
        update = lambda: crashed.update("stop-rds", make_draft(NEW), check_scripts=False)  # noqa: E731
        run_killed_at(crashed.journal, first, update)
        for second in range(MAX_POINTS):
            if run_killed_at(crashed.journal, second, crashed.writer.recover)[1]:
                break
        assert crashed.read(REF) in (OLD, NEW)
        assert verify(crashed) == []
