"""One contract for every object store: the local folder, and S3 as moto plays it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from escher_server.app import create_app
from escher_server.config import S3Objects, ServerConfig, TenantToken
from escher_server.objects import ObjectStore
from escher_server.objects_s3 import S3ObjectStore

CONTENT = b"echo 0123456789\n"
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
VERSION = ("stop", "1.0.0")
Stored = tuple[ObjectStore, httpx.Client]


@pytest.fixture
def s3_config(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Objects]:
    boto3 = pytest.importorskip("boto3", reason="the extra s3 is not installed")
    try:
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        pytest.skip(f"moto[server] is not installed: {error}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        # its buckets are the process', not the server's: an earlier test's objects are still there
        httpx.post(f"http://{host}:{port}/moto-api/reset").raise_for_status()
        config = S3Objects(bucket="escher-tenant-data", endpoint_url=f"http://{host}:{port}")
        client = boto3.client("s3", endpoint_url=config.endpoint_url, region_name=config.region)
        client.create_bucket(Bucket=config.bucket)
        yield config
    finally:
        moto.stop()


@pytest.fixture(params=["local", "s3"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stored]:
    if request.param == "s3":
        with httpx.Client() as http:
            yield S3ObjectStore(request.getfixturevalue("s3_config")), http
        return
    tenants = tuple(TenantToken(tenant_id=name, token=name) for name in ("acme", "other"))
    app = create_app(
        ServerConfig(data_dir=tmp_path, public_url="http://testserver", tokens=tenants)
    )
    with TestClient(app) as http:
        with app.state.services.database.write() as connection:  # a version that has the file
            connection.execute(
                "INSERT INTO versions (tenant_id, playbook_id, version, revision, seq,"
                " content_digest, metadata, files, status, storage_strategy, published_at,"
                " updated_at) VALUES ('acme', ?, ?, 1, 1, '', '{}', ?, '', '', 0, 0)",
                (*VERSION, json.dumps([["shell/a.sh", CHECKSUM, len(CONTENT)]])),
            )
        yield app.state.services.store, http


def soon() -> int:
    return int(time.time()) + 60


def test_put_then_get_the_same_bytes(stored: Stored) -> None:
    store, http = stored
    assert store.size("acme", CHECKSUM) is None
    target = store.put_target("acme", CHECKSUM, len(CONTENT), soon())
    assert http.put(target.url, content=CONTENT, headers=target.headers).status_code == 200
    assert store.size("acme", CHECKSUM) == len(CONTENT)
    answer = http.get(store.get_url("acme", CHECKSUM, soon(), VERSION))
    assert answer.content == CONTENT
    etag = answer.headers["etag"]
    assert etag.startswith('"')  # strong


def test_other_bytes_never_count_as_there(stored: Stored) -> None:
    store, http = stored
    target = store.put_target("acme", CHECKSUM, len(CONTENT), soon())
    # real S3 answers 400 here; moto takes anything, which is what the second line is about
    http.put(target.url, content=CONTENT[::-1], headers=target.headers)
    assert store.size("acme", CHECKSUM) is None


def test_objects_belong_to_one_tenant(stored: Stored) -> None:
    store, http = stored
    target = store.put_target("acme", CHECKSUM, len(CONTENT), soon())
    http.put(target.url, content=CONTENT, headers=target.headers)
    assert store.size("other", CHECKSUM) is None


def test_a_range(stored: Stored, tmp_path: Path) -> None:
    store, http = stored
    source = tmp_path / "assembled"
    source.write_bytes(CONTENT)
    store.adopt("acme", CHECKSUM, source)
    assert not source.exists()
    url = store.get_url("acme", CHECKSUM, soon(), VERSION)
    answer = http.get(url, headers={"Range": "bytes=5-8"})
    assert (answer.status_code, answer.content) == (206, b"0123")


def test_the_pinned_headers_are_part_of_the_signature(s3_config: S3Objects) -> None:
    target = S3ObjectStore(s3_config).put_target("acme", CHECKSUM, len(CONTENT), soon())
    signed = httpx.URL(target.url).params["X-Amz-SignedHeaders"]
    assert {"content-length", "x-amz-checksum-sha256"} <= set(signed.split(";"))


def test_a_server_on_s3_publishes_and_counts(start_server: Any, s3_config: S3Objects) -> None:
    server = start_server(object_store=s3_config)
    files = {"shell/stop.sh": CONTENT}
    target = server.member.announce("stop", "1.0.0", files).json()["uploads"][0]
    body = server.member.publish_body(server.member.metadata("stop", "1.0.0"), files)
    assert server.member.send_publish(body).status_code == 424
    httpx.put(target["url"], content=CONTENT, headers=target["headers"]).raise_for_status()
    assert server.member.send_publish(body).status_code == 200
    assert server.member.stats()["bytes_received"] == len(CONTENT)
    answer = server.member.get("/api/script/download", playbook_id="stop", version="1.0.0")
    assert httpx.get(answer.json()["files"][0]["url"]).content == CONTENT
