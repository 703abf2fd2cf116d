"""The client against the reference server with faults, and against answers that are wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from core.errors import (
    Conflict,
    EscherError,
    FilesMissing,
    ForbiddenUrl,
    IntegrityError,
    NotEscherServer,
    ServerBusy,
    ServerRejected,
    SettingsError,
)
from core.files import sha256_bytes
from core.models import FileEntry, Ref, Status, Strategy, content_digest
from core.server.answers import UploadTarget
from core.server.client import EscherServer
from core.server.http import Http, Retrier
from core.server.uploads import Uploads
from core.server.url_policy import UrlPolicy
from core.settings import Settings

REF = Ref("stop-idle-rds", "1.0.0")
FILES = {
    "shell/stop.sh": b"echo CANARY-SCRIPT\n",
    "parameters.json": b'{"parameters": []}',
    "python/empty.py": b"",
}
METADATA = {
    "playbook_id": REF.playbook_id,
    "version": REF.version,
    "name": "Stop idle RDS",
    "description": "Stops databases nobody uses.",
    "cloud_provider": ["aws"],
    "storage_strategy": "uploaded_for_review",
    "status": "ready",
    "created_at": 1,
    "updated_at": 1,
}
DIGEST = content_digest(
    METADATA, [FileEntry(path, len(body), sha256_bytes(body)) for path, body in FILES.items()]
)


class Sleeps(list[float]):
    def retrier(self) -> Retrier:
        return Retrier(sleep=self.append, random=lambda: 1.0)


@pytest.fixture
def sleeps() -> Sleeps:
    return Sleeps()


@pytest.fixture
def server(tenant_settings: Settings, sleeps: Sleeps):
    server = EscherServer(tenant_settings, retrier=sleeps.retrier())
    yield server
    server.close()


def publish(server: EscherServer, s3_paths: dict[str, str], **changes):
    arguments = {
        "metadata": METADATA,
        "vector": [0.5] * 384,
        "embedding_model": "m",
        "content_digest": DIGEST,
        "s3_paths": s3_paths,
        "base_revision": None,
        **changes,
    }
    return server.publish(REF, **arguments)


# -- against the reference server ---------------------------------------------------------------
def test_upload_publish_change_delete(server):
    s3_paths = server.upload(REF, FILES)
    assert s3_paths["shell/stop.sh"].endswith("/playbooks/stop-idle-rds/v1.0.0/shell/stop.sh")
    published = publish(server, s3_paths)
    assert (published.revision, published.status) == (1, Status.PENDING_REVIEW)
    assert published.storage_strategy is Strategy.REVIEW
    page = server.change_page()
    assert [change["content_digest"] for change in page.changes] == [DIGEST]
    assert not page.more
    assert server.change_page(page.cursor).changes == []
    script = server.script(REF, "shell")
    assert script.entry_point == "shell/stop.sh"
    server.send_stats(REF, [{"execution_id": "e1", "success": True, "duration_ms": 3, "at": 5}])
    with pytest.raises(Conflict) as caught:
        server.delete(REF, 7)
    assert caught.value.server["revision"] == 1
    server.delete(REF, 1)
    server.delete(REF, 1)
    server.delete(Ref("never-there", "1.0.0"), 1)
    assert server.reachable()
    assert server.reference_stats()["versions"] == 0


def test_bytes_are_sent_once(server):
    server.upload(REF, FILES)
    received = server.reference_stats()["bytes_received"]
    assert received == sum(map(len, FILES.values()))
    server.upload(REF, FILES)
    assert server.reference_stats()["bytes_received"] == received


def test_a_lost_answer_makes_one_revision(server, reference, sleeps):
    s3_paths = server.upload(REF, FILES)
    reference.faults({"action": "lose_answer_after_commit", "path": "publish$"})
    assert publish(server, s3_paths).revision == 1
    assert sleeps == [0.2]
    assert publish(server, s3_paths).revision == 1
    assert server.reference_stats()["revisions"] == 1


@pytest.mark.parametrize(
    ("fault", "slept"),
    [
        ({"action": "reset", "count": 2}, [0.2, 0.4]),
        ({"action": "status", "status": 503, "retry_after": 3}, [3]),
        ({"action": "status", "status": 429, "count": 3}, [0.2, 0.4, 0.8]),
        ({"action": "truncate_body", "at": 1}, [0.2]),
        ({"action": "lose_answer_after_commit"}, [0.2]),
    ],
)
@pytest.mark.parametrize("path", ["/api/playbook/upload$", "/objects/"])
def test_transient_faults_are_overcome_in_place(server, reference, sleeps, fault, slept, path):
    reference.faults({**fault, "path": path})
    s3_paths = server.upload(REF, FILES)
    assert sleeps == slept
    assert publish(server, s3_paths).revision == 1


@pytest.mark.parametrize("fault", [{"action": "corrupt_request"}, {"action": "cut_request"}])
def test_bytes_changed_on_the_way_are_sent_again(server, reference, sleeps, fault):
    reference.faults({**fault, "path": "/objects/", "method": "PUT"})
    assert publish(server, server.upload(REF, FILES)).revision == 1
    assert len(sleeps) == 1


def test_a_busy_server_is_given_up_with_what_it_asked_for(server, reference, sleeps):
    fault = {"action": "status", "status": 503, "retry_after": 120, "count": None}
    reference.faults(fault)
    with pytest.raises(ServerBusy) as caught:
        server.upload(REF, FILES)
    assert sleeps == [10, 10, 10]
    assert caught.value.retry_after == 120
    assert not server.reachable()


def test_an_expired_url_is_asked_for_anew_once(server, reference, sleeps):
    reference.faults({"action": "expire_urls", "path": "/objects/"})
    assert publish(server, server.upload(REF, FILES)).revision == 1
    assert sleeps == []


def test_a_url_that_stays_expired_is_permanent(server, reference):
    reference.faults({"action": "expire_urls", "path": "/objects/", "count": None})
    with pytest.raises(ServerRejected, match="refused a new URL") as caught:
        server.upload(REF, FILES)
    assert "signature" not in str(caught.value)


def test_a_sign_in_page_is_no_escher_server(server, reference, sleeps):
    reference.faults({"action": "html", "count": None})
    with pytest.raises(NotEscherServer, match="server_url") as caught:
        server.upload(REF, FILES)
    assert "/api/playbook/upload" in caught.value.detail
    assert sleeps == []
    with pytest.raises(NotEscherServer):
        server.delete(REF, 1)
    assert not server.reachable()


def test_targets_of_other_content_are_refused(server, reference):
    reference.faults({"action": "wrong_checksum", "path": "upload$"})
    with pytest.raises(NotEscherServer, match="announced files"):
        server.upload(REF, FILES)


def test_a_large_file_goes_in_parts_and_resumes(server, reference):
    content = os.urandom(150_000)  # five parts of 32 KiB
    fault = {"action": "status", "status": 503, "path": "/parts/4", "count": 4}
    reference.faults(fault)
    with pytest.raises(ServerBusy):
        server.upload(REF, {"shell/big.sh": content})
    before = server.reference_stats()["bytes_received"]
    assert before >= 3 * 32768
    server.upload(REF, {"shell/big.sh": content})
    assert server.reference_stats()["bytes_received"] - before == len(content) - 3 * 32768
    assert server.upload(REF, {"shell/big.sh": content})


def test_files_that_have_not_arrived(server):
    announced = server.announce(
        REF, [FileEntry(path, len(body), sha256_bytes(body)) for path, body in FILES.items()]
    )
    with pytest.raises(FilesMissing, match=r"shell/stop\.sh"):
        publish(server, announced.s3_paths)


def test_another_tenant_is_refused_in_the_servers_words(reference, tmp_path):
    _, token = reference.tenant()
    other, _ = reference.tenant()
    settings = Settings(
        home=tmp_path, server_url=reference.url, tenant_id=other, server_token=token
    )
    with pytest.raises(ServerRejected, match="another tenant") as caught:
        EscherServer(settings).change_page()
    assert token not in str(caught.value)


def test_a_reviewer_sets_a_status(reference, server, tenant_settings):
    from escher_server.tenants import ensure_tenant

    publish(server, server.upload(REF, FILES))
    with pytest.raises(ServerRejected, match="reviewer"):
        server.set_status(REF, Status.APPROVED)
    ensure_tenant(reference.data_dir, tenant_settings.tenant_id, "reviewer", "REVIEWER")
    settings = tenant_settings.model_copy(update={"server_token": None})
    settings.server_token = type(tenant_settings.server_token)("REVIEWER")
    approved = EscherServer(settings).set_status(REF, Status.APPROVED)
    assert (approved.revision, approved.storage_strategy) == (2, Strategy.TRUSTED)


# -- against answers that are wrong ---------------------------------------------------------------
@pytest.fixture
def client(scripted, tmp_path: Path, sleeps: Sleeps):
    settings = Settings(home=tmp_path, server_url=scripted.url, server_token="CANARY-TOKEN")
    client = EscherServer(settings, retrier=sleeps.retrier())
    yield client
    client.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"changes": "none"}',
        b'{"changes": [], "cursor": 5, "more": false}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_other_shapes_are_not_the_contracts(client, scripted, body):
    scripted.says(200, body)
    with pytest.raises(NotEscherServer, match="server_url"):
        client.change_page()


def test_a_text_is_no_revision(client, scripted):
    said = {"revision": "1", "status": "approved", "storage_strategy": "trusted_publish"}
    scripted.says(200, json.dumps(said).encode())
    with pytest.raises(NotEscherServer, match="revision"):
        client.set_status(REF, Status.APPROVED)


def test_unknown_members_are_ignored(client, scripted):
    scripted.says(200, b'{"changes": [], "cursor": "c", "more": false, "new": {"in": "2.0"}}')
    assert client.change_page().cursor == "c"


def test_only_a_problem_document_confirms_a_deletion(client, scripted):
    scripted.says(404, b"<html>not found</html>")
    with pytest.raises(NotEscherServer):
        client.delete(REF, 1)
    scripted.says(404, json.dumps({"title": "Not Found", "status": 404}).encode())
    client.delete(REF, 1)
    scripted.says(204)
    client.delete(REF, 1)
    assert scripted.asked[0].headers["If-Match"] == "1"


def test_errors_repeat_neither_token_nor_signature(client, scripted):
    detail = "Bearer CANARY-TOKEN is bad, see https://h/p?X-Amz-Signature=CANARY-SIGNATURE"
    scripted.says(401, json.dumps({"title": "No", "detail": detail}).encode())
    with pytest.raises(ServerRejected, match="server_token") as caught:
        client.change_page()
    assert "CANARY" not in str(caught.value)


def test_content_never_goes_to_plain_http_elsewhere(client, scripted):
    path, body = "shell/stop.sh", FILES["shell/stop.sh"]
    target = {
        "path": path,
        "checksum": sha256_bytes(body),
        "s3_path": "s3://b/p",
        "url": "http://storage.example/x?signature=CANARY",
        "headers": {},
        "expires_at": 1,
    }
    scripted.says(200, json.dumps({"s3_base_path": "s3://b", "uploads": [target]}).encode())
    with pytest.raises(ForbiddenUrl, match="plain http") as caught:
        client.upload(REF, {path: body})
    assert "CANARY" not in str(caught.value)


def transfers(scripted, retrier: Retrier) -> Uploads:
    policy = UrlPolicy(Settings(server_url=scripted.url))
    return Uploads(Http(1, addresses=policy.addresses), retrier, policy)


def put_target(url: str, content: bytes) -> UploadTarget:
    return UploadTarget(
        path="a.sh", checksum=sha256_bytes(content), s3_path="s3://b/a.sh", url=url + "/o?sig=1"
    )


def test_a_pre_signed_url_gets_no_token(scripted):
    scripted.says(200)
    transfers(scripted, Retrier()).put_file(put_target(scripted.url, b"x"), b"x")
    assert "Authorization" not in scripted.asked[0].headers


def test_refused_bytes_that_are_not_the_announced_ones_start_over(scripted, sleeps):
    scripted.says(400)
    with pytest.raises(IntegrityError):
        transfers(scripted, sleeps.retrier()).put_file(put_target(scripted.url, b"x"), b"y")
    assert sleeps == []


def test_a_token_with_a_line_break_is_a_setting_to_mend(scripted, tmp_path):
    settings = Settings(home=tmp_path, server_url=scripted.url, server_token="CANARY\nTOKEN")
    with pytest.raises(SettingsError) as caught:
        EscherServer(settings).change_page()
    assert "CANARY" not in str(caught.value)
    assert scripted.asked == []


def test_errors_survive_a_workers_pickle(client, scripted):
    import pickle

    scripted.says(409, json.dumps({"title": "C", "server": {"revision": 2}}).encode())
    with pytest.raises(EscherError) as caught:
        publish(client, {})
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, Conflict)
    assert again.server == {"revision": 2}
