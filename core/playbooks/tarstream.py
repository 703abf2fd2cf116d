"""A tar archive as a stream of members that ends with an error, never quietly, when it is not whole.

tarfile takes a damaged header for the archive's end, and reads headers of any size into memory;
gzip proves its checksum only to those who read to the end. All three are mended here.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from core.errors import InvalidPlaybook, UsageError
from core.playbooks.limits import MIB

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_ARCHIVE_BYTES = 1024 * MIB  # uncompressed
MAX_HEADER_BYTES = MIB  # of a long name or pax header, which tarfile reads whole
_DAMAGED = "Fetch or make the archive again."


class Damaged(InvalidPlaybook):
    """The archive can't be read to its end."""


class Untrusted(Damaged):
    """Nor can what was read before be relied upon."""


def members_of(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (info := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # it would keep every one
        yield info


class _Header(tarfile.TarInfo):
    """Headers that end the reading instead of passing for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # two zero blocks: the end
            raise
        except tarfile.HeaderError as error:
            raise Damaged(f"The archive breaks off or is damaged ({error}).", _DAMAGED) from error
        extended = info.type not in tarfile.SUPPORTED_TYPES or info.type in {
            tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE,
            tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
        }  # fmt: skip
        if info.size < 0 or (extended and info.size > MAX_HEADER_BYTES):
            raise Untrusted("The archive has a header of unreasonable size.", _DAMAGED)
        return info


class _Capped(io.RawIOBase):
    """Uncompressed bytes, no more than `MAX_ARCHIVE_BYTES`: a gzip bomb ends there."""

    def __init__(self, source: io.BufferedReader | gzip.GzipFile, name: str) -> None:
        self._source = source
        self._name = name
        self._left = MAX_ARCHIVE_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        try:
            content = self._source.read1(len(view))  # a longer read loses what precedes an error
        except EOFError as error:
            raise Damaged(f"{self._name} breaks off.", _DAMAGED) from error
        except (zlib.error, gzip.BadGzipFile) as error:
            raise Untrusted(f"{self._name} is damaged: {error}.", _DAMAGED) from error
        self._left -= len(content)
        if self._left < 0:
            raise Untrusted(
                f"{self._name} holds more than {MAX_ARCHIVE_BYTES // MIB} MiB uncompressed.",
                "Split the archive.",
            )
        view[: len(content)] = content
        return len(content)


@contextmanager
def opened(path: Path) -> Iterator[tuple[tarfile.TarFile, IO[bytes]]]:
    """The archive as a stream of members, and the stream itself."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not zipped and path.suffix in {".gz", ".tgz"}:
            raise UsageError(f"{path} is not gzip.", "Give a .tar.gz, .tgz or .tar.")
        source = gzip.GzipFile(fileobj=file) if zipped else file
        stream = io.BufferedReader(_Capped(source, path.name), MIB)
        try:
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as archive:
                yield archive, stream
        except tarfile.TarError as error:
            raise Damaged(f"{path.name} is not a whole tar archive: {error}.", _DAMAGED) from error
