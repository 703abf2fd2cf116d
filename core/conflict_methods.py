"""The methods of `PlaybookService` about what the server says: pulling, and settling conflicts."""

from __future__ import annotations

from core.journal.conflicts import ConflictRecord
from core.models import Ref
from core.playbooks.trash import Trash, TrashEntry, restore
from core.publishing.conflicts import Choice, Resolution
from core.publishing.pull import PullReport
from core.service_parts import ServiceParts


class ConflictMethods(ServiceParts):
    """What `PlaybookService` hands on to the puller and the conflict desk."""

    def pull(self, *, accept_deletions: bool = False) -> PullReport:
        """Take in what changed on the server; raises when it can't be read."""
        return self.puller.pull(accept_deletions=accept_deletions)

    def conflicts(self, *, everything: bool = False) -> list[ConflictRecord]:
        """Open decisions and kept copies, the oldest first; ``everything``: settled ones too."""
        return self.conflict_desk.entries(everything=everything)

    def open_conflict(self, ref: Ref) -> ConflictRecord:
        """The open conflict that ``ref`` names, its own or its id's; `NotFound` without one."""
        return self.conflict_desk.find(ref)

    def trash(self) -> list[TrashEntry]:
        """What deletions of the other side took, the newest first."""
        return Trash(self.settings.trash_path).entries()

    def restore_from_trash(self, ref: Ref) -> Ref:
        """Bring a version back as a private one, under the next free version; which."""
        return restore(self.store, self.envelope, Trash(self.settings.trash_path), ref)

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
