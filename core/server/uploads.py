"""Send bytes to pre-signed URLs: whole files, and large ones in parts.

Where they go is for `core.server.url_policy` to allow. Of the headers that the server asks for, those
are sent that tell what the bytes are; the others could speak for us to whoever listens there.

No token goes here; the URL's signature is the permission, so no URL is shown with its query.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import threading
from collections.abc import Callable, Mapping

from core.errors import (
    FilesMissing,
    IntegrityError,
    NotEscherServer,
    ServerRejected,
    TransferInterrupted,
    UrlExpired,
)
from core.files import sha256_bytes
from core.server.answers import (
    CHECK_URL,
    Announcement,
    UploadPart,
    UploadTarget,
    clean_words,
    storage_error,
)
from core.server.http import Deadline, Http, Retrier
from core.server.url_policy import UrlPolicy

CHECKSUM_HEADER = "x-amz-checksum-sha256"
FLOOR_BYTES_PER_SECOND = 64 * 1024  # a slower link does not carry a part before the deadline
MAX_ANSWER_BYTES = 1 << 20
MAX_HEADER_CHARS = 1024
MAX_NAMED_HEADERS = 10
_BAD_REQUEST = 400
# Content-Length is ours to say: it is the length of what is sent
_SENT_HEADERS = re.compile(
    r"content-type|content-md5|x-amz-checksum-(?:crc32|crc32c|crc64nvme|sha1|sha256)"
    r"|x-amz-content-sha256|x-amz-sdk-checksum-algorithm",
    re.IGNORECASE,
)

log = logging.getLogger(__name__)


class Uploads:
    """PUTs with the retries of ``retrier``; safe in threads."""

    def __init__(self, http: Http, retrier: Retrier, policy: UrlPolicy) -> None:
        self._http = http
        self._policy = policy
        self._retrier = retrier
        self._sent = 0
        self._lock = threading.Lock()

    def take_sent(self) -> int:
        """Bytes of content that were sent since this was last asked, again and again included."""
        with self._lock:
            sent, self._sent = self._sent, 0
        return sent

    def put_files(
        self, contents: Mapping[str, bytes], announce: Callable[[], Announcement], whose: str
    ) -> dict[str, str]:
        """Send ``{path: content}`` of the version ``whose``; returns ``{path: s3_path}``.

        An expired URL is asked for anew once, by another ``announce``; so are lost parts.
        """
        announcement = announce()
        sent: set[str] = set()  # content is addressed by its checksum: each goes once
        for target in announcement.targets:
            content = contents[target.path]
            if target.checksum in sent:
                continue
            sent.add(target.checksum)
            try:
                self.put_file(target, content)
            except (UrlExpired, FilesMissing):
                self._put_again(announce().target(target.path), content, whose)
        return announcement.s3_paths

    def _put_again(self, target: UploadTarget, content: bytes, whose: str) -> None:
        try:
            self.put_file(target, content)
        except UrlExpired:
            raise ServerRejected(
                f"The storage refused a new URL for {target.path} of {whose} too.",
                "Check the clocks and the permissions of the server and its storage.",
            ) from None
        except FilesMissing:
            raise TransferInterrupted(
                f"The storage lost parts of {target.path} of {whose} twice.",
                "It is tried again later.",
            ) from None

    def put_file(self, target: UploadTarget, content: bytes) -> None:
        """Send ``content`` to where ``target`` says; nothing where the server holds it.

        `UrlExpired` and `FilesMissing` (parts) ask for a new announcement. A 400 is retried while
        the bytes here still have the announced digest; otherwise `IntegrityError`: start over.
        """
        if target.complete_url is not None:
            parts = target.parts or []
            if sum(part.size_bytes for part in parts) > len(content):
                raise NotEscherServer(
                    f"The server wants more parts of {target.path} than it has bytes.", CHECK_URL
                )
            for part in parts:
                self._put_part(target, part, content)
            what = f"the end of {target.path}"
            self._send("POST", target.complete_url, target, content, {}, b"", what)
        elif target.url is not None:
            self._send("PUT", target.url, target, content, target.headers, content, target.path)

    def _put_part(self, target: UploadTarget, part: UploadPart, content: bytes) -> None:
        piece = content[part.offset : part.offset + part.size_bytes]
        if len(piece) != part.size_bytes:
            raise NotEscherServer(
                f"The server wants part {part.number} of {target.path}, which ends behind it.",
                CHECK_URL,
            )
        digest = base64.b64encode(hashlib.sha256(piece).digest()).decode()
        what = f"part {part.number} of {target.path}"
        self._send("PUT", part.url, target, content, {CHECKSUM_HEADER: digest}, piece, what)

    def _send(
        self,
        method: str,
        url: str,
        target: UploadTarget,
        whole: bytes,
        headers: Mapping[str, str],
        body: bytes,
        what: str,
    ) -> None:
        self._policy.check(url, "sent to")
        sent = _kept(headers, what)

        def attempt(deadline: Deadline) -> None:
            with self._lock:
                self._sent += len(body)
            answer = self._http.send(
                method,
                url,
                deadline=deadline,
                headers=sent,
                body=body,
                pinned=True,
                max_bytes=MAX_ANSWER_BYTES,
            )
            if answer.is_ok:
                return
            if answer.status == _BAD_REQUEST:
                self._check_refused(target, whole, what)
            raise storage_error(answer.status, answer.headers, answer.body, what)

        self._retrier.call(attempt, extra_seconds=len(body) / FLOOR_BYTES_PER_SECOND)

    @staticmethod
    def _check_refused(target: UploadTarget, whole: bytes, what: str) -> None:
        """Raise for a 400: the bytes changed on the way (sent again), or here (`IntegrityError`)."""
        if sha256_bytes(whole) != target.checksum:
            raise IntegrityError(
                f"{target.path} is not what was announced any more.", "It is sent anew."
            )
        log.warning("the storage refused the bytes of %s; they are sent again", what)
        raise TransferInterrupted(f"The storage refused the bytes of {what}.", "It is tried again.")


def _kept(headers: Mapping[str, str], what: str) -> dict[str, str]:
    """Those of the headers asked for that are sent; another one may be what a signature covers."""
    kept = {
        name: value
        for name, value in headers.items()
        if _SENT_HEADERS.fullmatch(name)
        and len(value) <= MAX_HEADER_CHARS
        and value.isascii()
        and value.isprintable()
    }
    left = [name for name in headers if name not in kept and name.lower() != "content-length"]
    if left:
        named = clean_words(", ".join(sorted(left)[:MAX_NAMED_HEADERS]))
        log.warning("%d headers that the server asked for are not sent with %s: %s",
                    len(left), what, named)  # fmt: skip
    return kept
