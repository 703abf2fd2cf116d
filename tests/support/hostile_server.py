"""A small Escher server in this process that lies as a test says.

Without lies it is honest: it takes uploads and publications, keeps versions in memory, and answers
the changes feed, scripts, objects, deletions, statuses and statistics as the contract has them, for
whatever token and tenant. Nothing is checked that only protects an honest server.

::

    with running_hostile() as hostile:          # or the fixture of a conftest: yield from it
        settings = Settings(home=…, server_url=hostile.url, server_token="t")
        hostile.add(Ref("stop", "1.0.0"), {"shell/run.sh": b"echo 1"}, status="approved")

        # its words: change what the feed tells of a version (its digest is not computed again)
        hostile.item(Ref("stop", "1.0.0"))["revision"] = 7
        hostile.replace(Ref("stop", "1.0.0"), {"shell/run.sh": b"rm -rf /"})   # other bytes, same name
        hostile.remove(Ref("stop", "1.0.0"))                                   # a tombstone

        # its answers: a function from the honest body to what is sent instead
        hostile.lie("changes", lambda honest, asked: {**honest, "cursor": "A", "more": True})
        hostile.lie("script", lambda honest, asked: {**honest, "manifest": []}, times=1)
        hostile.lie("upload", point_uploads_at("https://169.254.169.254/latest", {"Host": "x"}))
        hostile.lie("object_get", lambda content, asked: content[::-1])
        hostile.lie("changes", lambda honest, asked: b'{"changes": [' + b"[" * 200_000)
        hostile.lie("delete", lambda honest, asked: Answer(307, b"", {"Location": "http://x"}))
        hostile.honest("changes")

        hostile.asked                            # every request, as it came
        hostile.asked_of("object_put")           # those to one route

Routes: ``changes script upload object_put part complete publish delete status stats search object_get``.
A lie gets the honest answer (a dict; bytes from ``object_get``) and what was asked, and returns a dict
(sent as JSON), bytes (sent as they are) or an `Answer` with status and headers. A raised exception
cuts the connection.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from core.files import sha256_bytes
from core.models import FileEntry, Ref, content_digest

ROUTES = (
    ("changes", "GET", r"/api/playbook/metadata/changes"),
    ("script", "GET", r"/api/script/download"),
    ("upload", "POST", r"/api/playbook/upload"),
    ("publish", "POST", r"/api/playbook/metadata/publish"),
    ("delete", "DELETE", r"/api/playbook/metadata/(?P<tenant>[^/]+)/(?P<id>[^/]+)/(?P<version>[^/]+)"),
    ("status", "POST",
     r"/api/playbook/metadata/(?P<tenant>[^/]+)/(?P<id>[^/]+)/(?P<version>[^/]+)/status"),
    ("stats", "POST", r"/api/playbook/stats/(?P<tenant>[^/]+)/(?P<id>[^/]+)/(?P<version>[^/]+)"),
    ("search", "POST", r"/api/playbook/search"),
    ("object_get", "GET", r"/objects/(?P<digest>[0-9a-f]{64})"),
    ("object_put", "PUT", r"/objects/(?P<digest>[0-9a-f]{64})"),
    ("part", "PUT", r"/parts/.*"),
    ("complete", "POST", r"/complete/.*"),
)  # fmt: skip
FAR = 2**40  # an expiry that no test lives to see


@dataclass
class Asked:
    """A request as it came; ``names`` are the parts of its path."""

    route: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    names: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What is sent: anything at all."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


Lie = Callable[[Any, Asked], "dict[str, Any] | bytes | Answer"]


class HostileServer:
    """See the module; tests change ``items`` and ``objects`` directly, too."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.items: dict[Ref, dict[str, Any]] = {}  # in the order of the feed
        self.objects: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self.page_size = 500
        self._announced: dict[Ref, dict[str, dict[str, Any]]] = {}
        self._lies: dict[str, tuple[Lie, int | None]] = {}
        self._lock = threading.RLock()

    # -- what it holds ----------------------------------------------------------------------
    def add(self, ref: Ref, files: Mapping[str, bytes] | None = None, **fields: Any) -> None:
        """A published version; ``fields`` go into its feed item, ``metadata`` into its metadata.

        ``executable``: the paths of its executable files.
        """
        marked = fields.pop("executable", ())
        contents = {"shell/run.sh": f"echo {ref}\n".encode()} if files is None else files
        metadata = {
            "playbook_id": ref.playbook_id, "version": ref.version, "name": "Stop databases",
            "description": "Stops what is idle.", "cloud_provider": ["aws"], "status": "ready",
            "storage_strategy": "uploaded_for_review", "created_at": 1, "updated_at": 2,
            **fields.pop("metadata", {}),
        }  # fmt: skip
        entries = [
            FileEntry(path, len(c), sha256_bytes(c), path in marked) for path, c in contents.items()
        ]
        self.objects.update({sha256_bytes(content): content for content in contents.values()})
        base = f"s3://escher-tenant-data/tenants/local/playbooks/{ref.playbook_id}/v{ref.version}"
        listed = [
            {**e.as_json(), "executable": e.executable, "s3_path": f"{base}/{e.path}"}
            for e in entries
        ]
        self._put(ref, metadata, content_digest(metadata, entries), listed, fields)

    def replace(self, ref: Ref, files: Mapping[str, bytes], **fields: Any) -> None:
        """Other bytes under the same name, at the next revision."""
        self.add(ref, files, revision=self.items[ref]["revision"] + 1, **fields)

    def remove(self, ref: Ref, **fields: Any) -> None:
        """A tombstone, at the next revision."""
        with self._lock:
            item = self.items.pop(ref)
            gone = {
                "deleted": True,
                "metadata": None,
                "files": [],
                "revision": item["revision"] + 1,
            }
            self.items[ref] = {**item, **gone, **fields}

    def item(self, ref: Ref) -> dict[str, Any]:
        """The feed's item of a version, to be changed in place."""
        return self.items[ref]

    def _put(
        self, ref: Ref, metadata: Any, digest: str, files: list[Any], fields: Mapping[str, Any]
    ) -> None:
        with self._lock:
            self.items.pop(ref, None)
            self.items[ref] = {
                "playbook_id": ref.playbook_id, "version": ref.version, "revision": 1,
                "content_digest": digest, "status": "pending_review",
                "storage_strategy": "uploaded_for_review", "deleted": False, "updated_at": 2,
                "published_by": "somebody", "metadata": metadata, "files": files, **fields,
            }  # fmt: skip

    # -- how it lies --------------------------------------------------------------------------
    def lie(self, route: str, lie: Lie, times: int | None = None) -> None:
        """Answer ``route`` with what ``lie`` makes of the honest answer, so often (None: always)."""
        assert route in {name for name, *_ in ROUTES}
        self._lies[route] = (lie, times)

    def honest(self, route: str) -> None:
        """Tell the truth there again."""
        self._lies.pop(route, None)

    def asked_of(self, route: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.route == route]

    # -- answering ----------------------------------------------------------------------------
    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        parts = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        for route, of, pattern in ROUTES:
            match = re.fullmatch(pattern, parts.path)
            if match and of == method:
                asked = Asked(route, method, parts.path, query, headers, body, match.groupdict())
                break
        else:
            self.asked.append(Asked("", method, parts.path, query, headers, body, {}))
            return _problem(404, f"no {method} {parts.path} here")
        with self._lock:
            self.asked.append(asked)
            honest = getattr(self, f"_{route}")(asked)
            lie, times = self._lies.get(route, (None, 0))
            if times is not None:
                self._lies[route] = (lie, times - 1)  # type: ignore[assignment]
                if times <= 1:
                    self.honest(route)
        if lie is not None:
            honest = lie(honest, asked)
        if isinstance(honest, Answer):
            return honest
        if isinstance(honest, bytes):
            return Answer(body=honest, headers={"ETag": f'"{sha256_bytes(honest)[7:]}"'})
        return Answer(
            body=json.dumps(honest).encode(), headers={"Content-Type": "application/json"}
        )

    def _changes(self, asked: Asked) -> Any:
        start = int(asked.query.get("since", "0"))
        items = list(self.items.values())
        end = min(start + min(int(asked.query.get("limit", "200")), self.page_size), len(items))
        return {"changes": items[start:end], "cursor": str(end), "more": end < len(items)}

    def _script(self, asked: Asked) -> Any:
        query = asked.query
        if "s3_path" in query:
            found = re.search(r"/([^/]+)/v([^/]+)(?:/(.*))?$", query["s3_path"])
            assert found
            ref, wanted = Ref(found[1], found[2]), found[3] or ""
        else:
            ref = Ref(query["playbook_id"], query.get("version", "latest"))
            wanted = query.get("format", "")
        if ref.version == "latest":
            good = {"approved", "active"}
            refs = [r for r, i in self.items.items() if r[0] == ref[0] and i["status"] in good]
            ref = max(refs, default=ref)
        item = self.items.get(ref)
        if item is None or item["deleted"]:
            return _problem(404, f"no {ref} here")
        files = [f for f in item["files"] if not wanted or f["path"].split("/")[0] == wanted]
        return {
            "playbook_id": ref.playbook_id, "version": ref.version, "format": wanted or None,
            "files": [
                {"path": f["path"], "checksum": f["checksum"], "size_bytes": f["size_bytes"],
                 "executable": f.get("executable", False), "expires_at": FAR,
                 "url": f"{self.url}/objects/{f['checksum'][7:]}?signature=CANARY"}
                for f in files
            ],
            "entry_point": files[0]["path"] if files and wanted else None,
            "manifest": sorted(
                [f["path"], f["checksum"], *(["x"] if f.get("executable") else [])]
                for f in item["files"]
            ),
            **{n: item[n] for n in ("status", "published_by", "content_digest", "metadata")},
        }  # fmt: skip

    def _upload(self, asked: Asked) -> Any:
        body = asked.json
        ref = Ref(body["playbook_id"], body["version"])
        base = f"s3://escher-tenant-data/tenants/local/playbooks/{ref.playbook_id}/v{ref.version}"
        self._announced[ref] = {file["path"]: file for file in body["files"]}
        return {
            "s3_base_path": base,
            "uploads": [
                {"path": f["path"], "checksum": f["checksum"], "s3_path": f"{base}/{f['path']}",
                 "url": f"{self.url}/objects/{f['checksum'][7:]}?signature=CANARY",
                 "headers": {"Content-Length": str(f["size_bytes"])}, "expires_at": FAR}
                for f in body["files"]
            ],
        }  # fmt: skip

    def _publish(self, asked: Asked) -> Any:
        body = asked.json
        ref = Ref(body["playbook_id"], body["version"])
        told = self._announced.get(ref, {})
        files = [{**told[path], "s3_path": s3} for path, s3 in body["s3_paths"].items()]
        before = self.items.get(ref, {"revision": 0})
        revision = {"revision": before["revision"] + 1}
        self._put(ref, body["metadata"], body["content_digest"], files, revision)
        return {**revision, "status": "pending_review",
                "storage_strategy": "uploaded_for_review", "published_at": 2}  # fmt: skip

    def _delete(self, asked: Asked) -> Any:
        ref = Ref(asked.names["id"], asked.names["version"])
        if ref not in self.items:
            return _problem(404, f"no {ref} here")
        self.remove(ref)
        return {"revision": self.items[ref]["revision"], "deleted": True}

    def _status(self, asked: Asked) -> Any:
        item = self.items[Ref(asked.names["id"], asked.names["version"])]
        item["status"] = asked.json["status"]
        item["revision"] += 1
        return {name: item[name] for name in ("revision", "status", "storage_strategy")}

    def _stats(self, _asked: Asked) -> Any:
        return {}

    def _search(self, _asked: Asked) -> Any:
        return {"results": []}

    def _object_get(self, asked: Asked) -> Any:
        content = self.objects.get("sha256:" + asked.names["digest"])
        return _problem(404, "no such object") if content is None else content

    def _object_put(self, asked: Asked) -> Any:
        self.objects[sha256_bytes(asked.body)] = asked.body
        return {}

    def _part(self, _asked: Asked) -> Any:
        return {}

    def _complete(self, _asked: Asked) -> Any:
        return {}


def point_uploads_at(url: str, headers: Mapping[str, str] | None = None) -> Lie:
    """A lie for ``upload``: every file goes to ``url``, with these headers on top."""

    def lie(honest: Any, _asked: Asked) -> dict[str, Any]:
        uploads = [
            {**target, "url": url, "headers": {**target["headers"], **(headers or {})}}
            for target in honest["uploads"]
        ]
        return {**honest, "uploads": uploads}

    return lie


def point_downloads_at(url: str) -> Lie:
    """A lie for ``script``: every file comes from ``url``."""

    def lie(honest: Any, _asked: Asked) -> dict[str, Any]:
        return {**honest, "files": [{**file, "url": url} for file in honest["files"]]}

    return lie


def _problem(status: int, detail: str) -> Answer:
    body = {"type": "about:blank", "title": "Refused", "status": status, "detail": detail}
    headers = {"Content-Type": "application/problem+json"}
    return Answer(status, json.dumps(body).encode(), headers)


@contextmanager
def running_hostile() -> Iterator[HostileServer]:
    """The server on a loopback port; stopped at the end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                answer = hostile.answer(self.command, self.path, dict(self.headers), body)
            except Exception:
                self.close_connection = True
                raise
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = do_PUT = do_DELETE = do  # noqa: N815  http.server's names

        def log_message(self, *_: object) -> None:
            """Tests look at ``asked``."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exception(), OSError):  # the client left, as some tests have it
                super().handle_error(request, client_address)

    server = Server(("127.0.0.1", 0), Handler)
    hostile = HostileServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hostile
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
