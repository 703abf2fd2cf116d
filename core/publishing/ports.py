"""What publishing needs of its neighbours; ``core.service`` hands it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from core.errors import EscherError
from core.journal.conflicts import KeptCopy
from core.journal.records import VersionRecord
from core.models import FileEntry, Move, Ref, Strategy


class Source(Protocol):
    """The local store: what is sent, and where it stands once it was."""

    def published_files(self, ref: Ref) -> dict[str, bytes]:
        """Exactly the bytes that go to the server, checked against the journal's checksums."""

    def check_leaving(self, ref: Ref) -> None:
        """Look once more whether it is sensitive, in the journal and on disk; raises when it is."""

    def move(self, changes: Sequence[Move]) -> None:
        """Rewrite each ``metadata.json`` and rename the folder; again is harmless."""

    def delete(self, refs: Sequence[Ref]) -> None:
        """Remove folders and rows; what is gone already is fine."""


class Vectors(Protocol):
    """The embeddings of metadata, by ref; one that is left out is not there yet."""

    def vectors_for(self, metadatas: Mapping[Ref, Mapping[str, Any]]) -> dict[Ref, list[float]]: ...


Copying = Literal["trash", "always", "edits", "never"]
"""What has a folder set aside before it goes: any content, something that is not the row's, nothing.
``trash``: any content, and the copy goes into the trash.

What is no part of a playbook (a README beside it) is nobody's row, so it counts as an edit here.
"""


class PulledVersions(Protocol):
    """The store's side of what comes from the server; each call takes the store's lock."""

    def check(self, record: VersionRecord, entries: Sequence[FileEntry]) -> None:
        """`InvalidPlaybook` or `Refused` for names, paths and sizes that may not stand here."""

    def take_in(
        self, pulled: Sequence[tuple[VersionRecord, Sequence[FileEntry]]]
    ) -> dict[Ref, EscherError]:
        """Put metadata alone into ``synced/``, with the rows; the errors of those that did not go.

        Each is checked first. A version that is here already is `AlreadyExists`.
        """

    def move(self, changes: Sequence[Move]) -> None:
        """As `Source.move`."""

    def is_edited(self, ref: Ref) -> bool:
        """Whether the content on disk is not the row's; a missing or unfetched one is not edited."""

    def drop(
        self,
        ref: Ref,
        *,
        copy: Copying,
        kept_as: Ref | None = None,
        on_kept: Callable[[KeptCopy], object] = ...,
    ) -> KeptCopy | None:
        """Remove folder and row; the copy that was kept, where there was anything to keep.

        ``kept_as``: the version that holds the edit already; what was edited since is none of it.
        ``on_kept`` writes the copy down, after it is made and before anything goes: one that
        nobody lists might as well be lost.
        """

    def keep_as(
        self,
        ref: Ref,
        *,
        playbook_id: str | None = None,
        version: str | None = None,
        strategy: Strategy | None = None,
    ) -> Ref:
        """Store what the folder of ``ref`` holds now as another version, durably, and return it.

        Neither ``playbook_id`` nor ``version``: the next free patch. `AlreadyExists` when that
        name is taken by other content; taken by this very content, it is done.
        """
