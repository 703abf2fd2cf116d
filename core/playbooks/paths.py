"""Say where a version's folder stands, and which version a folder is.

::

    playbooks/local/<id>/v<semver>/         playbooks/synced/<id>/v<semver>/
    playbooks/ai-generated/<id>-v<semver>/
    playbooks/.staging/<hex>                a new folder, whole, that waits for its rename
    playbooks/.staging/<hex>.old            the folder whose place it took; removed afterwards
    playbooks/.staging/<hex>….gone          being removed
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import InvalidPlaybook, UnsafePath, storage_error
from core.models import Area, Ref, check_id, parse_version
from core.settings import Settings

OLD_SUFFIX = ".old"
GONE_SUFFIX = ".gone"
# An id holds no dot, so the last "-v" before the first dot parts it from the version.
_AI_FOLDER = re.compile(r"(?P<id>[^.]+)-v(?P<version>\d+\..+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FoundFolder:
    """A folder that stands where a version would; ``ref`` is None when its name is no version's."""

    area: Area
    path: Path
    ref: Ref | None


class Layout:
    """Paths below ``playbooks/``."""

    def __init__(self, settings: Settings) -> None:
        self.root = settings.playbooks_path
        self._areas = {area: self.root / area.value for area in Area}
        self.staging = settings.staging_path
        self.sealed = settings.home / "sealed"  # see `sealed_copies`

    def area(self, area: Area) -> Path:
        return self._areas[area]

    def folder(self, area: Area, ref: Ref) -> Path:
        """The folder of ``ref`` in ``area``, whether it is there or not."""
        check_id(ref.playbook_id)
        parse_version(ref.version)
        if area is Area.AI_GENERATED:
            return self.area(area) / f"{ref.playbook_id}-v{ref.version}"
        return self.area(area) / f"{ref.playbook_id}/v{ref.version}"

    def place(self, area: Area, ref: Ref, *, itself: bool = True) -> Path:
        """`folder`, for reading, writing or removing: `UnsafePath` where a link leads out on the way.

        ``itself`` False: the folder may be a link, as it is only renamed.
        """
        folder = self.folder(area, ref)
        on_the_way = (self.area(area), folder.parent, *((folder,) if itself else ()))
        for path in dict.fromkeys(on_the_way):
            if path.is_symlink():
                raise UnsafePath(
                    f"{path} is a link, which may lead anywhere.",
                    "Put the folder itself there; playbooks_dir moves all of them.",
                )
        return folder

    def staged(self, name: str) -> Path:
        return self.staging / name

    def old(self, name: str) -> Path:
        return self.staging / (name + OLD_SUFFIX)

    def areas_with(self, ref: Ref) -> list[Area]:
        """The areas in which a folder of ``ref`` is on disk (one, when all is well)."""
        return [area for area in Area if os.path.lexists(self.folder(area, ref))]

    def find(self) -> Iterator[FoundFolder]:
        """Every folder that stands where a version would, by area and name."""
        for area in Area:
            for entry in _folders(self.area(area)):
                yield from self.find_in(area, entry.name)

    def find_in(self, area: Area, name: str) -> Iterator[FoundFolder]:
        """The folders of one playbook's versions; ``name`` is what stands in the area itself."""
        entry = self.area(area) / name
        if area is Area.AI_GENERATED:
            yield FoundFolder(area, entry, _ref_of_ai_folder(name))
            return
        for inner in _folders(entry):
            ref = _ref(name, inner.name.removeprefix("v"))
            named = ref is not None and inner.name.startswith("v")
            yield FoundFolder(area, inner, ref if named else None)

    def names_in(self, area: Area) -> list[str] | None:
        """The folders that stand in an area, by name; None when there is no such area."""
        folder = self.area(area)
        return _names(folder) if folder.is_dir() else None


def _ref(playbook_id: str, version: str) -> Ref | None:
    try:
        check_id(playbook_id)
        parse_version(version)
    except InvalidPlaybook:
        return None
    return Ref(playbook_id, version)


def _ref_of_ai_folder(name: str) -> Ref | None:
    match = _AI_FOLDER.fullmatch(name)
    return _ref(match["id"], match["version"]) if match else None


def _folders(path: Path) -> list[Path]:
    return [path / name for name in _names(path)]


def _names(path: Path) -> list[str]:
    """Sub-folders by name, without hidden ones."""
    try:
        with os.scandir(path) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage_error(error, f"Reading the folder {path}") from error
