"""Folders that are gone: deleted by a hand, or out of sight with the disk they stand on?

A version that was never published stands nowhere else, so its row goes only when the area's folder
is still the one that held it. A mount point without its disk is another folder (and whoever writes
next makes the areas in it anew); a network share that lists nothing empties all of it at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from core.journal import Journal, VersionRecord
from core.models import Area, Ref
from core.playbooks.layout import Layout

MANY = 10  # versions; nobody empties an area of so many by hand and means to delete each
AREAS = (Area.LOCAL, Area.AI_GENERATED)  # what is missing from synced/ is fetched again

_HELD = (
    "{count} versions that stood here are missing, and are not taken for deleted: {why}."
    " Bring them back (is a disk not mounted?), or say so with `escher-playbooks delete`."
)


class Vanishing:
    """Tells what was deleted from what is out of sight; the journal's facts hold the areas' inodes."""

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


def _key(area: Area) -> str:
    return f"inode:{area.value}"
