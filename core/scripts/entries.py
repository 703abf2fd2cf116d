"""Name the place of a cached format folder; read and write the manifest beside it.

::

    cache/scripts/<id>-v<version>/<format>/…         an entry: verified bytes; the folder's mtime is
                                                     its last use, so that a hit writes to no database
    cache/scripts/<id>-v<version>/.<format>.json     its manifest: what the folder must hold

    {"format_version": 1, "playbook_id": "stop-rds", "version": "1.0.0", "format": "shell",
     "source": "tenant", "entry_point": "shell/stop.sh", "fetched_at": 1767225600.0,
     "files": [["shell/stop.sh", 2048, "sha256:…", true]],   true: executable
     "digest": "sha256:…"}                  over the bytes of the same object without it, so a
                                            flipped bit is noticed
One line of JSON. It is not synced: a power cut may take it, and then the index has the same, or the
entry is fetched again; it can't be wrong unnoticed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from core.bounded_json import read_object
from core.errors import EscherError, IntegrityError, InvalidPlaybook, UsageError, storage_error
from core.files import DIGEST_RE, check_relative_path
from core.journal.scripts import CacheFolder, FolderState
from core.models import FORMATS, FileEntry, Ref, ScriptKey, check_id, parse_version
from core.scripts.integrity import FILE_ERRNOS
from core.scripts.models import Listing

_PLACES = 4096  # kept; a download asks for each of its places several times
# An id holds no dot, so the last "-v" before the first dot parts it from the version.
_FOLDER = re.compile(r"(?P<id>[^.]+)-v(?P<version>\d+\..+)", re.DOTALL)
FORMAT_VERSION = 1
MAX_BYTES = 4 << 20  # 2,000 files with the longest paths
TIME_BYTES = 21  # by which the longest time is longer than 0.0
_SEAL = b', "digest": "sha256:'
_SEAL_BYTES = len(_SEAL) - 1 + 64 + len('"}\n')  # what `_sealed` adds
_ENCODER = json.JSONEncoder(ensure_ascii=False)

log = logging.getLogger(__name__)


# -- where it stands --------------------------------------------------------------------------
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


@lru_cache(maxsize=_PLACES)
def place_of(scripts: Path, key: ScriptKey) -> Place:
    """The place of ``key`` below ``scripts``, its parts checked: they become names on disk."""
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


# -- its manifest -----------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Manifest:
    """An entry's listing, where it came from (tenant | library), and when (Unix seconds)."""

    listing: Listing
    source: str
    fetched_at: float

    @property
    def key(self) -> ScriptKey:
        return self.listing.key

    def encode(self) -> bytes:
        return _sealed(self.body())

    def body(self) -> bytes:
        """The JSON object without its digest."""
        key = self.key
        body = {
            "format_version": FORMAT_VERSION,
            "playbook_id": key.ref.playbook_id,
            "version": key.ref.version,
            "format": key.format,
            "source": self.source,
            "entry_point": self.listing.entry_point,
            "fetched_at": self.fetched_at,
            "files": [file.as_row() for file in self.listing.files],
        }
        return _ENCODER.encode(body).encode()

    def row(self, place: Place, last_used: float) -> CacheFolder:
        """As the index has it; its size counts the manifest itself."""
        return CacheFolder(
            place.name,
            FolderState.COMPLETE,
            self.key,
            footprint(self.listing),
            self.fetched_at,
            last_used,
            self.source,
            self.listing.entry_point,
            self.listing.files,
        )

    @classmethod
    def of_row(cls, row: CacheFolder) -> Manifest:
        return cls(Listing(row.key, row.files, row.entry_point), row.source, row.since)


def footprint(listing: Listing) -> int:
    """Compute the most that an entry takes on disk, its manifest included, in bytes."""
    body = Manifest(listing, "library", 0.0).body()
    return listing.size_bytes + len(body) + _SEAL_BYTES + TIME_BYTES


def read_manifest(place: Place) -> Manifest | None:
    """Read the manifest of an entry, None where there is none; `IntegrityError` when it is damaged."""
    try:
        fd = os.open(place.manifest_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP or error.errno in FILE_ERRNOS:
            raise _damaged(place, str(error.strerror)) from error
        raise storage_error(error, f"Reading {place.manifest}") from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise _damaged(place, "it is no file")
        content = os.read(fd, min(found.st_size, MAX_BYTES) + 1)
    except OSError as error:  # a bad sector
        raise _damaged(place, str(error.strerror)) from error
    finally:
        os.close(fd)
    return decode(content, place)


def decode(content: bytes, place: Place) -> Manifest:
    """Read a manifest's bytes, every field checked; `IntegrityError` says what is wrong."""
    if len(content) > MAX_BYTES:
        raise _damaged(place, "it is too long")
    inner, _, digest = content.rpartition(_SEAL)
    inner += b"}"
    if digest != _hex_digest(inner) + b'"}\n':
        raise _damaged(place, "its digest is another")
    try:
        body = read_object(inner, max_bytes=MAX_BYTES)
        found = ScriptKey(Ref(body["playbook_id"], body["version"]), body["format"])
        if body["format_version"] != FORMAT_VERSION:
            raise _damaged(place, f"it has format {body['format_version']!r}")
        if found != place.key:
            raise _damaged(place, f"it belongs to {found}")
        files = tuple(_file(item, place.key.format) for item in body["files"])
        listing = Listing(found, files, body["entry_point"])
        if listing.entry_point not in {"", *(file.path for file in files)}:
            raise _damaged(place, "its entry point is none of its files")
        return Manifest(listing, str(body["source"]), float(body["fetched_at"]))
    except IntegrityError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, EscherError) as error:
        raise _damaged(place, "it is not what this version writes") from error


def write_manifest(place: Place, manifest: Manifest) -> None:
    """Write a manifest, the old one or the new one being there at every instant."""
    temporary = f"{place.manifest_path}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(manifest.encode())
            os.replace(temporary, place.manifest_path)  # noqa: PTH105  in a loop over a batch
        except BaseException:  # also on a signal: no temporary file stays behind
            with suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108  as above
            raise
    except OSError as error:
        raise storage_error(error, f"Writing {place.manifest}") from error


def _file(item: Any, format_: str) -> FileEntry:
    path, size, checksum, *marks = item
    check_relative_path(path)
    sound = isinstance(size, int) and size >= 0 and DIGEST_RE.match(checksum)
    if not sound or not path.startswith(f"{format_}/") or marks not in ([], [True]):
        raise ValueError(path)
    return FileEntry(path, size, checksum, bool(marks))


def _sealed(body: bytes) -> bytes:
    """A JSON object with its digest as the last member, and a newline."""
    return body[:-1] + _SEAL + _hex_digest(body) + b'"}\n'


def _hex_digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _damaged(place: Place, why: str) -> IntegrityError:
    return IntegrityError(
        f"The manifest {place.manifest} is damaged: {why}.",
        "The entry is put into quarantine and fetched again when it is wanted.",
    )


REMEMBERED = 4096  # manifests, each good while its file's stat is the same


class Known(NamedTuple):
    """A manifest that was read, and its entry's paths as text: a look-up has no time for others."""

    signature: tuple[int, int, int, int]
    manifest_path: str
    folder: str
    root: str
    place: Place
    manifest: Manifest


class Manifests:
    """Reads the manifests below ``scripts``, from memory where it can; safe between threads."""

    def __init__(self, scripts: Path) -> None:
        self._scripts = scripts
        self._known: dict[ScriptKey, Known] = {}

    def find(self, key: ScriptKey) -> Known | None:
        """Return the manifest of an entry, None where there is none; `IntegrityError` when damaged."""
        known = self._known.get(key)
        place = known.place if known is not None else place_of(self._scripts, key)
        path = known.manifest_path if known is not None else place.manifest_path
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            self._known.pop(key, None)
            return None
        except OSError as error:
            raise storage_error(error, f"Looking at {path}") from error
        signature = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)
        if known is not None and known.signature == signature:
            return known
        for folder in (place.root, place.root.parent):
            if folder.is_symlink():
                raise IntegrityError(f"{folder} is a link, which may lead anywhere.")
        manifest = read_manifest(place)
        if manifest is None:  # gone in between
            return None
        root = str(place.root)
        known = Known(signature, path, f"{root}/{key.format}", root, place, manifest)
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[key] = known
        return known


# -- what is there ----------------------------------------------------------------------------
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
