"""The methods of `PlaybookService` about what the server says: pulling, and settling conflicts."""

from __future__ import annotations

from core.journal.conflicts import ConflictRecord
from core.models import Ref
from core.publishing.conflicts import Choice, Resolution
from core.publishing.pull import PullReport
from core.service_parts import ServiceParts


class ConflictMethods(ServiceParts):
    """What `PlaybookService` hands on to the puller and the conflict desk."""

    def pull(self) -> PullReport:
        """Take in what changed on the server; raises when it can't be read."""
        return self.puller.pull()

    def conflicts(self, *, everything: bool = False) -> list[ConflictRecord]:
        """Open decisions and kept copies, the oldest first; ``everything``: settled ones too."""
        return self.conflict_desk.entries(everything=everything)

    def resolve_conflict(
        self,
        ref: Ref,
        *,
        as_version: str | None = None,
        rename: str | None = None,
        take: str | None = None,
    ) -> Resolution:
        """Settle an open conflict by one of the three choices, see `core.publishing.conflicts`."""
        return self.conflict_desk.resolve(ref, Choice(as_version, rename, take))
