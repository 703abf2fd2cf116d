"""The methods of `PlaybookService` about what the server says: pulling, and settling conflicts."""

from __future__ import annotations

from core.errors import Refused, UsageError
from core.journal.conflicts import ConflictRecord
from core.models import FORMATS, RESERVED_PREFIX, Ref
from core.playbooks.trash import Trash, TrashEntry, restore
from core.publishing.conflicts import Choice, Resolution
from core.publishing.pull import PullReport
from core.scripts.entries import ScriptKey
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
        choice = Choice(as_version, rename, take)
        if ref.playbook_id.startswith(RESERVED_PREFIX):
            return self._settle_library(self.open_conflict(ref), choice)
        return self.conflict_desk.resolve(ref, choice)

    def _settle_library(self, conflict: ConflictRecord, choice: Choice) -> Resolution:
        """The Escher Library is in no feed and no folder: only the name can be pinned anew."""
        ref = conflict.ref
        if choice.take is None:
            raise UsageError(
                f"{ref} is the Escher Library's: its name can't be given to anything else.",
                "Take theirs, or leave it: the known content goes on being used.",
            )
        digest = self.downloads.digest_of(ref)
        if digest != conflict.server_digest:
            self.journal.conflicts.open(ref, conflict.kind, conflict.reason, server_digest=digest)
            raise Refused(
                f"The server changed its side of {ref} again: it is {digest} now, not"
                f" {conflict.server_digest}.",
                "Look at the conflict again before you take it.",
            )
        self.journal.pins.replace(ref, digest)
        for format_ in FORMATS:  # what the name stood for is not answered any more
            if self.cache.find(key := ScriptKey(ref, format_)) is not None:
                self.cache.quarantine(key, "theirs was taken")
        self.script_manager.shelf.forget([ref])
        self.journal.conflicts.settle([ref], "take theirs")
        return Resolution(ref, "take theirs")
