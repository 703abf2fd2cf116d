"""Fetch bytes from pre-signed URLs: into a new file, hashed on their way, resumed after a cut.

What can happen on the way, and what is done about it, all under the one `Retrier`:

- *interrupted* (cut, stall, reset, an answer that ends early): resumed where it stopped, with
  ``Range`` and ``If-Range`` of the strong ``ETag``; started over where the storage can't;
- *busy* (429, 503 …): waits as long as ``Retry-After`` asks, up to the retrier's cap;
- *expired* (403): a new URL, once, and resumed there;
- *contradicted*: a whole answer that is not what was listed (digest, length, an encoding that
  was not asked for). The network may have lied, so it is fetched once more from its first byte;
  the second time it is an `IntegrityError`.

Nothing is ever unpacked, and never more bytes are written than were announced. No token goes here,
and no URL is shown with its query. An empty file needs no request.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Self

from core.errors import (
    EscherError,
    IntegrityError,
    ServerRejected,
    TransferInterrupted,
    UrlExpired,
)
from core.errors import storage_error as disk_error
from core.files import PRIVATE_FILE
from core.server.answers import ScriptFile, clean_words, storage_error
from core.server.http import Deadline, Http, Incoming, Retrier
from core.server.uploads import FLOOR_BYTES_PER_SECOND
from core.server.url_policy import UrlPolicy

MAX_PROBLEM_BYTES = 16 * 1024
_OK, _PARTIAL, _NO_SUCH_RANGE, _REDIRECTS = 200, 206, 416, 300
_STRONG_ETAG = re.compile(r'"[!#-~]{1,256}"')
_CONTENT_RANGE = re.compile(
    r"bytes (?:(?P<first>\d{1,18})-(?P<last>\d{1,18})|\*)/(?P<total>\d{1,18}|\*)", re.ASCII
)

log = logging.getLogger(__name__)


class Downloads:
    """GETs of pre-signed URLs; safe in threads."""

    def __init__(self, http: Http, retrier: Retrier, policy: UrlPolicy) -> None:
        self._http = http
        self._retrier = retrier
        self._policy = policy

    def fetch(
        self,
        file: ScriptFile,
        target: Path,
        *,
        renew: Callable[[], ScriptFile],
        sync: bool = True,
    ) -> None:
        """Fetch ``file`` into ``target``, a new file (0600) that is right and synced on return.

        ``sync`` False: the caller syncs it, so that no connection waits for the disk.

        ``renew`` answers the same file with a new URL. On any failure ``target`` is gone again. The
        caller syncs the folder. Raises `IntegrityError`, `ForbiddenUrl`, `NotEscherServer` (a
        redirect), `ServerRejected`, `StorageError`, or a transient error that outlived its retries.
        """
        self._policy.check(file.url)
        with _Partial(target) as partial:
            download = _Download(self._http, partial)
            if not self._arrived(download, file):
                file = self._renewed(file, renew)
                if not self._arrived(download, file):
                    raise ServerRejected(
                        f"The storage refused a new URL for {_name(file)} too.",
                        "Check the clocks and the permissions of the server and its storage.",
                    )
            if sync:
                partial.sync()

    def _arrived(self, download: _Download, file: ScriptFile) -> bool:
        """Whether all of it came; False when the URL has expired."""
        try:
            self._retrier.call(
                lambda deadline: download.attempt(file, deadline),
                extra_seconds=file.size_bytes / FLOOR_BYTES_PER_SECOND,
            )
        except UrlExpired:
            return False
        return True

    def _renewed(self, file: ScriptFile, renew: Callable[[], ScriptFile]) -> ScriptFile:
        fresh = renew()
        told, now = ((it.path, it.checksum, it.size_bytes) for it in (file, fresh))
        if told != now:
            raise IntegrityError(
                f"The server lists other bytes for {_name(file)} than a moment ago.",
                "Ask for the script again.",
            )
        self._policy.check(fresh.url)
        return fresh


class _Download:
    """One file on its way, over all its tries."""

    def __init__(self, http: Http, partial: _Partial) -> None:
        self._http = http
        self._partial = partial
        self._etag: str | None = None
        self._ranges = True  # until the storage shows that it can't
        self._contradicted = False

    def attempt(self, file: ScriptFile, deadline: Deadline) -> None:
        """One request for what is missing, then the proof of the whole."""
        if self._partial.size < file.size_bytes:
            self._receive(file, deadline)
        if self._partial.checksum != file.checksum:
            raise self._contradiction(file, "the bytes that came have another SHA-256")

    def _receive(self, file: ScriptFile, deadline: Deadline) -> None:
        partial = self._partial
        with self._http.open(
            "GET", file.url, deadline=deadline, headers=self._range_headers(), pinned=True
        ) as incoming:
            self._begin(file, incoming)
            while piece := incoming.read():
                if partial.size + len(piece) > file.size_bytes:
                    raise self._contradiction(file, "more bytes came than that")
                partial.add(piece)
        if partial.size < file.size_bytes:
            raise TransferInterrupted(
                f"Only {partial.size} of {file.size_bytes} bytes of {_name(file)} came.",
                "It is tried again later.",
            )

    def _range_headers(self) -> dict[str, str]:
        if not self._partial.size:
            return {}
        if self._etag is None or not self._ranges:
            self._partial.discard()
            return {}
        return {"Range": f"bytes={self._partial.size}-", "If-Range": self._etag}

    def _begin(self, file: ScriptFile, incoming: Incoming) -> None:
        """Check status and headers; afterwards the body continues what is in the partial file."""
        status, headers = incoming.status, incoming.headers
        resuming = self._partial.size > 0
        if resuming and status == _NO_SUCH_RANGE:
            self._check_range(file, headers.get("Content-Range"))
        if not _OK <= status < _REDIRECTS:
            raise storage_error(status, headers, _problem_body(incoming), _name(file))
        if headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
            raise self._contradiction(file, "it came in an encoding that was not asked for")
        if resuming and status == _PARTIAL:
            self._check_range(file, headers.get("Content-Range"), headers.get("ETag"))
        elif status == _OK:
            self._partial.discard()
            etag = headers.get("ETag", "")
            self._etag = etag if _STRONG_ETAG.fullmatch(etag) else None
            length = headers.get("Content-Length", "")
            if length.isdecimal() and int(length) > file.size_bytes:
                raise self._contradiction(file, f"the storage has {int(length)}")
        else:
            raise self._contradiction(file, f"the storage answered {status}")

    def _check_range(
        self, file: ScriptFile, content_range: str | None, etag: str | None = None
    ) -> None:
        """The rest of the same bytes, from where they stopped? Else it is started over."""
        found = _CONTENT_RANGE.fullmatch(content_range or "")
        if found and found["total"] not in {"*", str(file.size_bytes)}:
            raise self._contradiction(file, f"the storage has {found['total']}")
        if (
            found is None
            or found["first"] != str(self._partial.size)
            or int(found["last"]) >= file.size_bytes
            or etag not in {None, self._etag}
        ):
            self._ranges = False
            self._partial.discard()
            raise TransferInterrupted(
                f"The storage did not continue {_name(file)} where it stopped.",
                "It is fetched anew.",
            )

    def _contradiction(self, file: ScriptFile, what: str) -> EscherError:
        """What came is dropped; the error of the first time is retried, of the second it is not."""
        self._partial.discard()
        words = f"{_name(file)} is not the {file.size_bytes} bytes that were listed: {what}."
        if self._contradicted:
            return IntegrityError(
                words, "Nothing of it was kept. It came wrong twice: check the server's copy."
            )
        self._contradicted = True
        log.warning("%s It is fetched anew.", words)
        return TransferInterrupted(words, "It is fetched anew.")


class _Partial:
    """The bytes so far: a new file, its size and its digest; removed unless all went well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hash = hashlib.sha256()
        self.size = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            self._fd = os.open(path, flags, PRIVATE_FILE)
        except OSError as error:
            raise disk_error(error, f"Creating {path}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        os.close(self._fd)
        if kind is not None:
            self._path.unlink(missing_ok=True)

    @property
    def checksum(self) -> str:
        return "sha256:" + self._hash.hexdigest()

    def add(self, piece: bytes) -> None:
        left = memoryview(piece)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            raise disk_error(error, f"Writing {self._path}") from error
        self._hash.update(piece)
        self.size += len(piece)

    def discard(self) -> None:
        if not self.size:
            return
        try:
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        except OSError as error:
            raise disk_error(error, f"Writing {self._path}") from error
        self._hash = hashlib.sha256()
        self.size = 0

    def sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise disk_error(error, f"Writing {self._path}") from error


def _problem_body(incoming: Incoming) -> bytes:
    """Enough of an error's body to read its ``retry_after``."""
    body = bytearray()
    while len(body) < MAX_PROBLEM_BYTES and (piece := incoming.read()):
        body += piece
    return bytes(body)


def _name(file: ScriptFile) -> str:
    """The file as errors name it; the path is the server's word until someone has checked it."""
    return clean_words(file.path)
