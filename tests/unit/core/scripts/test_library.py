from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.errors import IntegrityError, NotEscherServer, NotFound, Refused, ServerUnreachable
from core.files import sha256_bytes
from core.models import METADATA_FILE, Ref
from core.scripts.library import MAX_METADATA_BYTES, Library
from core.server.answers import Script, ScriptFile
from core.server.downloads import DownloadCount
from core.settings import Settings

REF = Ref("escher-stop-v2", "1.0.0-v1.2")


class Shelf:
    """The library's side: answers with what it was given."""

    def __init__(self):
        self.content = json.dumps(
            {"playbook_id": REF[0], "version": REF[1], "name": "Stop"}
        ).encode()
        self.asked = []
        self.error = None
        self.changes = {}

    def script(self, *, s3_path):
        self.asked.append(s3_path)
        if self.error is not None:
            raise self.error
        file = ScriptFile(
            path=METADATA_FILE, url="https://x/", checksum=sha256_bytes(self.content),
            size_bytes=len(self.content), expires_at=1,
        )  # fmt: skip
        said = {"playbook_id": REF[0], "version": REF[1], "files": [file], **self.changes}
        return Script(**said)

    def download(self, file, target: Path, *, renew, on_bytes):
        assert renew() == file
        on_bytes(len(self.content))
        target.write_bytes(self.content)
        return DownloadCount(len(self.content), 0)


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def library(tmp_path, shelf):
    return Library(Settings(_env_file=None, home=tmp_path), shelf)


def keep(library, ref=REF):
    return library.keep(ref, lambda _: None)


def test_metadata_is_kept_and_found_offline(library, shelf, tmp_path):
    assert library.get(REF) is None
    assert keep(library)["name"] == "Stop"
    assert shelf.asked[0] == (
        "s3://escher-library/playbooks/escher-stop-v2/v1.0.0-v1.2/metadata.json"
    )
    kept = tmp_path / "cache" / "library" / "escher-stop-v2-v1.0.0-v1.2" / METADATA_FILE
    assert kept.read_bytes() == shelf.content
    shelf.error = ServerUnreachable("away")
    assert keep(library)["name"] == "Stop"
    assert library.kept() == [REF]
    library.forget(REF)
    assert library.kept() == []


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"[]", IntegrityError),
        (b"\xff", IntegrityError),
        (b"{}", IntegrityError),
        (b'{"playbook_id": "escher-stop-v2", "version": "1.0.1"}', IntegrityError),
        (b"[" * 100_000, IntegrityError),
        (b" " * (MAX_METADATA_BYTES + 1), Refused),
    ],
)
def test_what_is_no_metadata_of_that_version_is_not_kept(library, shelf, content, error):
    shelf.content = content
    with pytest.raises(error):
        keep(library)
    assert library.kept() == []


def test_an_answer_about_another_version_is_refused(library, shelf):
    shelf.changes = {"version": "9.0.0"}
    with pytest.raises(NotEscherServer):
        keep(library)
    shelf.changes = {"files": []}
    with pytest.raises(NotFound):
        keep(library)


def test_damaged_metadata_is_fetched_again(library, shelf, tmp_path):
    keep(library)
    [kept] = (tmp_path / "cache" / "library").rglob(METADATA_FILE)
    kept.write_bytes(shelf.content[:-5])
    assert library.get(REF) is None
    assert keep(library)["name"] == "Stop"
    assert kept.read_bytes() == shelf.content


def test_a_script_comes_without_its_metadata_when_that_fails(library, shelf, caplog):
    shelf.error = ServerUnreachable("away")
    library.try_keep(REF)
    assert "could not be kept" in caplog.text
