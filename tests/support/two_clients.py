"""What people, a reviewer and the world do to two homes of one tenant, and what must survive it.

Every ``do_…`` is a move of `tests/workflow/test_two_clients_model.py`; what it takes from ``draw``
is all that chance decides in it.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from core.errors import EscherError, StorageError
from core.files import sha256_bytes
from core.models import PlaybookDraft, Ref, Status, Strategy
from core.publishing.feed import Feed, Theirs, read_item
from core.server.client import EscherServer
from core.service import PlaybookService
from core.settings import Settings
from support.homes import Content, Home, edit_metadata
from support.playbooks import draft
from support.reference import Reference

HOUR = 3600

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


class TwoClients:
    """Two homes, a reviewer, and what was acknowledged to whom; ``counted`` is what happened."""

    def __init__(self, reference: Reference, root: Path, counted: Counter[str]) -> None:
        self.counted = counted
        self.place = Path(tempfile.mkdtemp(prefix="two-", dir=root))
        tenant_id, token = reference.tenant()
        made = Settings(
            home=self.place / "reviewer",
            server_url=reference.url,
            tenant_id=tenant_id,
            server_token=SecretStr(token),
            edit_quiet_seconds=0,
            secrets_gate="off",
        )
        self.homes = []
        for name, pull_scripts in (("here", True), ("there", False)):
            own = {"home": self.place / name, "sync_pull_scripts": pull_scripts}
            self.homes.append(Home(made.model_copy(update=own), random.Random(name)))
        reviewer = {"server_token": SecretStr(reference.reviewer(tenant_id))}
        self.reviewer = EscherServer(made.model_copy(update=reviewer))
        self.wanted: dict[Content, str] = {}  # acknowledged, and by what
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
        return str(draw([self.written, self.written, "alike", "same"]))

    def draft(self, words: str) -> PlaybookDraft:
        return draft(files={"shell/main.sh": f"#!/bin/sh\necho {words}\n".encode()})

    # -- one move after the other -----------------------------------------------------------
    def begin(self, strategy: Strategy) -> None:
        """With something here and there, so that there is something to do."""
        for home, id_ in zip(self.homes, IDS, strict=True):
            self.create(home, self.draft(id_), id_, "1.0.0", strategy)
        for home in (*self.homes, self.homes[0]):
            self.sync(home)

    def move(self, draw: Draw) -> None:
        home = draw(self.homes)
        refs = home.refs()
        conflicts = [found.ref for found in home.service.journal.conflicts.open_ones()]
        moves = [*OF_A_HOME, *(OF_A_VERSION if refs else [])]
        moves += OF_THE_SERVER if self.published else []
        move = draw([*moves, *["resolve"] * (8 if conflicts else 0)])
        self.counted["steps"] += 1
        self.counted[move] += 1
        getattr(self, f"do_{move}")(home, draw, conflicts if move == "resolve" else refs)

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
            self.acknowledged(content_of_draft(made), f"created as {id_}@{version}")

    def do_update(self, home: Home, draw: Draw, refs: Refs) -> None:
        id_ = draw(refs).playbook_id
        made = self.draft(self.words(draw))
        latest = home.service.store.latest(id_)
        replaced = None if latest.is_published else home.on_disk(latest.ref)
        done = self.attempt(home, "update", lambda service: service.update(id_, made))
        if done is None or done.ref == latest.ref:
            self.given_up(replaced)
        if done is not None:
            self.acknowledged(content_of_draft(made), f"update of {id_}")

    def do_edit(self, home: Home, draw: Draw, refs: Refs) -> None:
        ref, path = draw(refs), draw(PATHS)
        words = self.words(draw)
        row = home.service.journal.versions.get(ref)
        appears = not (home.folder(ref) / path).is_file()
        if row is not None and row.is_published and appears:
            return  # what only appeared beside published content is no version
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
            self.given_up(content_there(theirs))
            self.reviewer.delete(ref, theirs.there.revision)

    def on_server(self) -> dict[Ref, Theirs]:
        found = {}
        for page in Feed(self.reviewer).pages(None):
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

    def heal(self) -> None:
        """And an hour goes by, so that all that waits is due."""
        for home in self.homes:
            home.network.good_calls, home.dies_after, home.skew = None, 0, HOUR + 60

    def close(self) -> None:
        for home in self.homes:
            home.close()
        self.reviewer.close()
        shutil.rmtree(self.place)


def content_of_draft(made: PlaybookDraft) -> Content:
    pairs = frozenset((path, sha256_bytes(content)) for path, content in made.files.items())
    return str(made.metadata["description"]), pairs


def content_there(item: Theirs) -> Content:
    pairs = frozenset((entry.path, entry.checksum) for entry in item.entries)
    return str(item.live.metadata["description"]), pairs
