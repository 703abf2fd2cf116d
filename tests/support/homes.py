"""A home that a model test does things to: the whole library, without a model to load.

Its process may die and its network fail (`support.mortal`); its points lie in memory and outlive
it, as what was flushed does.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from core.errors import EscherError
from core.files import sha256_bytes
from core.models import METADATA_FILE, Ref
from core.playbooks.drafts import draft_from_folder
from core.publishing.publisher import Publisher
from core.publishing.pull import Puller
from core.rag.points import Payload, Point, point_id
from core.server.client import EscherServer
from core.server.http import Retrier, RetryPolicy
from core.service import PlaybookService
from core.settings import Settings
from support.mortal import CLOCK, DEATH, Died, Network
from support.processes import leave_dead
from support.rag import WordEmbedder

T = TypeVar("T")
Content = tuple[str, frozenset[tuple[str, str]]]
"""A version's description and its files as ``(path, checksum)``: what nobody may lose."""


class MemoryCollection:
    """As much of `core.rag.points.Collection` as a sync and `verify` ask for."""

    needs_rebuild = False

    def __init__(self) -> None:
        self.points: dict[str, Payload] = {}

    def mark_rebuilt(self) -> None: ...
    def close(self) -> None: ...

    def point_id(self, playbook_id: str, version: str) -> str:
        return point_id(Ref(playbook_id, version))

    def upsert(self, points: Sequence[Point]) -> None:
        DEATH.step()
        self.points |= {point.id: dict(point.payload) for point in points}

    def delete(self, ids: Sequence[str]) -> None:
        DEATH.step()
        for id_ in ids:
            self.points.pop(id_, None)

    def set_payload(self, changes: Mapping[str, Payload]) -> set[str]:
        DEATH.step()
        found = {id_ for id_ in changes if id_ in self.points}
        for id_ in found:
            self.points[id_] = {**self.points[id_], **changes[id_]}
        return found

    def fetch(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Payload]:
        return {id_: dict(self.points[id_]) for id_ in ids if id_ in self.points}

    def scroll(
        self, fields: Sequence[str], conditions: object = None
    ) -> Iterator[tuple[str, Payload]]:
        yield from sorted(self.points.items())


@dataclass
class Home:
    """One machine of the tenant; ``skew`` is how many seconds its clock is wrong."""

    settings: Settings
    dice: random.Random
    network: Network = field(default_factory=Network)
    collection: MemoryCollection = field(default_factory=MemoryCollection)
    skew: float = 0.0
    dies_after: int = 0  # changes of the next things done; 0: it lives
    deaths: int = 0

    def __post_init__(self) -> None:
        self.service = self._open()

    def _open(self) -> PlaybookService:
        """As `PlaybookService.open`, with what a test replaces put in before anything runs."""
        service = PlaybookService(
            self.settings,
            embedder=WordEmbedder(),
            server=EscherServer(
                self.settings,
                on_contact=lambda: service.bind(),  # noqa: PLW0108  it is made below
                retrier=Retrier(RetryPolicy(tries=1)),
            ),
            collection=self.collection,  # type: ignore[arg-type]  # as much of one as is asked for
        )
        try:
            self.network.wrap(service.server._http)
            # nobody runs what was handed out; and the dice are the seed's
            vars(service)["puller"] = Puller(
                service.journal, service.server, service.pulled_folders
            )
            vars(service)["publisher"] = Publisher(
                service.journal, service.server, service.store, service.indexing, self.settings,
                folders=service.pulled_folders, random=self.dice.random,
            )  # fmt: skip
            vars(service.publisher)["_threads"] = 1  # so that a seed says all
            service.store.writer.recover()
            service.script_manager.recover()
        except BaseException:
            self._drop(service)
            raise
        return service

    @property
    def name(self) -> str:
        return self.settings.home.name

    # -- doing ------------------------------------------------------------------------------
    def do(self, work: Callable[[PlaybookService], T]) -> T | None:
        """Run ``work`` by this home's clock; None when the home died of it, and was started again."""
        try:
            with self._alive():
                return work(self.service)
        except Died:
            self.deaths += 1
            self._start_again()
            return None

    @contextmanager
    def _alive(self) -> Iterator[None]:
        CLOCK.skew = self.skew
        at, self.dies_after = self.dies_after, 0
        try:
            with DEATH.after(at):
                yield
        finally:
            CLOCK.skew = 0.0

    def _start_again(self) -> None:
        self._drop(self.service)
        CLOCK.skew = self.skew
        try:
            self.service = self._open()
        finally:
            CLOCK.skew = 0.0

    def _drop(self, service: PlaybookService) -> None:
        """What the kernel does for a dead process; its leases name one that is not there."""
        service.server.close()
        leave_dead(service.journal)
        service.journal.close()

    def close(self) -> None:
        self.service.close()
        self.service.server.close()

    # -- looking ----------------------------------------------------------------------------
    def folder(self, ref: Ref) -> Path:
        return self.service.store.folder(ref)

    def refs(self) -> list[Ref]:
        return self.service.journal.versions.refs()

    def on_disk(self, ref: Ref) -> Content | None:
        """What stands in the folder; None: no folder, no content, or nothing that parses."""
        return content_of(self.folder(ref))

    def known(self, ref: Ref) -> Content:
        """What the journal says of the content."""
        row = self.service.journal.versions.get(ref)
        assert row is not None
        files = self.service.journal.versions.files(ref)
        pairs = frozenset((file.path, file.checksum) for file in files)
        return str(row.metadata["description"]), pairs

    def contents(self) -> set[Content]:
        """Everything that stands in this home as a version, as a kept copy or in the trash."""
        found = {self.on_disk(ref) for ref in self.refs()}
        found |= {content_of(copy) for copy in self.copies()}
        found |= {content_of(entry.path) for entry in self.service.trash.entries()}
        return {content for content in found if content is not None}

    def copies(self) -> list[Path]:
        return sorted(self.settings.conflicts_path.glob("*/v*"))


def content_of(folder: Path) -> Content | None:
    try:
        draft = draft_from_folder(folder)
    except EscherError:
        return None
    if not draft.files:
        return None
    pairs = frozenset((path, sha256_bytes(content)) for path, content in draft.files.items())
    return str(draft.metadata["description"]), pairs


def edit_metadata(folder: Path, **fields: Any) -> None:
    """As with an editor that saves by renaming."""
    path = folder / METADATA_FILE
    new = path.with_name(".metadata.json.swp")
    new.write_text(json.dumps(json.loads(path.read_bytes()) | fields))
    new.replace(path)
