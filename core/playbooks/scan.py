"""Find what changed in the playbook folders since the journal last knew them.

::

    every version's row ──► stats of its folder, one digest of them ──► the same: nothing is read
                                        │ another, or never seen
                                        ▼
                            names, stats, bytes against its rows ──► the same: seen from now on
                                        │ different
                                        ▼
                            once more under the store's lock ──► edited, moved, vanished, …

Stats vouch for a content only when it was compared clearly after the last of their ctimes (git
calls the others racily clean); a version whose stats moved is read whole. Nothing on disk is
changed here; `core.playbooks.edits.Edits` acts on what was found.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path
from typing import Any, cast

from core.errors import EscherError, TransientError, faults_of, storage_error
from core.journal import Journal, VersionRecord
from core.journal.facts import HomeFacts
from core.journal.folders import SeenFolder
from core.models import Area, Ref
from core.playbooks.compare import Comparison, FolderStat, State
from core.playbooks.held import find_tampering
from core.playbooks.intake import Intake
from core.playbooks.parallel_stat import Item, check
from core.playbooks.paths import FoundFolder, Layout
from core.playbooks.reader import PlaybookReader, is_unfetched
from core.settings import Settings

CHUNK = 200  # versions whose rows are looked up in one query
MANY = 10  # versions; nobody empties an area of so many by hand and means to delete each
NANO = 1_000_000_000
_FUTURE = "edits_of_the_future"  # the fact that keeps them
AREAS = (Area.LOCAL, Area.AI_GENERATED)  # what is missing from synced/ is fetched again

_NO_AREA = (
    "The folder is not there; its versions are not taken for deleted."
    " Put it back: is a disk not mounted?"
)
_HELD = (
    "{count} versions that stood here are missing, and are not taken for deleted: {why}."
    " Bring them back (is a disk not mounted?), or say so with `escher-playbooks delete`."
)


@dataclass(frozen=True, slots=True)
class Moved:
    """A version that was in ``from_area`` and whose content now stands in ``folder``.

    ``folder.ref`` is another one when the folder was renamed.
    """

    ref: Ref
    from_area: Area
    folder: FoundFolder


@dataclass(slots=True)
class ScanResult:
    """What a scan found, for `Edits.take`.

    ``quiet_in``: seconds until changes that are too young will be quiet, None when there are none.
    ``broken``: ``{path: reason}`` of what can't be taken as it stands and is left alone.
    ``beside``: files beside published content; they are no part of it until an update. ``left_out``:
    what editors, tools and runs left since the last scan; it is no part of any content.
    """

    scanned: int = 0
    unchanged: int = 0
    edited: list[Ref] = field(default_factory=list)
    resealed: list[Ref] = field(default_factory=list)  # same content, a part of it lies in clear
    tampered: list[Ref] = field(default_factory=list)  # clear text over sealed content, or the flag
    owned: list[Ref] = field(default_factory=list)  # published, changed by hand, and no edit
    added: list[FoundFolder] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    vanished: list[Ref] = field(default_factory=list)
    beside: dict[Ref, tuple[str, ...]] = field(default_factory=dict)
    left_out: dict[Ref, tuple[str, ...]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    quiet_in: float | None = None

    @property
    def has_changes(self) -> bool:
        """Whether there is something for `Edits.take`."""
        found = (self.edited, self.resealed, self.tampered, self.owned, self.added, self.moved)
        return any((*found, self.vanished))


class Scan:
    """Looks at all of ``playbooks/``, or at one version; see the drawing above."""

    def __init__(self, reader: PlaybookReader, settings: Settings) -> None:
        self._reader = reader
        self._journal: Journal = reader.journal
        self._layout = reader.layout
        self._quiet_seconds = settings.edit_quiet_seconds
        self._compare = reader.compare
        self._intake = Intake(reader, reader.envelope)
        self._guard = DeletionGuard(reader.journal, reader.layout)

    def run(self, *, now_ns: int | None = None) -> ScanResult:
        """Look at everything; ``now_ns`` stands for the clock in what is quiet (for tests).

        Raises `StorageError` when the home can't be read or its lock not had.
        """
        self._reader.keep_sealed_copies()
        result = ScanResult()
        quiet = QuietTime(self._journal.facts, self._quiet_seconds, now_ns)
        suspects, places = self._walk(result)
        different: list[Ref] = []
        for comparison in self._look(suspects):
            if comparison.state is State.SAME:
                result.unchanged += 1
                _name_left_out(result, comparison)
            else:
                different.append(comparison.record.ref)
        unknown = self._unknown(places)
        missing: Sequence[VersionRecord] = ()
        if different or unknown:
            # a writer may have been at work, in this process or another: look again when none is
            with self._reader.locked():
                again = list(self._look(different))
                result.unchanged += sum(c.state is State.SAME for c in again)
                missing = self._classify(result, quiet, again, self._unknown_of(unknown))
            self._journal.scan.forget_gone()
        self._guard.remember(missing)
        quiet.keep()
        result.quiet_in = quiet.left
        return result

    def run_one(self, ref: Ref) -> ScanResult:
        """`run` for one version of the journal, for who waits for it; nothing else is looked for."""
        result = ScanResult(scanned=1)
        quiet = QuietTime(self._journal.facts, self._quiet_seconds, None)
        with self._reader.locked():
            for comparison in self._look([ref]):
                if comparison.state not in {State.SAME, State.MISSING}:
                    self._classify_known(result, quiet, comparison)
        result.quiet_in = quiet.left
        return result

    # -- the fast look ----------------------------------------------------------------------
    def _walk(self, result: ScanResult) -> tuple[list[Ref], dict[Area, set[str]]]:
        """Versions to look at closely, and names in the areas whose folders to list."""
        listed = {area.value: self._layout.names_in(area) for area in Area}
        names = {area: set(found or ()) for area, found in listed.items()}
        ai = Area.AI_GENERATED.value
        suspects: list[Ref] = []
        to_list: dict[str, set[str]] = {area: set() for area in names}
        rows, again = tee(self._journal.scan.known())
        is_unchanged = check(self._layout.root, (_item(*row) for row in again))
        for (playbook_id, version, area, *_), unchanged in zip(rows, is_unchanged, strict=True):
            result.scanned += 1
            name = f"{playbook_id}-v{version}" if area == ai else playbook_id
            if unchanged:
                result.unchanged += 1
                names[area].discard(name)
            elif listed[area] is None:
                result.broken[str(self._layout.area(Area(area)))] = _NO_AREA
            else:
                suspects.append(Ref(playbook_id, version))
                to_list[area].add(name)
        places = {area: names[area] | (to_list[area] & names[area]) for area in names}
        return suspects, {Area(area): found for area, found in places.items()}

    # -- the close look ---------------------------------------------------------------------
    def _look(self, refs: Sequence[Ref]) -> Iterator[Comparison]:
        """Compare folders with rows, and remember those that are as they should be."""
        versions, scan = self._journal.versions, self._journal.scan
        for start in range(0, len(refs), CHUNK):
            part = refs[start : start + CHUNK]
            records, files = versions.get_many(part), versions.files_many(part)
            found = [self._compare(record, files.get(ref, ())) for ref, record in records.items()]
            scan.record(
                [
                    SeenFolder(c.record, c.seen.paths, c.seen.fingerprint)
                    for c in found
                    if c.state is State.SAME and c.seen is not None and c.seen.is_conclusive
                ]
            )
            yield from found

    def _unknown(self, places: dict[Area, set[str]]) -> list[FoundFolder]:
        """Folders where a version would stand that the journal does not know there."""
        found: list[FoundFolder] = []
        for area, names in places.items():
            listed = sorted(names)
            for start in range(0, len(listed), CHUNK):
                part = listed[start : start + CHUNK]
                found += self._unknown_of(
                    [folder for name in part for folder in self._layout.find_in(area, name)]
                )
        return found

    def _unknown_of(self, folders: Sequence[FoundFolder]) -> list[FoundFolder]:
        known = self._journal.scan.areas([f.ref for f in folders if f.ref is not None])
        return [
            folder
            for folder in folders
            if (folder.ref is None or known.get(folder.ref) is not folder.area)
            and folder.path.is_dir()
        ]

    # -- judging ----------------------------------------------------------------------------
    def _classify(
        self,
        result: ScanResult,
        quiet: QuietTime,
        different: Collection[Comparison],
        unknown: Sequence[FoundFolder],
    ) -> Sequence[VersionRecord]:
        """Sort everything in; the rows whose folder is not there."""
        missing = {c.record.ref: c.record for c in different if c.state is State.MISSING}
        for comparison in different:
            if comparison.state not in {State.SAME, State.MISSING}:
                self._classify_known(result, quiet, comparison)
        in_motion = False
        for folder in unknown:
            in_motion |= not self._classify_unknown(result, quiet, folder, missing)
        gone = [
            record
            for record in missing.values()
            if not (record.deleting or in_motion) and quiet.is_quiet_since(self._left(record))
        ]
        result.vanished = self._guard.deleted(gone, result.broken)
        return list(missing.values())

    def _classify_known(self, result: ScanResult, quiet: QuietTime, found: Comparison) -> None:
        ref, path = found.record.ref, self._layout.folder(found.record.area, found.record.ref)
        if found.seen is None:
            result.broken[str(path)] = str(found.error)
        elif not quiet.is_quiet(self._key(path), found.seen):
            return  # it may be half-saved; `quiet_in` says when to look again
        elif find_tampering(self._reader, found.record, found.seen) is not None:
            result.tampered.append(ref)
        elif found.error is not None:
            result.broken[str(path)] = str(found.error)
        elif found.state is State.OWNED:
            result.owned.append(ref)
        elif found.state is State.BESIDE:
            result.beside[ref] = found.beside
        elif found.state is State.CLEAR:
            result.resealed.append(ref)
        else:
            try:
                with faults_of(str(path)):
                    self._intake.read_edit(found.record)
            except EscherError as error:
                result.broken[str(path)] = str(error)
            else:
                result.edited.append(ref)

    def _classify_unknown(
        self,
        result: ScanResult,
        quiet: QuietTime,
        folder: FoundFolder,
        missing: dict[Ref, VersionRecord],
    ) -> bool:
        """Sort a folder in; False when it is too young to tell what it is, or whose."""
        seen = self._compare.look(folder.path, folder.area)
        if seen is None or not quiet.is_quiet(self._key(folder.path), seen):
            return False
        if folder.ref is not None and folder.ref not in missing and self._is_pulled(folder):
            return True
        try:
            with faults_of(str(folder.path)):
                was = self._intake.former(folder, missing)
        except EscherError as error:
            result.broken[str(folder.path)] = str(error)
            return not isinstance(error, TransientError)
        if was is None:
            result.added.append(folder)
        else:
            del missing[was.ref]
            result.moved.append(Moved(was.ref, was.area, folder))
        return True

    def _is_pulled(self, folder: FoundFolder) -> bool:
        """Metadata alone and without a row: a pull that was killed; the changes feed brings it."""
        is_alone = folder.area is Area.SYNCED and is_unfetched(folder.path)
        return is_alone and self._journal.versions.get(cast("Ref", folder.ref)) is None

    def _left(self, record: VersionRecord) -> int:
        """When (ns) a name last went from where the version's folder was."""
        parent = self._layout.folder(record.area, record.ref).parent
        while True:
            try:
                return parent.lstat().st_ctime_ns
            except FileNotFoundError:
                parent = parent.parent
            except OSError as error:
                raise storage_error(error, f"Looking at {parent}") from error

    def _key(self, folder: Path) -> str:
        return folder.relative_to(self._layout.root).as_posix()


class QuietTime:
    """Tells whether an edit has been quiet long enough, by a clock that may have been set meanwhile.

    For one scan; `keep` remembers the changes that seem to lie in the future.
    """

    def __init__(self, facts: HomeFacts, seconds: float, now_ns: int | None = None) -> None:
        self._facts = facts
        self._quiet_ns = int(seconds * NANO)
        self._now_ns = now_ns
        # {folder: [fingerprint in hex, since when (ns)]} of changes whose age the clock does not tell
        self._waiting: dict[str, list[Any]] = json.loads(facts.get(_FUTURE) or "{}")
        self._still: dict[str, list[Any]] = {}
        self._left_ns: int | None = None

    @property
    def left(self) -> float | None:
        """Seconds until all that was too young will be quiet; None when nothing was."""
        return None if self._left_ns is None else self._left_ns / NANO

    def is_quiet(self, folder: str, seen: FolderStat) -> bool:
        """Whether nothing in ``folder`` (below ``playbooks/``) changed for the quiet time.

        A change after now is of a clock that was wrong: it is quiet once we have seen it unchanged
        for as long.
        """
        now = self._now_ns or time.time_ns()
        if seen.newest_ns <= now:
            return self._is_old_enough(now - seen.newest_ns)
        fingerprint, since = self._waiting.get(folder, ("", now))
        if fingerprint != seen.fingerprint.hex() or since > now:
            since = now
        self._still[folder] = [seen.fingerprint.hex(), since]
        return self._is_old_enough(now - since)

    def is_quiet_since(self, changed_ns: int) -> bool:
        """Whether the quiet time has passed since ``changed_ns``; the future counts as now."""
        now = self._now_ns or time.time_ns()
        return changed_ns > now or self._is_old_enough(now - changed_ns)

    def keep(self) -> None:
        """Remember since when changes with a future time are as they are."""
        if self._still != self._waiting:
            self._facts.set(_FUTURE, json.dumps(self._still))

    def _is_old_enough(self, age_ns: int) -> bool:
        left = self._quiet_ns - age_ns
        if left > 0:
            self._left_ns = max(left, self._left_ns or 0)
        return left <= 0


class DeletionGuard:
    """Tells folders that a hand deleted from those out of sight with the disk they stand on.

    A version that was never published stands nowhere else, so its row goes only when the area's
    folder is still the one that held it (the journal's facts hold its inode). A mount point without
    its disk is another folder, and whoever writes next makes the areas in it anew; a network share
    that lists nothing empties all of it at once.
    """

    def __init__(self, journal: Journal, layout: Layout) -> None:
        self._journal = journal
        self._layout = layout

    def deleted(self, gone: Sequence[VersionRecord], broken: dict[str, str]) -> list[Ref]:
        """Those of ``gone`` that count; of the others, ``broken`` tells by their area's path."""
        held: set[Area] = set()
        for area in AREAS:
            missing = sum(row.area is area and not row.is_published for row in gone)
            why = self._reason(area, missing) if missing else None
            if why is not None:
                held.add(area)
                broken[str(self._layout.area(area))] = _HELD.format(count=missing, why=why)
        return [row.ref for row in gone if row.is_published or row.area not in held]

    def remember(self, missing: Sequence[VersionRecord]) -> None:
        """Keep the inodes of the areas from which nothing is ``missing``."""
        for area in set(AREAS).difference(row.area for row in missing):
            inode = self._inode(area)
            if inode is not None and inode != self._journal.facts.get(_key(area)):
                self._journal.facts.set(_key(area), inode)

    def _reason(self, area: Area, missing: int) -> str | None:
        known = self._journal.facts.get(_key(area))
        if known is not None and known != self._inode(area):
            return "the folder is another one than it was"
        if missing >= MANY and missing >= self._journal.scan.count_unpublished(area):
            return "all of them are"
        return None

    def _inode(self, area: Area) -> str | None:
        # without the device, whose number may change whenever the disk is mounted
        with suppress(OSError):
            return str(self._layout.area(area).stat().st_ino)
        return None


def _name_left_out(result: ScanResult, found: Comparison) -> None:
    """Name leftovers once: what is remembered of this look spares the folder the next one."""
    if found.left_out and found.seen is not None and found.seen.is_conclusive:
        result.left_out[found.record.ref] = found.left_out


def _key(area: Area) -> str:
    return f"inode:{area.value}"


def _item(
    playbook_id: str, version: str, area: str, paths: str | None, fingerprint: bytes | None
) -> Item:
    if area == Area.AI_GENERATED.value:
        folder = f"{area}/{playbook_id}-v{version}"
    else:
        folder = f"{area}/{playbook_id}/v{version}"
    # b"" is no fingerprint: one stat is looked up in vain
    return folder, paths or "", bytes(fingerprint or b"")
