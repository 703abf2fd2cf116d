"""Read and write the manifest beside a cached format folder: what the folder must hold.

::

    {"format_version": 1, "playbook_id": "stop-rds", "version": "1.0.0", "format": "shell",
     "source": "tenant", "entry_point": "shell/stop.sh", "fetched_at": 1767225600.0,
     "files": [["shell/stop.sh", 2048, "sha256:…"]],
     "digest": "sha256:…"}                  over the bytes of the same object without it, so a
                                            flipped bit is noticed
One line of JSON. It is not synced: a power cut may take it, and then the index has the same, or the
entry is fetched again; it can't be wrong unnoticed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from core.bounded_json import read_object
from core.errors import EscherError, IntegrityError, storage_error
from core.files import DIGEST_RE, check_relative_path
from core.journal.scripts import CacheFolder, FolderState
from core.models import FileEntry, Ref, ScriptKey
from core.scripts.integrity import FILE_ERRNOS
from core.scripts.models import Listing
from core.scripts.paths import Place

FORMAT_VERSION = 1
MAX_BYTES = 4 << 20  # 2,000 files with the longest paths
TIME_BYTES = 21  # by which the longest time is longer than 0.0
_SEAL = b', "digest": "sha256:'
_SEAL_BYTES = len(_SEAL) - 1 + 64 + len('"}\n')  # what `_sealed` adds
_ENCODER = json.JSONEncoder(ensure_ascii=False)


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
            "files": [[f.path, f.size_bytes, f.checksum] for f in self.listing.files],
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
        if listing.entry_point not in {file.path for file in files}:
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
    path, size, checksum = item
    check_relative_path(path)
    sound = isinstance(size, int) and size >= 0 and DIGEST_RE.match(checksum)
    if not sound or not path.startswith(f"{format_}/"):
        raise ValueError(path)
    return FileEntry(path, size, checksum)


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
