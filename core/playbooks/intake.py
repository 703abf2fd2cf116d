"""Reads a folder as a playbook that is to be taken in: an edit, or a new version.

The scan reads it to tell what is broken, `Edits` to act on it; nothing is changed here.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from core.content import as_content
from core.encryption import Envelope
from core.errors import AlreadyExists, InvalidPlaybook, LeaseHeld, NotFound, Refused
from core.journal import VersionRecord
from core.models import (
    METADATA_FILE,
    PARAMETERS_FILE,
    Area,
    PlaybookDraft,
    Ref,
    Status,
    Strategy,
    executables,
    is_higher,
    next_patch,
)
from core.playbooks.compare import FolderStat
from core.playbooks.decisions import new_requests, status_of_edit
from core.playbooks.drafts import draft_from_folder
from core.playbooks.entry_points import only_given, without_copied
from core.playbooks.paths import FoundFolder
from core.playbooks.reader import PlaybookReader, untold_modes
from core.playbooks.sealing import has_sealed_defaults, to_clear
from core.playbooks.validation import normalise
from core.playbooks.verify import generation_on_disk
from core.playbooks.versioning import (
    area_of_successor,
    first_made,
    inherited_metadata,
    successor_metadata,
)


@dataclass(frozen=True, slots=True)
class Edit:
    """The content of the folder ``found``, checked and in clear, and what it is to become.

    ``former`` is the row it is an edit (or, renamed, the successor) of. ``generation`` is the
    highest that is in use, so what is sealed now takes the next one. ``mended``: a file of it is
    to become another than it is on disk.
    """

    ref: Ref
    area: Area
    found: FoundFolder
    draft: PlaybookDraft
    seen: FolderStat
    generation: int
    former: VersionRecord | None = None
    mended: bool = False

    @property
    def must_be_written(self) -> bool:
        """Whether the folder is to be written anew.

        It or a file in it is renamed or mended, a link is to be a file, or a part is sealed, now or before.
        """
        parameters = self.draft.files.get(PARAMETERS_FILE)
        return (
            self.mended
            or bool(self.draft.metadata.get("sensitive"))
            or (self.former is not None and self.former.sensitive)
            or (self.former is not None and self.former.ref != self.ref)
            or (parameters is not None and has_sealed_defaults(parameters))
            or bool(self.draft.renamed or self.draft.linked)
        )


class Intake:
    """Reads folders into `Edit`s; raises an error that names the broken rule."""

    def __init__(self, reader: PlaybookReader, envelope: Envelope) -> None:
        self._reader = reader
        self._layout = reader.layout
        self._versions = reader.journal.versions
        self._envelope = envelope
        self._compare = reader.compare

    def read_edit(self, record: VersionRecord, files: Mapping[str, bytes] | None = None) -> Edit:
        """Read the edit in the folder of ``record``.

        Of an unpublished version it is that version; of a published one the next free patch, for
        review. ``files``: the published content, where the folder holds none and only its metadata
        was edited. Raises `LeaseHeld` when the folder changes while it is read.
        """
        found = FoundFolder(record.area, self._layout.folder(record.area, record.ref), record.ref)
        rows = self._versions.files(record.ref)
        known = {row.path for row in rows}
        seen, draft = self._read(found, record.ref, record.generation, record.sensitive, known)
        untold = untold_modes(record, rows)
        if files is not None:
            draft, untold = replace(draft, files=dict(files)), executables(rows)
        draft = replace(draft, executable=(draft.executable or frozenset()) | untold)
        # of what is published the successor has neither leftovers nor old names
        draft = as_content(draft, () if record.is_published else known)
        raw = inherited_metadata(draft.metadata, record)
        if record.is_published:
            ref = self._successor(record.ref, raw)
            area = area_of_successor(raw, record)
            raw = successor_metadata(raw, ref.version, area)
            ready = self._normal(replace(draft, metadata=raw))
            return Edit(ref, area, found, ready, seen, record.generation, record)
        ref = record.ref
        _check_named(raw, found)
        kept = {"version": ref.version, "created_at": first_made(record)}
        raw |= kept | {"updated_at": int(time.time())}
        held = Strategy.LOCAL_ONLY if raw.get("sensitive") else record.chosen_strategy
        status = status_of_edit(raw, record)
        ready = self._normal(replace(draft, metadata=raw), strategy=held, status=status)
        ready = replace(ready, asked={**record.asked, **ready.asked})
        mended = ready.files != draft.files
        return Edit(ref, record.area, found, ready, seen, record.generation, record, mended)

    def read_added(self, found: FoundFolder, former: VersionRecord | None = None) -> Edit:
        """Read the new version in a folder that the journal does not know.

        ``former``: the version that it was before it was renamed.
        """
        ref = _named(found)
        seen, draft = self._read(
            found,
            former.ref if former else ref,
            former.generation if former else None,
            former.sensitive if former else None,
            (),
        )
        if former is None:
            _check_named(draft.metadata, found)
        draft = as_content(draft)
        own = draft.metadata | {"playbook_id": ref.playbook_id, "version": ref.version}
        if former is not None:
            own = only_given(new_requests(own, former), former)
            own["created_at"] = first_made(former)
        else:
            own = without_copied(own, self._versions)
        if (former and former.sensitive) or self._versions.sensitive_ids([ref.playbook_id]):
            own["sensitive"] = True
        held = None if former is None or own.get("sensitive") else choice_kept(former, ref)
        status = status_of_edit(own, former) if former else None
        ready = self._normal(replace(draft, metadata=own), strategy=held, status=status)
        generation = former.generation if former else generation_on_disk(draft.files)
        mended = ready.files != draft.files
        return Edit(ref, found.area, found, ready, seen, generation, former, mended)

    def former(
        self, found: FoundFolder, missing: Mapping[Ref, VersionRecord]
    ) -> VersionRecord | None:
        """Find which of the ``missing`` versions this folder is, moved or renamed; None: a new one.

        Raises what is wrong with a folder that can be neither.
        """
        ref = _named(found)
        if ref in missing:
            return missing[ref]
        if (row := self._versions.get(ref)) is not None:
            raise AlreadyExists(
                f"A second copy: the journal knows {ref} in {row.area}/.",
                "Compare the two and move this one away.",
            )
        if found.area is Area.SYNCED:
            raise Refused(
                f"{found.path} is no version that was published.",
                "Move it into local/, and publish it if it is to be.",
            )
        metadata = draft_from_folder(found.path, self._reader.limits).metadata
        holds = Ref(
            str(metadata.get("playbook_id") or ref.playbook_id),
            str(metadata.get("version") or ref.version),
        )
        renamed = missing.get(holds)
        if renamed is not None and renamed.is_published:
            raise Refused(
                f"{found.path} is {holds}, which is published and stands under its own name.",
                f"Rename it to v{holds.version} of {holds.playbook_id} in {renamed.area}/.",
            )
        self.read_added(found, renamed)
        return renamed

    def is_still(self, found: FoundFolder, seen: FolderStat) -> bool:
        """Whether the folder's stats are those of ``seen``."""
        now = self._compare.look(found.path, found.area)
        return now is not None and now.own_fingerprint == seen.own_fingerprint

    # -- parts ------------------------------------------------------------------------------
    def _read(
        self,
        found: FoundFolder,
        sealed_as: Ref,
        generation: int | None,
        sensitive: bool | None,
        known: Collection[str],
    ) -> tuple[FolderStat, PlaybookDraft]:
        """A folder's stats and, in clear, what lay there under just these stats."""
        seen = self._compare.look(found.path, found.area)
        if seen is None:
            raise NotFound(f"The folder {found.path} is not there.", "Look where it went.")
        draft = draft_from_folder(found.path, self._reader.limits, known)
        wanted = seen.content(known)
        disk = {path: content for path, content in draft.files.items() if path in wanted}
        clear = to_clear(
            disk,
            sealed_as,
            generation_on_disk(disk) if generation is None else generation,
            self._envelope,
            sensitive=bool(draft.metadata.get("sensitive")) if sensitive is None else sensitive,
            edited=True,
        )
        if not self.is_still(found, seen):
            raise LeaseHeld(f"{found.path} changed while it was read.", "It is read again.")
        return seen, replace(draft, files=clear)

    def _normal(
        self,
        draft: PlaybookDraft,
        *,
        strategy: Strategy | None = None,
        status: Status | None = None,
    ) -> PlaybookDraft:
        now, limits = int(time.time()), self._reader.limits
        return normalise(draft, now=now, strategy=strategy, status=status, limits=limits)

    def _successor(self, ref: Ref, raw: Mapping[str, Any]) -> Ref:
        """The version that the metadata names where it is a higher one and free, else a patch."""
        taken = {row.ref.version for row in self._versions.of_playbook(ref.playbook_id)}
        taken |= set(self._versions.pins.versions_of(ref.playbook_id))
        own = raw.get("version")
        if isinstance(own, str) and own not in taken and is_higher(own, ref.version):
            return Ref(ref.playbook_id, own)
        return Ref(ref.playbook_id, next_patch(ref.version, taken))


def choice_kept(former: VersionRecord, ref: Ref) -> Strategy | None:
    """Return what the user chose for a version whose folder was renamed by hand.

    Review holds for the id's other versions, too; ``trusted`` is for the one name it was given.
    """
    if former.ref == ref:
        return former.chosen_strategy
    is_kept = former.publish_as is Strategy.REVIEW and former.ref.playbook_id == ref.playbook_id
    return Strategy.REVIEW if is_kept else None


def _named(found: FoundFolder) -> Ref:
    if found.ref is None:
        shape = "<id>-v<semver>" if found.area is Area.AI_GENERATED else "<id>/v<semver>"
        raise InvalidPlaybook(
            f"No version can have a folder of the name {found.path}.",
            f"Rename it to {shape}, or move it away.",
        )
    return found.ref


def _check_named(metadata: Mapping[str, Any], found: FoundFolder) -> None:
    """Refuse metadata that names another version than its folder does."""
    ref = _named(found)
    for key, named in (("playbook_id", ref.playbook_id), ("version", ref.version)):
        if metadata.get(key) not in {None, named}:
            raise InvalidPlaybook(
                f"{found.path / METADATA_FILE} says {key} {metadata[key]!r}, its folder {named!r}.",
                "Rename the folder, or mend its metadata.",
            )
