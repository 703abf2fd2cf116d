from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from support.clock import Clock
from support.rag import metadata
from support.script_cache import index, unindex

from core.errors import EscherError, IntegrityError, NotFound, ServerUnreachable
from core.files import sha256_bytes
from core.journal import Journal
from core.journal.pins import LIBRARY
from core.models import METADATA_FILE, FileEntry, Ref
from core.scripts.library import KEPT_TTLS, MAX_METADATA_BYTES, LibraryCache
from core.server.answers import Script
from core.settings import Settings

REF, OTHER = Ref("escher-stop", "1.0.0"), Ref("escher-start", "2.0.0-rc.1")
DAY = 86_400
KEPT_SECONDS = KEPT_TTLS * 7 * DAY


def offline() -> NoReturn:
    raise AssertionError("nobody is asked")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, home=tmp_path / "home")  # type: ignore[call-arg]


@pytest.fixture
def journal(settings: Settings) -> Iterator[Journal]:
    settings.home.mkdir()
    opened = Journal(settings.effective_journal_url)
    yield opened
    opened.close()


@pytest.fixture
def library(settings: Settings, journal: Journal, clock: Clock) -> LibraryCache:
    return LibraryCache(settings, journal, offline, clock=clock)


@pytest.fixture
def path(settings: Settings) -> Path:
    return settings.cache_path / "library" / "escher-stop-v1.0.0" / METADATA_FILE


Cache = Callable[..., Path]


@pytest.fixture
def cache(settings: Settings, journal: Journal) -> Cache:
    """Put a script into the cache, as far as the library's cache sees it."""

    def put(ref: Ref, content: bytes = b"echo\n", used: float | None = None) -> Path:
        folder = settings.cache_path / "scripts" / f"{ref.playbook_id}-v{ref.version}" / "shell"
        folder.mkdir(parents=True)
        (folder / "run.sh").write_bytes(content)
        if used is not None:
            os.utime(folder, (used, used))
        entry = FileEntry("shell/run.sh", len(content), sha256_bytes(content))
        index(journal, ref, entry)
        return folder

    return put


def content(ref: Ref = REF, **fields: Any) -> bytes:
    return json.dumps(metadata(*ref, **fields)).encode()


def rows(journal: Journal) -> list[Ref]:
    return list(journal.library.get())


def test_what_is_put_is_shown_as_the_librarys(library, journal, path):
    library.put(REF, content(status="deprecated"))
    assert path.read_bytes() == content(status="deprecated"), "as the library has it"
    shown = library.shown(REF)
    assert (shown["author"], shown["storage_strategy"]) == ("escher_library", "using_default")
    assert shown["status"] == "deprecated"
    assert rows(journal) == [REF]
    assert journal.versions.refs() == [], "it is none of the user's"


def test_what_breaks_the_rules_is_kept_and_not_shown(library, journal):
    library.put(REF, content(name="x"))
    assert library.shown(REF) is None
    assert rows(journal) == []
    library.reconcile()
    assert (rows(journal), library.kept(), library.problems()) == ([], [REF], [])
    library.put(REF, content())
    assert rows(journal) == [REF], "it was mended there"


def test_a_strangers_metadata_is_not_taken(library):
    with pytest.raises(IntegrityError):
        library.put(REF, content(OTHER))
    assert library.kept() == []


class TestReconcile:
    def test_the_file_decides_after_a_lost_journal(self, library, journal, settings, clock):
        library.put(REF, content())
        lost = Journal(f"sqlite:///{settings.home / 'new.db'}")
        again = LibraryCache(settings, lost, offline, clock=clock)
        again.reconcile()
        assert rows(lost) == [REF]
        assert again.shown(REF) == library.shown(REF)
        lost.close()

    def test_a_removed_file_takes_its_row_and_its_point(self, library, journal, path):
        library.put(REF, content())
        library.put(OTHER, content(OTHER))
        path.unlink()
        assert [(ref, what) for ref, _, what in library.problems()] == [(REF, "is missing")]
        library.reconcile()
        assert rows(journal) == [OTHER]
        assert journal.stale_points.refs() == [REF]
        assert library.kept() == [OTHER]

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: path.write_bytes(path.read_bytes().replace(b"escher stop", b"EVIL")),
            lambda path: path.write_bytes(b"{"),
            lambda path: (path.rename(path.with_name("x")), path.symlink_to("x")),
            lambda path: (path.unlink(), path.mkdir()),
        ],
    )
    def test_other_bytes_are_not_trusted(self, library, journal, path, damage):
        library.put(REF, content())
        damage(path)
        assert library.shown(REF) is None
        assert [ref for ref, *_ in library.problems()] == [REF]
        library.reconcile()
        assert (rows(journal), library.kept(), library.problems()) == ([], [], [])

    def test_only_the_librarys_ids_are_looked_at(self, library, journal, settings):
        folder = settings.cache_path / "library" / "mine-v1.0.0"
        folder.mkdir(parents=True)
        (folder / METADATA_FILE).write_bytes(content(Ref("mine", "1.0.0")))
        library.reconcile()
        assert rows(journal) == []


class TestExpire:
    def test_unused_for_long_it_goes(self, library, journal, clock):
        library.put(REF, content())
        clock.now += KEPT_SECONDS - 60
        assert library.expire() == []
        clock.now += 120
        assert library.expire() == [REF]
        assert (rows(journal), library.kept()) == ([], [])
        assert journal.stale_points.refs() == [REF]
        assert library.expire() == []

    def test_never_while_a_script_of_it_is_cached(self, library, cache, clock):
        library.put(REF, content())
        cache(REF)
        clock.now += 10 * KEPT_SECONDS
        assert library.expire() == []
        assert library.expire(clear=True) == []

    def test_it_counts_from_the_last_use_of_its_scripts(self, library, journal, cache, clock):
        library.put(REF, content())
        began = clock.now
        cache(REF, used=began + 5 * DAY)
        clock.now = began + 6 * DAY
        library.note_use()
        unindex(journal, REF)
        clock.now = began + KEPT_SECONDS + 4 * DAY
        assert library.expire() == []
        clock.now = began + KEPT_SECONDS + 6 * DAY
        assert library.expire() == [REF]

    def test_clearing_leaves_what_is_just_being_fetched(self, library, clock, settings):
        library.put(REF, content())
        assert library.expire(clear=True) == [], "its script may be on its way"
        clock.now += settings.cache_lease_seconds + 60
        assert library.expire(clear=True) == [REF]

    def test_a_use_to_come_keeps_nothing_for_ever(self, library, journal, clock):
        library.put(REF, content())
        journal.library.note_use({REF: clock.now + 1000 * DAY})
        assert library.expire() == [REF]


def test_scripts_are_proven_and_the_large_ones_only_named(library, journal, cache):
    library.put(REF, content())
    folder = cache(REF, b"echo stop\n")
    cache(OTHER, b"echo start\n")

    def scripts(max_bytes: int) -> list[tuple[str, bytes | None]]:
        return [(file.path, found) for file, found in library.read(REF, max_bytes)[1]]

    assert scripts(100) == [("shell/run.sh", b"echo stop\n")]
    (folder / "run.sh").write_bytes(b"echo stOp\n")
    assert scripts(100) == []
    assert scripts(5) == [("shell/run.sh", None)]


def test_metadata_that_is_gone_is_forgotten_when_it_is_read(library, journal, path):
    library.put(REF, content())
    path.unlink()
    with pytest.raises(NotFound):
        library.read(REF, 100)
    assert (rows(journal), journal.stale_points.refs()) == ([], [REF])


class Server:
    """The library's side: tells the metadata that it was given."""

    def __init__(self) -> None:
        self.error: EscherError | None = None
        self.asked: list[Ref] = []
        self.changes: dict[str, Any] = {}

    def script(self, ref: Ref) -> Script:
        self.asked.append(ref)
        if self.error is not None:
            raise self.error
        return script(ref, **self.changes)


def script(ref: Ref = REF, **changes: Any) -> Script:
    said = {"playbook_id": ref[0], "version": ref[1], "files": [], "manifest": []}
    return Script(**{**said, "metadata": metadata(*ref), **changes})


class TestFromTheServer:
    @pytest.fixture
    def server(self) -> Server:
        return Server()

    @pytest.fixture
    def library(self, settings, journal, clock, server) -> LibraryCache:
        return LibraryCache(settings, journal, lambda: server, clock=clock)

    def test_what_is_told_with_a_script_is_kept_and_found_offline(self, library, server, path):
        library.take(REF, script())
        assert json.loads(path.read_bytes()) == metadata(*REF)
        assert library.shown(REF)["name"] == metadata(*REF)["name"]
        assert server.asked == []

    def test_the_latest_is_kept_and_mends_what_was_damaged(self, library, path):
        library.take(REF, script())
        path.write_bytes(path.read_bytes()[:-5])
        assert library.shown(REF) is None
        library.take(REF, script(metadata=metadata(*REF, name="Halt")))
        assert library.shown(REF)["name"] == "Halt"

    def test_it_counts_as_a_use(self, library, clock):
        library.take(REF, script())
        clock.now += KEPT_SECONDS - 60
        library.take(REF, script())
        clock.now += 120
        assert library.expire() == []

    @pytest.mark.parametrize(
        "told",
        [
            None,
            {},
            metadata(REF[0], "1.0.1"),
            metadata(*REF, note="\ud800"),
            metadata(*REF, note="x" * MAX_METADATA_BYTES),
        ],
        ids=["older server", "empty", "other version", "no Unicode", "too large"],
    )
    def test_what_is_no_metadata_of_that_version_is_not_kept(self, library, told, caplog):
        library.take(REF, script(metadata=told))
        assert library.kept() == []
        assert "could not be kept" in caplog.text

    def test_what_is_missing_is_asked_for_as_soon_as_it_goes(self, library, server, cache):
        cache(REF)
        cache(OTHER)
        server.error = ServerUnreachable("away")
        assert library.fetch_missing() == []
        assert len(server.asked) == 1, "who does not answer is not asked again"
        server.error = None
        assert library.fetch_missing() == [OTHER, REF]
        assert library.missing() == []

    @pytest.mark.parametrize("changes", [{"metadata": metadata(*OTHER)}, {"metadata": None}])
    def test_an_answer_about_something_else_is_not_kept(
        self, library, server, cache, journal, changes
    ):
        cache(REF)
        server.changes = changes
        assert library.fetch_missing() == []
        assert (library.kept(), library.missing()) == ([], [REF])

    def test_other_content_than_the_name_stands_for_is_not_kept(
        self, library, server, cache, journal
    ):
        cache(REF)
        journal.pins.put([(REF, "sha256:" + "0" * 64)], LIBRARY)
        assert library.fetch_missing() == []
        assert library.kept() == []
        assert journal.conflicts.open_refs() == {REF}
