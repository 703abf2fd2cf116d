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
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from pydantic import SecretStr
from support.homes import Content, Home, edit_metadata
from support.mortal import install_clock
from support.playbooks import draft
from support.reference import Reference, running_reference

from core.errors import EscherError, StorageError
from core.files import sha256_bytes
from core.models import PlaybookDraft, Ref, Status, Strategy, SyncState
from core.publishing.feed import Theirs, pages, read_item
from core.server.client import EscherServer
from core.service import PlaybookService
from core.settings import Settings

EXAMPLES = int(os.environ.get("ESCHER_MODEL_EXAMPLES", "8"))
LONG = "ESCHER_MODEL_EXAMPLES" in os.environ
SEED = os.environ.get("ESCHER_MODEL_SEED")
STEPS = 40
HOUR = 3600
INTERVAL = 300  # seconds between two syncs of a home
ROUNDS = 2

IDS = ["alpha", "beta"]
VERSIONS = ["1.0.0", "1.0.1", "1.0.2", "1.1.0"]
STRATEGIES = [Strategy.REVIEW, Strategy.TRUSTED, Strategy.LOCAL_ONLY]
REVIEWS = [Status.APPROVED, Status.REJECTED, Status.DEPRECATED]
PATHS = ["shell/main.sh", "shell/more.sh", "python/tool.py"]
# Moves as often as they stand here.
OF_A_HOME = [
    *["create"] * 4, *["sync"] * 6, "lose_network", *["find_network"] * 2, *["die_soon"] * 3,
    "set_clock",
]  # fmt: skip
OF_A_VERSION = [
    *["update"] * 2, *["edit"] * 4, *["describe"] * 2, "remove_the_folder", *["delete"] * 2,
    *["publish"] * 3,
]  # fmt: skip
OF_THE_SERVER = [*["review"] * 2, *["delete_there"] * 2]

Draw = Callable[[Sequence[Any]], Any]
Refs = list[Ref]


class TwoClients(RuleBasedStateMachine):
    reference: ClassVar[Reference]
    root: ClassVar[Path]
    counted: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.counted["examples"] += 1
        self.place = Path(tempfile.mkdtemp(prefix="two-", dir=self.root))
        tenant_id, token = self.reference.tenant()
        made = Settings(
            home=self.place / "reviewer",
            server_url=self.reference.url,
            tenant_id=tenant_id,
            server_token=SecretStr(token),
            edit_quiet_seconds=0,
            secrets_gate="off",
        )
        self.homes = []
        for name, pull_scripts in (("here", True), ("there", False)):
            own = {"home": self.place / name, "sync_pull_scripts": pull_scripts}
            self.homes.append(Home(made.model_copy(update=own), random.Random(name)))
        reviewer = {"server_token": SecretStr(self.reference.reviewer(tenant_id))}
        self.reviewer = EscherServer(made.model_copy(update=reviewer))
        self.wanted: dict[Content, str] = {}  # acknowledged, and by what
        self.thrown: Counter[int] = Counter()
        self.named = self.written = 0
        self.published: dict[Ref, Theirs] = {}  # on the server, when it was last looked

    # -- what is to be found in the end ------------------------------------------------------
    def acknowledged(self, content: Content | None, by: str) -> None:
        if content is not None:
            self.wanted[content] = by

    def given_up(self, content: Content | None) -> None:
        """Somebody deleted or replaced it on purpose."""
        if content is not None:
            self.wanted.pop(content, None)

    def given_up_here(self, home: Home, ref: Ref, stands: Content | None) -> None:
        """What stands in a folder goes, unless it is just what was published."""
        row = home.service.journal.versions.get(ref)
        if row is None or not (row.is_published and stands == home.known(ref)):
            self.given_up(stands)

    @contextmanager
    def by_hand(self, home: Home, ref: Ref) -> Iterator[None]:
        """An edit of a folder, from the moment that it is on disk."""
        before = home.on_disk(ref)
        yield
        after = home.on_disk(ref)
        if after != before:
            self.given_up_here(home, ref, before)
            self.acknowledged(after, f"edit of {ref}")

    # -- helpers ----------------------------------------------------------------------------
    def attempt(self, home: Home, what: str, work: Callable[[PlaybookService], Any]) -> Any:
        """None when it was refused, or when the home died of it."""
        try:
            return home.do(work)
        except StorageError:
            raise
        except EscherError as error:
            self.counted[f"{what}: {error.type}"] += 1
            return None

    def words(self, draw: Draw) -> str:
        """New ones; but now and then both machines write the same."""
        self.written += 1
        return draw([str(self.written), str(self.written), "alike", "same"])

    def draft(self, words: str) -> PlaybookDraft:
        return draft(files={"shell/main.sh": f"#!/bin/sh\necho {words}\n".encode()})

    # -- one step after the other -----------------------------------------------------------
    @initialize(published=st.booleans())
    def begin(self, published: bool) -> None:
        """With something here and there, so that there is something to do."""
        for home, id_ in zip(self.homes, IDS, strict=True):
            strategy = Strategy.REVIEW if published else Strategy.LOCAL_ONLY
            self.create(home, self.draft(id_), id_, "1.0.0", strategy)
        for home in (*self.homes, self.homes[0]):
            self.sync(home)

    @rule(dice=st.integers(0, 2**32 - 1))
    def step(self, dice: int) -> None:
        """Dice decide: Hypothesis likes what stands first in a list, and what it has just taken."""
        self.thrown[dice] += 1
        thrown, drawn = random.Random(f"{dice} {self.thrown[dice]}"), []

        def draw(options: Sequence[Any]) -> Any:
            drawn.append(thrown.choice(options))
            return drawn[-1]

        home = draw(self.homes)
        refs, there = home.refs(), sorted(self.published)
        conflicts = [found.ref for found in home.service.journal.conflicts.open_ones()]
        moves = [*OF_A_HOME, *(OF_A_VERSION if refs else []), *(OF_THE_SERVER if there else [])]
        move = draw([*moves, *["resolve"] * (8 if conflicts else 0)])
        self.counted["steps"] += 1
        self.counted[move] += 1
        try:
            getattr(self, f"do_{move}")(home, draw, conflicts if move == "resolve" else refs)
        finally:
            hypothesis.note(f"{home.settings.home.name} {move} {drawn[2:]}")

    # -- people -----------------------------------------------------------------------------
    def do_create(self, home: Home, draw: Draw, _refs: Refs) -> None:
        known = set(home.refs())  # but the other machine may have made it, too
        free = [Ref(id_, v) for id_ in IDS for v in VERSIONS if Ref(id_, v) not in known]
        if free:
            ref, strategy = draw(free), draw(STRATEGIES)
            self.create(home, self.draft(self.words(draw)), ref.playbook_id, ref.version, strategy)

    def create(
        self, home: Home, made: PlaybookDraft, id_: str, version: str, strategy: Strategy
    ) -> None:
        if self.attempt(
            home,
            "create",
            lambda service: service.create(
                made, playbook_id=id_, version=version, strategy=strategy
            ),
        ):
            self.acknowledged(_content(made), f"created as {id_}@{version}")

    def do_update(self, home: Home, draw: Draw, refs: Refs) -> None:
        id_ = draw(refs).playbook_id
        made = self.draft(self.words(draw))
        latest = home.service.store.latest(id_)
        replaced = None if latest.is_published else home.on_disk(latest.ref)
        done = self.attempt(home, "update", lambda service: service.update(id_, made))
        if done is None or done.ref == latest.ref:
            self.given_up(replaced)
        if done is not None:
            self.acknowledged(_content(made), f"update of {id_}")

    def do_edit(self, home: Home, draw: Draw, refs: Refs) -> None:
        ref, path = draw(refs), draw(PATHS)
        words = self.words(draw)
        if home.folder(ref).is_dir():
            file = home.folder(ref) / path
            with self.by_hand(home, ref):
                file.parent.mkdir(exist_ok=True)
                file.write_text(f"echo by hand {words}\n")

    def do_describe(self, home: Home, draw: Draw, refs: Refs) -> None:
        """An edit of the metadata; the content may not even be here."""
        ref, words = draw(refs), self.words(draw)
        if home.folder(ref).is_dir():
            with self.by_hand(home, ref):
                edit_metadata(home.folder(ref), description=f"Described by hand: {words}.")

    def do_remove_the_folder(self, home: Home, draw: Draw, refs: Refs) -> None:
        ref = draw(refs)
        if home.folder(ref).is_dir():
            self.given_up_here(home, ref, home.on_disk(ref))
            shutil.rmtree(home.folder(ref))

    def do_delete(self, home: Home, draw: Draw, refs: Refs) -> None:
        ref = draw(refs)
        self.given_up(home.on_disk(ref))
        self.given_up(home.known(ref))
        self.attempt(home, "delete", lambda service: service.delete(str(ref)))

    def do_publish(self, home: Home, draw: Draw, refs: Refs) -> None:
        ref, as_ = draw(refs), draw(STRATEGIES[:2])

        def publish(service: PlaybookService) -> None:
            plan = service.request_publish([str(ref)], as_)
            service.publish_refs(plan.accepted)

        self.attempt(home, "publish", publish)

    def do_resolve(self, home: Home, draw: Draw, refs: Refs) -> None:
        ref = draw(refs)
        self.named += 1
        choices = {"as_version": f"9.0.{self.named}", "rename": f"r{self.named}", "take": "theirs"}
        choice = draw(sorted(choices))
        self.attempt(
            home,
            "resolve",
            lambda service: service.resolve_conflict(ref, **{choice: choices[choice]}),
        )

    def do_sync(self, home: Home, _draw: Draw, _refs: Refs) -> None:
        self.sync(home)

    def sync(self, home: Home) -> None:
        self.attempt(home, "sync", PlaybookService.sync_all_metadata)
        self.published = self.on_server()

    # -- the other side ---------------------------------------------------------------------
    def do_review(self, _home: Home, draw: Draw, _refs: Refs) -> None:
        ref, status = draw(sorted(self.published)), draw(REVIEWS)
        if ref in self.on_server():
            self.reviewer.set_status(ref, status, "For a reason.")

    def do_delete_there(self, _home: Home, draw: Draw, _refs: Refs) -> None:
        ref = draw(sorted(self.published))
        theirs = self.on_server().get(ref)
        if theirs is not None:
            self.given_up(_content_there(theirs))
            self.reviewer.delete(ref, theirs.there.revision)

    def on_server(self) -> dict[Ref, Theirs]:
        found = {}
        for page in pages(self.reviewer, None):
            for item in map(read_item, page.items):
                found[item.ref] = item
        return {ref: item for ref, item in found.items() if not item.there.deleted}

    # -- the world --------------------------------------------------------------------------
    def do_lose_network(self, home: Home, draw: Draw, _refs: Refs) -> None:
        home.network.good_calls = draw(range(9))
        home.network.loses_an_answer = draw([False, True])

    def do_find_network(self, home: Home, _draw: Draw, _refs: Refs) -> None:
        home.network.good_calls = None

    def do_die_soon(self, home: Home, draw: Draw, _refs: Refs) -> None:
        home.dies_after = draw(range(1, 51))

    def do_set_clock(self, home: Home, draw: Draw, _refs: Refs) -> None:
        home.skew = draw([-HOUR, 0, HOUR])

    # -- and what must be true --------------------------------------------------------------
    def teardown(self) -> None:
        try:
            self.heal()
            for _ in range(ROUNDS):
                for home in self.homes:
                    home.do(PlaybookService.sync_all_metadata)
                    home.skew += INTERVAL
            for home in self.homes:
                report = home.do(PlaybookService.sync_all_metadata)
                assert report is not None
                assert _to_do(report) == {}, (home.settings.home.name, report)
            self.check()
            self.counted["deaths"] += sum(home.deaths for home in self.homes)
        finally:
            for home in self.homes:
                home.close()
            self.reviewer.close()
            shutil.rmtree(self.place)

    def heal(self) -> None:
        """And an hour goes by, so that all that waits is due."""
        for home in self.homes:
            home.network.good_calls, home.dies_after, home.skew = None, 0, HOUR + 60

    def check(self) -> None:
        theirs = self.on_server()
        found: set[Content] = {_content_there(item) for item in theirs.values()}
        for home in self.homes:
            name = home.settings.home.name
            problems = home.service.verify().problems
            assert problems == [], (name, problems)
            self._agrees(home, theirs)
            kept = {entry.folder for entry in home.service.conflicts()}
            assert {str(copy) for copy in home.copies()} <= kept, (
                f"{name}: a copy that is not listed"
            )
            found |= home.contents()
        lost = {by for content, by in self.wanted.items() if content not in found}
        assert not lost, lost

    def _agrees(self, home: Home, theirs: dict[Ref, Theirs]) -> None:
        name = home.settings.home.name
        rows = {ref: home.service.store.get(ref) for ref in home.refs()}
        for ref, item in theirs.items():
            assert ref in rows, f"{name} lacks {ref}"
            row = rows[ref]
            if row.sync_state is SyncState.CONFLICT:
                assert home.service.journal.conflicts.open_of(ref) is not None
                assert row.content_digest != item.there.digest
                continue
            assert row.sync_state is SyncState.PUBLISHED, (name, row)
            for field in ("content_digest", "status", "strategy", "metadata", "area", "revision"):
                assert getattr(row, field) == getattr(item.live, field), (name, ref, field)
        for ref, row in rows.items():
            assert not row.deleting, (name, row)
            assert row.sync_state not in {SyncState.PENDING, SyncState.DEFERRED}, (name, row)
            assert row.sync_state is not SyncState.FAILED, (name, row)
            assert not row.is_published or ref in theirs, f"{name} thinks {ref} is published"


def _content(made: PlaybookDraft) -> Content:
    pairs = frozenset((path, sha256_bytes(content)) for path, content in made.files.items())
    return str(made.metadata["description"]), pairs


def _content_there(item: Theirs) -> Content:
    pairs = frozenset((entry.path, entry.checksum) for entry in item.entries)
    return str(item.live.metadata["description"]), pairs


def _to_do(report: dict[str, Any]) -> dict[str, Any]:
    """What a sync did, or left to be done."""
    names = (
        "published", "updated", "deleted", "pulled", "fetched", "pending", "deferred", "failed",
        "conflicts", "offline",
    )  # fmt: skip
    done = {name: report[name] for name in names if report[name]}
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
    for module in ("store", "pulled"):  # one thread, so that a seed says all
        monkeypatch.setattr(f"core.playbooks.{module}.STAGING_THREADS", 1)
    TwoClients.reference, TwoClients.root = reference, tmp_path
    TwoClients.counted.clear()
    machine = hypothesis.seed(int(SEED))(TwoClients) if SEED else TwoClients
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]  # hypothesis leaves it so
            machine,
            settings=hypothesis.settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                derandomize=SEED is None,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate, *([] if LONG else [Phase.shrink])],
                verbosity=Verbosity.normal,
            ),
        )
    finally:
        sys.setswitchinterval(0.005)
        with capsys.disabled():
            print(f"\nseed {SEED or 'of the test'}: {dict(TwoClients.counted)}")
