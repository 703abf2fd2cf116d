"""What a name stands for is checked before a byte of it is taken."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.hostile_server import HostileServer, running_hostile

from core.errors import IntegrityError, Refused
from core.journal import Journal
from core.models import Ref, ScriptKey
from core.scripts.cache import ScriptCache
from core.scripts.downloads import ScriptDownloads
from core.scripts.library import LibraryCache
from core.server.client import EscherServer
from core.settings import Settings

LIBRARY = ScriptKey(Ref("escher-stop", "1.0.0"), "shell")
TENANT = ScriptKey(Ref("stop", "1.0.0"), "shell")
FILES = {"shell/run.sh": b"echo one\n", "python/tool.py": b"print(1)\n"}
DAY = 86_400


class DownloadsUnderTest:
    def __init__(self, hostile: HostileServer, settings: Settings) -> None:
        self.hostile = hostile
        self.now = 1_800_000_000.0
        self.journal = Journal(settings.effective_journal_url)
        self.server = EscherServer(settings)
        clock = lambda: self.now  # noqa: E731  the clock of both
        self.cache = ScriptCache(settings, self.journal, clock=clock)
        library = LibraryCache(settings, self.journal, lambda: self.server, clock=clock)
        self.downloads = ScriptDownloads(
            settings, self.journal, self.server, self.cache, library, clock=clock
        )

    def fetch(self, key: ScriptKey) -> bytes:
        return (self.downloads.fetch(key).folder / "shell/run.sh").read_bytes()

    def bytes_taken(self) -> int:
        return len(self.hostile.asked_of("object_get"))


@pytest.fixture
def under(tmp_path) -> Iterator[DownloadsUnderTest]:
    with running_hostile() as hostile:
        home = tmp_path / "home"
        home.mkdir()
        under = DownloadsUnderTest(
            hostile, Settings(home=home, server_url=hostile.url, server_token="t")
        )
        for key in (LIBRARY, TENANT):
            hostile.add(key.ref, FILES, status="approved")
        yield under
        under.server.close()
        under.journal.close()


@pytest.mark.parametrize("key", [LIBRARY, TENANT])
def test_the_first_answer_is_pinned(under, key):
    assert under.fetch(key) == b"echo one\n"
    assert under.journal.pins.get(key.ref) == under.hostile.item(key.ref)["content_digest"]


@pytest.mark.parametrize("key", [LIBRARY, TENANT])
@pytest.mark.parametrize(
    "changed",
    [
        {"shell/run.sh": b"evil\n", "python/tool.py": b"print(1)\n"},
        {"shell/run.sh": b"echo one\n", "python/tool.py": b"evil()\n"},
        {"shell/run.sh": b"echo one\n"},
        {"shell/run.sh": b"echo one\n", "python/tool.py": b"print(1)\n", "shell/x.sh": b"x"},
    ],
    ids=["this format", "another format", "a file less", "a file more"],
)
@pytest.mark.parametrize("when", ["after the TTL", "after it was let go"])
def test_other_content_is_not_taken(under, key, changed, when):
    under.fetch(key)
    taken = under.bytes_taken()
    if when == "after the TTL":
        under.now += 8 * DAY
    else:
        under.cache.clear()
        under.now += DAY
        under.cache.clear()
    under.hostile.replace(key.ref, changed, status="approved")
    with pytest.raises(IntegrityError):
        under.fetch(key)
    assert under.bytes_taken() == taken
    [conflict] = under.journal.conflicts.open_ones()
    assert (conflict.ref, conflict.kind) == (key.ref, "immutable")
    assert conflict.server_digest == under.hostile.item(key.ref)["content_digest"]


def test_the_same_content_comes_again(under):
    under.fetch(LIBRARY)
    under.now += 8 * DAY
    assert under.fetch(LIBRARY) == b"echo one\n"
    under.hostile.item(LIBRARY.ref)["metadata"]["status"] = "deprecated"  # no part of the digest
    under.now += 8 * DAY
    assert under.fetch(LIBRARY) == b"echo one\n"


@pytest.mark.parametrize(
    "lie",
    [
        {"content_digest": "sha256:" + "0" * 64},
        {"manifest": []},
        {"manifest": [["shell/run.sh", "sha256:" + "0" * 64]]},
        {"metadata": {"playbook_id": "stop", "version": "1.0.0"}},
    ],
)
def test_an_answer_that_contradicts_itself_is_not_taken(under, lie):
    under.hostile.lie("script", lambda honest, _: {**honest, **lie})
    with pytest.raises(IntegrityError):
        under.fetch(TENANT)
    assert under.bytes_taken() == 0
    assert under.journal.pins.get(TENANT.ref) is None


def forget_manifest(honest, _asked):
    return {**honest, "manifest": None, "metadata": None, "content_digest": None}


def test_a_server_that_tells_no_manifest_any_more_can_not_be_compared(under):
    under.fetch(TENANT)
    under.now += 8 * DAY
    under.hostile.lie("script", forget_manifest)
    with pytest.raises(IntegrityError, match="can't be compared"):
        under.fetch(TENANT)


def test_an_older_server_is_held_to_what_was_cached(under):
    under.hostile.lie("script", forget_manifest)
    assert under.fetch(TENANT) == b"echo one\n"
    assert under.journal.pins.get(TENANT.ref) is None
    under.now += 8 * DAY
    under.hostile.replace(TENANT.ref, {"shell/run.sh": b"evil\n"})
    with pytest.raises(IntegrityError):
        under.fetch(TENANT)


def test_a_version_of_an_id_that_is_private_here_is_not_taken(under):
    from core.journal import VersionRecord
    from core.models import Area

    metadata = {
        "playbook_id": "stop", "version": "0.1.0", "name": "Stop", "cloud_provider": ["aws"],
        "created_at": 1, "updated_at": 1,
    }  # fmt: skip
    ours = VersionRecord(Ref("stop", "0.1.0"), Area.LOCAL, "sha256:x", metadata)
    with under.journal.database.write() as connection:
        under.journal.versions.put([(ours, ())], connection)
    with pytest.raises(Refused, match="private here"):
        under.fetch(TENANT)
    assert under.bytes_taken() == 0
