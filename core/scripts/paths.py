"""Name and move everything that stands below ``cache/``.

::

    cache/scripts/<id>-v<version>/<format>/…   an entry: verified bytes; the folder's mtime is its
                                               last use, so that a hit writes to no database
    cache/scripts/<id>-v<version>/.<format>.json          its manifest (`core.scripts.manifest`)
    cache/staging/<hex>/<format>/…             a download under way, on the entries' file system
    cache/quarantine/<id>-v<version>/<format>-<hex>/…     bytes that were not what they claimed
    cache/trash/<hex>                          renamed here under the lock, then removed
    cache/copies/<hex>/<format>/…          a read-only copy (`core.scripts.copies`)
    cache/library/<id>-v<version>/metadata.json           Escher Library playbooks that were used
    cache/scripts.lock                         see `core.scripts.eviction`
    cache/.escher-cache                        whose cache this is: `core.scripts.cache_owner`
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from core.errors import InvalidPlaybook, UsageError, storage_error
from core.files import make_private_dir
from core.models import FORMATS, Ref, ScriptKey, check_id, parse_version
from core.settings import Settings

# An id holds no dot, so the last "-v" before the first dot parts it from the version.
_PLACES = 4096  # kept; a download asks for each of its places several times
_FOLDER = re.compile(r"(?P<id>[^.]+)-v(?P<version>\d+\..+)", re.DOTALL)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where one entry stands: ``root`` is the version's folder."""

    key: ScriptKey
    root: Path

    @cached_property
    def folder(self) -> Path:
        """The format's folder."""
        return self.root / self.key.format

    @property
    def name(self) -> str:
        """As the index has it: below the cache's folder."""
        return f"{self.root.parent.name}/{self.root.name}/{self.key.format}"

    @cached_property
    def manifest(self) -> Path:
        return Path(self.manifest_path)

    @property
    def manifest_path(self) -> str:
        """As text: a look-up has no time for another path."""
        return f"{self.root}/.{self.key.format}.json"


class CacheLayout:
    """Knows the paths below ``cache/``, and moves things between them."""

    def __init__(self, settings: Settings, check: Callable[[], None] = lambda: None) -> None:
        """``check`` refuses a root that is not this home's (`core.scripts.cache_owner`)."""
        self.check = check
        self.root = settings.cache_path
        self.scripts = settings.script_cache_path
        self.staging = self.root / "staging"
        self.quarantine = self.root / "quarantine"
        self.trash = self.root / "trash"
        self.library = self.root / "library"
        self.copies = self.root / "copies"
        self.lock = self.root / "scripts.lock"

    def prepare(self) -> None:
        """Make the folders that a change needs; `Refused` where the cache is not this home's."""
        self.check()
        for folder in (self.scripts, self.staging, self.quarantine, self.trash):
            if not folder.is_dir():
                make_private_dir(folder)

    def place(self, key: ScriptKey) -> Place:
        """The place of ``key``, its parts checked: they become names on disk."""
        return _place(self.scripts, key)

    # -- what is there ----------------------------------------------------------------------
    def found(self) -> tuple[dict[ScriptKey, Place], list[Path]]:
        """List every entry of which a folder or a manifest is there, and the paths of strays."""
        places: dict[ScriptKey, Place] = {}
        strays: list[Path] = []
        for path in listed(self.scripts):
            ref = ref_of(path.name)
            if ref is None or not is_folder(path):
                strays.append(path)
                continue
            for inner in listed(path):
                name = inner.name
                hidden = name.startswith(".") and name.endswith(".json")
                format_ = name[1:-5] if hidden else name
                if format_ not in FORMATS:
                    strays.append(inner)
                    continue
                key = ScriptKey(ref, format_)
                places[key] = self.place(key)
        return places, strays

    def quarantined(self) -> list[str]:
        """List what is in quarantine by name: ``quarantine/<id>-v<version>/<format>-<hex>``."""
        return [
            str(inner.relative_to(self.root))
            for path in listed(self.quarantine)
            for inner in (listed(path) if is_folder(path) else [path])
        ]

    # -- moves; the caller holds the exclusive lock -----------------------------------------
    def discard(self, path: Path) -> None:
        """Rename ``path`` into the trash; one that is gone is fine."""
        with suppress(FileNotFoundError):
            path.rename(self.trash / uuid.uuid4().hex)

    def remove_entry(self, place: Place) -> None:
        """Take an entry away: its folder first, since a manifest alone is no entry."""
        if self.drop_link(place):
            return
        self.discard(place.folder)
        self.remove_manifest(place)
        with suppress(OSError):  # other formats of the version stand there
            place.root.rmdir()

    def drop_link(self, place: Place) -> bool:
        """Remove a link that stands for a version's folder, and nothing of where it leads."""
        if not place.root.is_symlink():
            return False
        place.root.unlink(missing_ok=True)
        return True

    def remove_manifest(self, place: Place) -> None:
        """Take a manifest away, whatever stands in its place."""
        if is_folder(place.manifest):
            self.discard(place.manifest)
        else:
            place.manifest.unlink(missing_ok=True)

    def set_aside(self, path: Path, name: str) -> None:
        """Rename ``path`` into the quarantine; ``name`` as in `quarantined`."""
        target = self.root / name
        target.parent.mkdir(mode=0o700, exist_ok=True)
        path.rename(target)

    def drop_quarantined(self, name: str) -> None:
        """Take away what is in quarantine; ``name`` as in `quarantined`."""
        path = self.root / name
        self.discard(path)
        if path.parent != self.quarantine:
            with suppress(OSError):  # more of the same version is there
                path.parent.rmdir()

    def sweep(self) -> int:
        """Empty the trash; the bytes that could not be removed (0, when all is well)."""
        left = 0
        for path in listed(self.trash):
            remove(path)
            left += size_on_disk(path)
        return left


@lru_cache(maxsize=_PLACES)
def _place(scripts: Path, key: ScriptKey) -> Place:
    check_id(key.ref.playbook_id)
    parse_version(key.ref.version)
    if key.format not in FORMATS:
        raise UsageError(f"Format {key.format!r} is unknown.", f"Use one of {', '.join(FORMATS)}.")
    return Place(key, scripts / folder_name(key.ref))


def folder_name(ref: Ref) -> str:
    """Name a version's folder: ``<id>-v<version>``."""
    return f"{ref.playbook_id}-v{ref.version}"


def ref_of(name: str) -> Ref | None:
    """Return the version whose folder has this name, None of no version's."""
    match = _FOLDER.fullmatch(name)
    if match is None:
        return None
    try:
        check_id(match["id"])
        parse_version(match["version"])
    except InvalidPlaybook:
        return None
    return Ref(match["id"], match["version"])


def listed(folder: Path) -> list[Path]:
    """List the paths in a folder by name; none of one that is not there."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise storage_error(error, f"Reading the folder {folder}") from error


def is_folder(path: Path) -> bool:
    """Tell whether a folder stands at ``path``, and not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def size_on_disk(path: Path) -> int:
    """Sum the bytes of all files at and below ``path``, links not followed; 0 of nothing."""
    return sum(_sizes(path))


def _sizes(path: Path) -> Iterator[int]:
    try:
        found = path.lstat()
    except OSError:
        return
    if not stat.S_ISDIR(found.st_mode):
        yield found.st_size
        return
    for inner in listed(path):
        yield from _sizes(inner)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all in it; what can't be is logged and stays."""
    with suppress(OSError):  # most often it is a folder that was emptied by a rename
        os.rmdir(path)  # noqa: PTH106  one call instead of the five of a walk
        return
    try:
        if is_folder(path):
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        pass  # another process sweeps too
    except OSError as error:
        log.warning("%s stays behind: %s", path, error.strerror)
