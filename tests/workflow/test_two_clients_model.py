"""Two machines, a reviewer and a server: whatever happens, all agree in the end and nothing is lost.

Hypothesis does things to two homes of one tenant in any order: people create, edit, publish, review
and delete on both sides, processes die at any change, the network goes and comes, clocks are set by
an hour. Then the network heals and both sync twice. Now both homes say what the server says of every
published version, both verify clean, and every content that was ever acknowledged is still there,
as a version or as a kept copy, unless somebody deleted or replaced just that content.

``ESCHER_MODEL_EXAMPLES`` and ``ESCHER_MODEL_SEED`` make a longer run, and another one.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from support.homes import Content, Home
from support.mortal import install_clock
from support.reference import Reference, running_reference
from support.two_clients import TwoClients, content_there

from core.models import Ref, Strategy, SyncState
from core.publishing.feed import Theirs
from core.service import PlaybookService

EXAMPLES = int(os.environ.get("ESCHER_MODEL_EXAMPLES", "8"))
LONG = "ESCHER_MODEL_EXAMPLES" in os.environ
SEED = os.environ.get("ESCHER_MODEL_SEED")
STEPS = 40
INTERVAL = 300  # seconds between two syncs of a home
ROUNDS = 3


class Machine(RuleBasedStateMachine):
    reference: ClassVar[Reference]
    root: ClassVar[Path]
    counted: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.counted["examples"] += 1
        self.thrown: Counter[int] = Counter()
        self.world = TwoClients(self.reference, self.root, self.counted)

    @initialize(strategy=st.sampled_from([Strategy.REVIEW, Strategy.LOCAL_ONLY]))
    def begin(self, strategy: Strategy) -> None:
        self.world.begin(strategy)

    @rule(dice=st.integers(0, 2**32 - 1))
    def step(self, dice: int) -> None:
        """Dice decide: Hypothesis likes what stands first in a list, and what it has just taken."""
        self.thrown[dice] += 1
        thrown, drawn = random.Random(f"{dice} {self.thrown[dice]}"), []

        def draw(options: Sequence[Any]) -> Any:
            drawn.append(thrown.choice(options))
            return drawn[-1]

        try:
            self.world.move(draw)
        finally:
            hypothesis.note(f"{drawn[0].name} {drawn[1]} {drawn[2:]}")

    # -- and what must be true --------------------------------------------------------------
    def teardown(self) -> None:
        try:
            self.world.heal()
            for _ in range(ROUNDS):
                for home in self.world.homes:
                    home.do(PlaybookService.sync_all_metadata)
                    home.skew += INTERVAL
            for home in self.world.homes:
                report = home.do(PlaybookService.sync_all_metadata)
                assert report is not None
                assert _to_do(report) == {}, (home.name, report["failures"], report)
            self.check()
            self.counted["deaths"] += sum(home.deaths for home in self.world.homes)
        finally:
            self.world.close()

    def check(self) -> None:
        theirs = self.world.on_server()
        found: set[Content] = {content_there(item) for item in theirs.values()}
        for home in self.world.homes:
            name = home.name
            waits = {str(ref) for ref in home.refs() if _waits_for_another_name(home, ref)}
            problems = [
                one
                for one in home.service.verify().problems
                # what only appeared beside published content makes no version, and stays there
                if one.ref not in waits and "it was added" not in one.what
            ]
            assert problems == [], (name, problems)
            self._agrees(home, theirs)
            kept = {entry.folder for entry in home.service.journal.conflicts.entries()}
            assert {str(copy) for copy in home.copies()} <= kept, (
                f"{name}: a copy that is not listed"
            )
            found |= home.contents()
        lost = {by for content, by in self.world.wanted.items() if content not in found}
        assert not lost, lost

    def _agrees(self, home: Home, theirs: dict[Ref, Theirs]) -> None:
        name = home.name
        rows = {ref: home.service.store.get(ref) for ref in home.refs()}
        waiting = home.service.journal.conflicts.open_ones()
        private = {c.ref.playbook_id for c in waiting if c.kind == "private_id"}
        disputed = {c.ref for c in waiting if c.kind == "immutable"}
        for ref, item in theirs.items():
            if ref in disputed:
                continue  # it waits for the user
            if ref.playbook_id in private and not (ref in rows and rows[ref].is_published):
                continue  # so does this, with all of theirs; ours goes on
            assert ref in rows, f"{name} lacks {ref}"
            row = rows[ref]
            if row.sync_state is SyncState.CONFLICT:
                assert {c.ref for c in waiting} & {ref} or ref.playbook_id in private
                assert row.content_digest != item.there.digest
                continue
            assert row.sync_state is SyncState.PUBLISHED, (name, row)
            for field in ("content_digest", "status", "strategy", "metadata", "area", "revision"):
                assert getattr(row, field) == getattr(item.live, field), (name, ref, field)
        for ref, row in rows.items():
            assert not row.deleting, (name, row)
            assert row.sync_state not in {SyncState.PENDING, SyncState.DEFERRED}, (name, row)
            is_failed = row.sync_state is SyncState.FAILED
            assert not is_failed or _waits_for_another_name(home, ref), (name, row)
            assert not row.is_published or ref in theirs, f"{name} thinks {ref} is published"
            if row.is_published:
                pin = home.service.journal.pins.get(ref)
                assert pin == row.content_digest, f"{ref} is not what it was in {name}"


def _waits_for_another_name(home: Home, ref: Ref) -> bool:
    """Whether an edit of a private version can't be taken: its name was published, and is pinned.

    Its user is told so by each sync.
    """
    return not home.service.store.get(ref).is_published and bool(home.service.journal.pins.get(ref))


def _to_do(report: dict[str, Any]) -> dict[str, Any]:
    """What a sync did, or left to be done, but for what waits for another name."""
    names = (
        "published", "updated", "deleted", "pulled", "fetched", "pending", "deferred", "failed",
        "conflicts", "offline",
    )  # fmt: skip
    done = {name: report[name] for name in names if report[name]}
    waits = ("names that content for ever", "was changed on disk")  # the latter: asked to publish
    told = [why for why in report["failures"].values() if any(words in why for words in waits)]
    if done.get("failed") == len(told):
        done.pop("failed", None)
    return done | {name: value for name, value in report["edits"].items() if value}


@pytest.fixture
def reference(tmp_path: Path) -> Iterator[Reference]:
    with running_reference(tmp_path / "server") as running:
        yield running


@pytest.mark.timeout(0 if LONG else 300)
def test_two_clients_and_a_server_agree_and_lose_nothing(
    reference: Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install_clock(monkeypatch)
    sys.setswitchinterval(0.0005)  # client and server take turns in this process
    for module in ("store", "remote_versions"):  # one thread, so that a seed says all
        monkeypatch.setattr(f"core.playbooks.{module}.STAGING_THREADS", 1)
    Machine.reference, Machine.root = reference, tmp_path
    Machine.counted.clear()
    machine = hypothesis.seed(int(SEED))(Machine) if SEED else Machine
    try:
        run_state_machine_as_test(
            machine,
            settings=hypothesis.settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                derandomize=SEED is None,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate, *([] if LONG else [Phase.shrink])],
            ),
        )
    finally:
        sys.setswitchinterval(0.005)
        with capsys.disabled():
            print(f"\nseed {SEED or 'of the test'}: {dict(Machine.counted)}")
