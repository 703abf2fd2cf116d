from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from support.script_cache import index

from core.errors import IntegrityError, NotEscherServer, NotFound, Refused, ServerUnreachable
from core.files import sha256_bytes
from core.journal import Journal
from core.models import METADATA_FILE, Ref
from core.scripts.library import MAX_METADATA_BYTES, LibraryCache
from core.server.answers import Script, ScriptFile
from core.server.downloads import DownloadCount
from core.settings import Settings

REF = Ref("escher-stop-v2", "1.0.0-v1.2")

DAY = 86_400


class Server:
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

    def download(self, file, target: Path, *, renew):
        assert renew() == file
        target.write_bytes(self.content)
        return DownloadCount(len(self.content), 0)


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def journal(tmp_path):
    opened = Journal(f"sqlite:///{tmp_path / 'journal.db'}")
    yield opened
    opened.close()


class Clock:
    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.time() + self.ahead


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def library(tmp_path, journal, server, clock):
    settings = Settings(_env_file=None, home=tmp_path)
    return LibraryCache(settings, journal, lambda: server, clock=clock)


def keep(library, ref=REF):
    return library.keep(ref)


def test_metadata_is_kept_and_found_offline(library, server, tmp_path):
    assert library.get(REF) is None
    assert keep(library)["name"] == "Stop"
    assert server.asked[0] == (
        "s3://escher-library/playbooks/escher-stop-v2/v1.0.0-v1.2/metadata.json"
    )
    kept = tmp_path / "cache" / "library" / "escher-stop-v2-v1.0.0-v1.2" / METADATA_FILE
    assert kept.read_bytes() == server.content
    server.error = ServerUnreachable("away")
    assert keep(library)["name"] == "Stop"
    assert library.kept() == [REF]
    library.forget([REF])
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
def test_what_is_no_metadata_of_that_version_is_not_kept(library, server, content, error):
    server.content = content
    with pytest.raises(error):
        keep(library)
    assert library.kept() == []


def test_an_answer_about_another_version_is_refused(library, server):
    server.changes = {"version": "9.0.0"}
    with pytest.raises(NotEscherServer):
        keep(library)
    server.changes = {"files": []}
    with pytest.raises(NotFound):
        keep(library)


def test_damaged_metadata_is_fetched_again(library, server, tmp_path):
    keep(library)
    [kept] = (tmp_path / "cache" / "library").rglob(METADATA_FILE)
    kept.write_bytes(server.content[:-5])
    assert library.get(REF) is None
    assert keep(library)["name"] == "Stop"
    assert kept.read_bytes() == server.content


def test_a_script_comes_without_its_metadata_when_that_fails(library, server, caplog):
    server.error = ServerUnreachable("away")
    library.try_keep(REF)
    assert "could not be kept" in caplog.text


def test_what_is_older_than_the_ttl_is_asked_for_again(library, server, clock):
    keep(library)
    asked = len(server.asked)
    server.content = server.content.replace(b"Stop", b"Halt")
    assert keep(library)["name"] == "Stop", "fresh: nobody is asked"
    assert len(server.asked) == asked

    clock.ahead = 8 * DAY
    server.error = ServerUnreachable("away")
    assert keep(library)["name"] == "Stop", "better old than none"
    server.error = None
    assert keep(library)["name"] == "Halt"


def test_what_could_not_be_kept_is_fetched_as_soon_as_it_goes(library, server, journal):
    other = Ref("escher-away", "1.0.0")
    index(journal, REF)
    index(journal, other)
    server.error = ServerUnreachable("away")
    assert library.fetch_missing() == []
    assert len(server.asked) == 1, "who does not answer is not asked again"
    server.error = None
    assert library.fetch_missing() == [REF], "the other one is answered with another's metadata"
    assert library.missing() == [other]
