"""What publishing needs of its neighbours; ``core.service`` hands it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from core.models import Move, Ref


class Source(Protocol):
    """The local store: what is sent, and where it stands once it was."""

    def published_files(self, ref: Ref) -> dict[str, bytes]:
        """Exactly the bytes that go to the server, checked against the journal's checksums."""

    def move(self, changes: Sequence[Move]) -> None:
        """Rewrite each ``metadata.json`` and rename the folder; again is harmless."""

    def delete(self, refs: Sequence[Ref]) -> None:
        """Remove folders and rows; what is gone already is fine."""


class Vectors(Protocol):
    """The embeddings of metadata, by ref; one that is left out is not there yet."""

    def vectors_for(self, metadatas: Mapping[Ref, Mapping[str, Any]]) -> dict[Ref, list[float]]: ...
