"""Speak to the Escher server (``contract/server.md``): one method a call.

Every call is retried by the `Retrier` and ends in a checked answer or in one of `core.errors`; errors
name the call without its query and never hold a token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from core.bounded_json import MAX_DOCUMENT_BYTES
from core.errors import (
    NotEscherServer,
    NotFound,
    ServerRejected,
    SettingsError,
    TransientError,
)
from core.files import sha256_bytes
from core.limits import ANNOUNCED_FILES
from core.models import FileEntry, Ref, Status, executables, file_entries
from core.server.answers import (
    CHECK_URL,
    Announcement,
    ChangePage,
    Deleted,
    Published,
    ReferenceStats,
    Reply,
    Script,
    ScriptFile,
    StatsCounted,
    StatusSet,
    api_error,
    clean_words,
    read_change_page,
    read_problem,
    read_reply,
)
from core.server.downloads import Downloads
from core.server.http import (
    MAX_ANSWER_BYTES,
    READ_SECONDS,
    Answer,
    Deadline,
    Http,
    Retrier,
    RetryPolicy,
    url_label,
)
from core.server.uploads import Uploads
from core.server.url_policy import UrlPolicy
from core.settings import Settings

R = TypeVar("R", bound=Reply)
_PROBE = RetryPolicy(tries=1, deadline_seconds=5.0)
_NOT_FOUND = 404
_CHANGES = "/api/playbook/metadata/changes"
LATEST = "latest"  # a version that the server chooses
# Idle connections kept: every thread of a transfer worker may be sending at once.
CONNECTIONS = 64


class EscherServer:
    """A client of one server and tenant; may be shared by threads and carried over a fork."""

    def __init__(
        self,
        settings: Settings,
        *,
        retrier: Retrier | None = None,
        on_contact: Callable[[], None] = lambda: None,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        """``on_contact`` is called once, when the server has first answered as it should.

        ``read_seconds``: how long a connection may be silent.
        """
        self._on_contact: Callable[[], None] | None = on_contact
        self._settings = settings
        self._url = settings.server_url
        self._tenant = settings.tenant_id
        self._retrier = retrier or Retrier()
        policy = UrlPolicy(settings)
        self._http = Http(CONNECTIONS, read_seconds, addresses=policy.addresses)
        self._uploads = Uploads(self._http, self._retrier, policy)
        self._downloads = Downloads(self._http, self._retrier, policy)

    # -- publishing -------------------------------------------------------------------------
    def announce(self, ref: Ref, files: Sequence[FileEntry]) -> Announcement:
        """Announce files; answers one target for each: where it goes and what it becomes.

        Many go in pieces, which add up on the server.
        """
        pieces = [
            self._announce(ref, files[start : start + ANNOUNCED_FILES])
            for start in range(0, max(len(files), 1), ANNOUNCED_FILES)
        ]
        targets = [target for piece in pieces for target in piece.targets]
        return pieces[0].model_copy(update={"targets": targets})

    def _announce(self, ref: Ref, files: Sequence[FileEntry]) -> Announcement:
        answer = self._call(
            Announcement,
            "POST",
            "/api/playbook/upload",
            {**self._names(ref), "files": [_announced(file) for file in files]},
        )
        wanted = sorted((file.path, file.checksum) for file in files)
        if sorted((target.path, target.checksum) for target in answer.targets) != wanted:
            raise NotEscherServer(
                f"The upload targets for {ref} are not those of the announced files.", CHECK_URL
            )
        return answer

    def upload(
        self, ref: Ref, contents: Mapping[str, bytes], files: Sequence[FileEntry] = ()
    ) -> dict[str, str]:
        """Send ``{path: content}`` to the tenant space, but for what is there; ``{path: s3_path}``.

        ``files``: what is known of them, for the executable ones. An expired URL is asked for anew
        once; so are lost parts.
        """
        entries = file_entries(dict(sorted(contents.items())), executables(files))
        return self._uploads.put_files(contents, lambda: self.announce(ref, entries), str(ref))

    def take_sent(self) -> int:
        """Bytes of content sent by `upload` since this was last asked."""
        return self._uploads.take_sent()

    def publish(
        self,
        ref: Ref,
        *,
        metadata: Mapping[str, Any],
        vector: Sequence[float] | None,
        embedding_model: str | None,
        content_digest: str,
        s3_paths: Mapping[str, str],
        base_revision: int | None,
    ) -> Published:
        """Commit a version. `Conflict` (409) holds the server's side; `FilesMissing` is 424.

        The ``Idempotency-Key`` is the digest of the body: after a lost answer the same call gets
        the first answer again, and another body is never taken for it.
        """
        body = {
            **self._names(ref),
            "metadata": dict(metadata),
            "vector": None if vector is None else list(vector),
            "embedding_model": embedding_model,
            "content_digest": content_digest,
            "s3_paths": dict(s3_paths),
            "base_revision": base_revision,
        }
        key = sha256_bytes(json.dumps(body, sort_keys=True).encode()).removeprefix("sha256:")
        path = "/api/playbook/metadata/publish"
        return self._call(Published, "POST", path, body, headers={"Idempotency-Key": key})

    def delete(self, ref: Ref, revision: int) -> None:
        """Delete a version that is at ``revision``; one that is not there is deleted.

        `Conflict` (412) when the server has moved on.
        """
        path = self._version_path("metadata", ref)
        headers = {"If-Match": str(revision)}
        answer, call = self._exchange("DELETE", path, headers=headers, may_be_absent=True)
        if answer.is_ok and answer.body:
            read_reply(Deleted, answer.body, call)

    def set_status(
        self,
        ref: Ref,
        status: Status,
        reason: str | None = None,
        *,
        content_digest: str | None = None,
    ) -> StatusSet:
        """Set a version's status; wants a reviewer's token.

        ``content_digest`` is what was judged: `Conflict` where the server holds another.
        """
        path = self._version_path("metadata", ref) + "/status"
        body = {"status": status.value, "reason": reason}
        if content_digest is not None:
            body["content_digest"] = content_digest
        return self._call(StatusSet, "POST", path, body)

    def send_stats(self, ref: Ref, executions: Iterable[Mapping[str, Any]]) -> StatsCounted:
        """Report executions ``{execution_id, success, duration_ms, at}``; again is harmless."""
        body = {"executions": [dict(execution) for execution in executions]}
        return self._call(StatsCounted, "POST", self._version_path("stats", ref), body)

    # -- reading ----------------------------------------------------------------------------
    def change_page(self, cursor: str | None = None, limit: int = 200) -> ChangePage:
        """Read a page of what changed after ``cursor`` (None: from the beginning), item by item."""
        params = {"tenant_id": self._tenant, "limit": str(limit)}
        if cursor is not None:
            params["since"] = cursor
        answer, call = self._exchange("GET", _CHANGES, params=params, max_bytes=MAX_DOCUMENT_BYTES)
        page = read_change_page(answer.body, call)
        self._contacted()
        return page

    def script(self, ref: Ref, format_: str | None = None) -> Script:
        """Ask for the files of a version (`LATEST`: which one is told) with pre-signed GETs.

        ``format_`` None: all of them. Raises `NotFound` when the server has none of that name,
        `NotEscherServer` when it answers for another version.
        """
        params = {"playbook_id": ref.playbook_id, "version": ref.version}
        if format_ is not None:
            params["format"] = format_
        path = "/api/script/download"
        answer, call = self._exchange("GET", path, params=params, may_be_absent=True)
        if not answer.is_ok:
            raise NotFound(f"The server has no {clean_words(' '.join(params.values()))}.")
        script = self._read(Script, answer, call)
        if ref.version != LATEST and Ref(script.playbook_id, script.version) != ref:
            raise NotEscherServer(f"The server answered for another version than {ref}.", CHECK_URL)
        return script

    def download(
        self,
        file: ScriptFile,
        target: Path,
        *,
        renew: Callable[[], ScriptFile],
        sync: bool = True,
    ) -> None:
        """Fetch a file of `script` into the new file ``target``: see `Downloads.fetch`."""
        self._downloads.fetch(file, target, renew=renew, sync=sync)

    def reachable(self) -> bool:
        """Whether the server answers as an Escher server does, with this token; 5 s at most."""
        try:
            params = {"tenant_id": self._tenant, "limit": "1"}
            answer, call = self._exchange("GET", _CHANGES, params=params, retrier=Retrier(_PROBE))
            read_change_page(answer.body, call)
        except (TransientError, ServerRejected):
            return False
        return True

    def reference_stats(self) -> dict[str, int]:
        """The reference server's counts for this tenant; another server has none (404)."""
        stats = self._call(ReferenceStats, "GET", "/api/reference/stats")
        return stats.tenants.get(self._tenant, {})

    def close(self) -> None:
        self._http.close()

    # -- one call ---------------------------------------------------------------------------
    def _call(
        self,
        kind: type[R],
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> R:
        return self._read(kind, *self._exchange(method, path, body, headers=headers))

    def _read(self, kind: type[R], answer: Answer, call: str) -> R:
        reply = read_reply(kind, answer.body, call)
        self._contacted()
        return reply

    def _contacted(self) -> None:
        on_contact, self._on_contact = self._on_contact, None
        if on_contact is not None:
            on_contact()

    def _exchange(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        retrier: Retrier | None = None,
        max_bytes: int = MAX_ANSWER_BYTES,
        may_be_absent: bool = False,
    ) -> tuple[Answer, str]:
        """Make a call; its good answer, and the call as errors name it. Raises what went wrong.

        ``may_be_absent``: a 404 is a good answer, too.
        """
        url = self._url + path
        call = f"{method} {url_label(url)}"
        sent = dict(headers or {})
        content = None
        if body is not None:
            sent["Content-Type"] = "application/json"
            content = json.dumps(body, allow_nan=False).encode()

        def attempt(deadline: Deadline) -> Answer:
            token = self._token()
            answer = self._http.send(
                method,
                url,
                deadline=deadline,
                token=token,
                headers=sent,
                params=params,
                body=content,
                max_bytes=max_bytes,
            )
            if answer.is_ok or (may_be_absent and _is_absent(answer)):
                return answer
            raise api_error(answer.status, answer.headers, answer.body, call, token)

        return (retrier or self._retrier).call(attempt), call

    def _token(self) -> str | None:
        """Read at each call: the embedded server's token may come after this client."""
        token = self._settings.read_server_token()
        if token is not None and not (token.isascii() and token.isprintable()):
            raise SettingsError(
                "server_token holds characters that no header can carry.",
                "Set it again, without line breaks.",
            )
        return token

    def _names(self, ref: Ref) -> dict[str, Any]:
        return {
            "tenant_id": self._tenant,
            "playbook_id": ref.playbook_id,
            "version": ref.version,
        }

    def _version_path(self, kind: str, ref: Ref) -> str:
        names = (self._tenant, ref.playbook_id, ref.version)
        return f"/api/playbook/{kind}/" + "/".join(quote(name, safe="") for name in names)


def _is_absent(answer: Answer) -> bool:
    """404 counts only from a server of the contract, not from any page that is not there."""
    return answer.status == _NOT_FOUND and read_problem(answer.body) is not None


def _announced(file: FileEntry) -> dict[str, object]:
    """Only an executable file says so: a server of before the bit was told knows no such field."""
    return file.as_json() | ({"executable": True} if file.executable else {})
