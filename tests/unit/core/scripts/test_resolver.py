"""Which bytes answer a resolve: disk, cache or server, and never a wrong one."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.playbooks import draft

from core.encryption import Envelope, MasterKey
from core.errors import (
    CacheFull,
    EscherError,
    IntegrityError,
    NotFound,
    NotRunnable,
    Refused,
    ServerRejected,
    ServerUnreachable,
    StateBesideContent,
    StorageError,
    UsageError,
    WrongKey,
)
from core.files import sha256_bytes
from core.journal import Journal
from core.journal.script_lookup import ScriptRows, ToldStatus
from core.models import Area, FileEntry, Move, Ref, ScriptKey
from core.playbooks.store import PlaybookStore
from core.scripts.clear_text import ClearText
from core.scripts.copies import Copies
from core.scripts.integrity import Proofs
from core.scripts.layout import CacheLayout
from core.scripts.models import CacheHit, Listing, Overrides, ResolveOptions, Source
from core.scripts.remote_resolver import RemoteResolver
from core.scripts.resolver import ScriptResolver
from core.settings import Settings

ID = "stop-idle-databases"
OFFLINE = ServerUnreachable("The server does not answer.", "Try later.")
MODULE = {
    "terraform/main.tf": b"module {}\n",
    "terraform/modules/net/vars.tf": b"variable {}\n",
    "shell/a.sh": b"#!/bin/sh\necho a\n",
    "shell/b.sh": b"#!/bin/sh\necho b\n",
}


UNREVIEWED = ResolveOptions(Overrides(unreviewed=True))
ELSEWHERE = ScriptKey(Ref("elsewhere", "1.0.0"), "shell")
SCRIPT = {"shell/x.sh": b"echo x\n"}


def _listing(key: ScriptKey, files: dict[str, bytes]) -> Listing:
    entries = [FileEntry(path, len(body), sha256_bytes(body)) for path, body in files.items()]
    return Listing(key, tuple(sorted(entries, key=lambda file: file.path)), min(files))


class FakeCache:
    """What the cache holds, by key."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.held: dict[ScriptKey, CacheHit] = {}
        self.hits = self.misses = 0

    def put(self, key: ScriptKey, files: dict[str, bytes], *, fresh: bool = True) -> CacheHit:
        folder = self.root / f"{key.ref.playbook_id}-v{key.ref.version}"
        self.held[key] = CacheHit(_listing(key, files), folder, "tenant", 1.0, fresh)
        return self.held[key]

    def find(self, key: ScriptKey) -> CacheHit | None:
        return self.held.get(key)

    def cached_versions(self, playbook_id: str, format_: str) -> list[str]:
        return [
            key.ref.version
            for key in self.held
            if (key.ref.playbook_id, key.format) == (playbook_id, format_)
        ]

    def hit(self) -> None:
        self.hits += 1

    def miss(self) -> None:
        self.misses += 1


class FakeDownloads:
    """A server that has what it is given, or fails with ``error``."""

    def __init__(self, cache: FakeCache, rows: ScriptRows) -> None:
        self.cache = cache
        self.rows = rows
        self.status: dict[Ref, str | None] = {}  # "approved" where nothing is said
        self.told: list[Ref] = []
        self.error: EscherError | None = None
        self.has: dict[ScriptKey, dict[str, bytes]] = {}
        self.asked: list[tuple[ScriptKey, tuple[FileEntry, ...] | None]] = []

    def fetch(self, key: ScriptKey, expected: tuple[FileEntry, ...] | None) -> CacheHit:
        self.asked.append((key, expected))
        if self.error is not None:
            raise self.error
        if key not in self.has:
            raise NotFound(f"The server has no {key}.")
        return self.cache.put(key, self.has[key])

    def latest(self, playbook_id: str, format_: str | None) -> tuple[Ref, ToldStatus]:
        if self.error is not None:
            raise self.error
        versions = [key.ref for key in self.has if key.ref.playbook_id == playbook_id]
        if not versions:
            raise NotFound(f"The server has no {playbook_id}.")
        ref = max(versions)
        return ref, self.tell(ref, format_)

    def tell(self, ref: Ref, format_: str | None) -> ToldStatus:
        self.told.append(ref)
        if self.error is not None:
            raise self.error
        if not any(key.ref == ref for key in self.has):
            raise NotFound(f"The server has no {ref}.")
        told = ToldStatus(self.status.get(ref, "approved"), None, "mia", None, 77)
        self.rows.note_told({ref: told})
        return told


class Bench:
    """A resolver over a real store and journal, with a cache and a server of the test's making."""

    def __init__(self, home: Path, **settings: Any) -> None:
        home.mkdir(mode=0o700, exist_ok=True)
        self.settings = Settings(home=home, **settings)
        self.journal = Journal(self.settings.effective_journal_url)
        self.store = PlaybookStore(self.settings, self.journal, Envelope(MasterKey(b"k" * 32)))
        self.cache = FakeCache(home / "cache" / "scripts")
        self.downloads = FakeDownloads(self.cache, self.journal.script_rows)
        self.clear = ClearText(self.settings)
        self.edits: list[Ref] = []
        self.on_edit: Callable[[Ref], bool] = lambda ref: False
        proofs = Proofs(self.journal.proofs)
        copies = Copies(
            self.settings,
            self.journal,
            CacheLayout(self.settings, self.journal),
            proofs,
            make_room=lambda *_: None,
        )
        remote = RemoteResolver(
            self.settings,
            self.journal.script_rows,
            cache=self.cache,
            downloads=self.downloads,
            copies=copies,
        )
        self.resolver = ScriptResolver(
            self.settings,
            self.journal.script_rows,
            proofs,
            remote=lambda: remote,
            stored=self.store,
            place=self.store.layout.place,
            clear=self.clear,
            copies=copies,
            take_edit=self._take_edit,
        )

    def _take_edit(self, ref: Ref) -> bool:
        self.edits.append(ref)
        return self.on_edit(ref)

    def cached(
        self, key: ScriptKey, files: dict[str, bytes], *, fresh: bool = True, status="approved"
    ) -> CacheHit:
        """An entry of a version that the server told the status of when it was fetched."""
        self.journal.script_rows.note_told({key.ref: ToldStatus(status, None, "mia", None, 55)})
        return self.cache.put(key, files, fresh=fresh)

    def create(self, version: str = "1.0.0", **options: Any) -> Ref:
        return self.store.create(draft(**options), version=version, check_scripts=False).ref

    def publish(self, ref: Ref, *, settled: bool = True) -> Path:
        """As the publisher leaves it; the version's folder."""
        self.journal.versions.set(ref, revision=1, published_digest="sha256:" + "0" * 64)
        if settled:
            self.store.move([Move(ref, Area.SYNCED, {"storage_strategy": "uploaded_for_review"})])
        return self.store.folder(ref)

    def key(self, ref: Ref, format_: str = "shell") -> ScriptKey:
        return ScriptKey(ref, format_)

    def close(self) -> None:
        self.clear.remove_all()
        self.journal.close()


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(Bench(tmp_path / "home", **settings))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make_bench) -> Bench:
    return make_bench()


SPOILERS: dict[str, Callable[[Path], object]] = {
    "another byte": lambda folder: (folder / "shell/a.sh").write_bytes(b"#!/bin/sh\necho A\n"),
    "a longer file": lambda folder: (folder / "shell/a.sh").write_bytes(b"x" * 500),
    "a file less": lambda folder: (folder / "shell/b.sh").unlink(),
    "a file more": lambda folder: (folder / "shell/c.sh").write_bytes(b""),
    "a link": lambda folder: (folder / "shell/c.sh").symlink_to("a.sh"),
    "a link in place": lambda folder: _relink(folder / "shell/a.sh"),
    "a folder away": lambda folder: (folder / "shell").rename(folder / "was-shell"),
    "all away": lambda folder: folder.rename(folder.with_name("was")),
}


def _relink(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


class TestFromDisk:
    def test_local_and_then_synced(self, bench):
        ref = bench.create(files=MODULE)
        found = bench.resolver.resolve(ID, "terraform")
        assert (found.source, found.ref, found.stale) == (Source.LOCAL, ref, False)
        assert found.path == bench.store.folder(ref) / "terraform/main.tf"
        assert [file.path for file in found.listing.files] == [
            "terraform/main.tf", "terraform/modules/net/vars.tf",
        ]  # fmt: skip
        entry = found.listing.entry
        assert (entry.checksum, entry.size_bytes) == (sha256_bytes(b"module {}\n"), 10)
        folder = bench.publish(ref)
        found = bench.resolver.resolve(str(ref), "terraform")
        assert (found.source, found.folder) == (Source.SYNCED, folder)
        assert bench.downloads.asked == []

    def test_what_an_ai_wrote_is_local(self, bench):
        bench.create(author="ai_generated")
        with pytest.raises(NotRunnable, match="waits for a decision"):
            bench.resolver.resolve(ID, "shell")
        found = bench.resolver.resolve(ID, "shell", UNREVIEWED)
        assert found.source is Source.LOCAL
        assert "ai-generated" in found.path.parts

    def test_the_entry_script_is_the_named_one(self, bench):
        bench.create(files=MODULE, entry_points={"shell": "b.sh"})
        assert bench.resolver.resolve(ID, "shell").path.name == "b.sh"

    def test_the_latest_is_by_precedence(self, bench):
        for version in ("1.9.0", "1.10.0"):
            bench.create(version)
        for target in (ID, f"{ID}@latest"):
            assert bench.resolver.resolve(target, "shell").ref.version == "1.10.0"
        assert bench.resolver.resolve(f"{ID}@1.9.0", "shell").ref.version == "1.9.0"

    def test_on_its_way_from_local_to_synced(self, bench):
        """The folder was renamed, the journal does not say so yet."""
        ref = bench.create()
        bench.publish(ref, settled=False)
        target = bench.store.layout.folder(Area.SYNCED, ref)
        target.parent.mkdir(parents=True)
        bench.store.folder(ref).rename(target)
        found = bench.resolver.resolve(ID, "shell")
        assert (found.source, found.folder) == (Source.SYNCED, target)

    def test_wrong_requests(self, bench):
        bench.create()
        with pytest.raises(NotFound, match="no python script"):
            bench.resolver.resolve(ID, "python")
        for target, format_ in ((ID, "bash"), ("No/ID", "shell"), (f"{ID}@1", "shell")):
            with pytest.raises(UsageError):
                bench.resolver.resolve(target, format_)
        assert bench.downloads.asked == []


class TestWhoMayBeRun:
    """The decision at the point of use; the table itself is in ``test_run_policy``."""

    def settle(self, bench, ref: Ref, status: str, *, made_here: bool = False) -> Ref:
        """As a version of this tenant stands here after a sync."""
        bench.publish(ref)
        strategy = "uploaded_trusted" if status == "approved" else "uploaded_for_review"
        bench.store.move([Move(ref, Area.SYNCED, {"status": status, "storage_strategy": strategy})])
        bench.journal.versions.set(ref, made_here=made_here, published_by="mia", status_at=77)
        return ref

    @pytest.mark.parametrize("status", ["pending_review", "rejected", "broken", "draft"])
    def test_what_nobody_approved_does_not_beat_the_approved(self, bench, status):
        self.settle(bench, bench.create("1.0.0"), "approved")
        newer = self.settle(bench, bench.create("1.0.1"), status)
        for target in (ID, f"{ID}@latest"):
            found = bench.resolver.resolve(target, "shell")
            assert found.ref.version == "1.0.0"
            assert f"{newer} was passed over" in found.info.warnings[0]
        with pytest.raises(NotRunnable):
            bench.resolver.resolve(str(newer), "shell")
        if status in {"pending_review", "draft"}:
            found = bench.resolver.resolve(str(newer), "shell", UNREVIEWED)
            assert found.ref == newer
            assert "run all the same" in found.info.warnings[0]
        else:
            with pytest.raises(NotRunnable):
                bench.resolver.resolve(str(newer), "shell", UNREVIEWED)

    def test_the_answer_says_what_it_is_of(self, bench):
        ref = self.settle(bench, bench.create(), "approved")
        body = bench.resolver.resolve(ID, "shell").as_json()
        assert {name: body[name] for name in (
            "version", "status", "status_as_of", "made_here", "publisher", "signature", "warnings",
        )} == {
            "version": ref.version, "status": "approved", "status_as_of": 77, "made_here": False,
            "publisher": "mia", "signature": "unsigned", "warnings": [],
        }  # fmt: skip
        mine = bench.create("1.1.0-rc.1", files={"python/a.py": b"1\n"})
        body = bench.resolver.resolve(str(mine), "python").as_json()
        assert (body["status"], body["made_here"], body["publisher"]) == ("ready", True, None)
        assert "nobody reviewed it" in body["warnings"][0]

    def test_a_verdict_counts_at_the_very_next_resolve(self, bench):
        ref = self.settle(bench, bench.create(), "approved")
        assert bench.resolver.resolve(ID, "shell").ref == ref
        bench.store.set_metadata(ref, {"status": "rejected"})
        for target in (ID, str(ref)):
            with pytest.raises(NotRunnable, match="rejected"):
                bench.resolver.resolve(target, "shell")

    def test_a_private_id_is_never_the_servers(self, bench):
        """The server's 99.0.0 of that name is not even asked for."""
        mine = bench.create()
        theirs = ScriptKey(Ref(ID, "99.0.0"), "shell")
        bench.downloads.has[theirs] = {"shell/main.sh": b"rm -rf /\n"}
        bench.cached(theirs, {"shell/main.sh": b"rm -rf /\n"})
        assert bench.resolver.resolve(ID, "shell").ref == mine
        with pytest.raises(NotFound, match="private here"):
            bench.resolver.resolve(str(theirs.ref), "shell", UNREVIEWED)
        assert (bench.downloads.asked, bench.downloads.told) == ([], [])
        bench.publish(mine)
        assert bench.resolver.resolve(str(theirs.ref), "shell").ref == theirs.ref

    def test_of_an_open_conflict_this_machines_side_runs_with_a_warning(self, bench):
        ref = bench.create()
        bench.journal.conflicts.open(ref, "open_conflict", "they differ")
        found = bench.resolver.resolve(ID, "shell")
        assert found.source is Source.LOCAL
        assert any("the server says otherwise" in warning for warning in found.info.warnings)

    @pytest.mark.parametrize("status", [None, "pending_review", "needs_update", "deprecated"])
    def test_what_only_the_server_knows_is_unreviewed_unless_it_says_so(self, bench, status):
        bench.downloads.has[ELSEWHERE] = SCRIPT
        bench.downloads.status[ELSEWHERE.ref] = status
        for target in ("elsewhere", "elsewhere@1.0.0"):
            with pytest.raises(NotRunnable):
                bench.resolver.resolve(target, "shell")
        assert bench.downloads.asked == [], "not a byte was taken"
        both = ResolveOptions(Overrides(unreviewed=True, deprecated=True))
        found = bench.resolver.resolve("elsewhere@1.0.0", "shell", both)
        assert (found.source, found.info.status) == (Source.DOWNLOAD, status)
        assert found.info.publisher == "mia"

    def test_offline_the_status_is_what_was_known_then(self, bench):
        bench.cached(ELSEWHERE, SCRIPT)
        rejected = ScriptKey(Ref("elsewhere", "1.1.0"), "shell")
        bench.cached(rejected, SCRIPT, status="rejected")
        bench.downloads.error = OFFLINE
        found = bench.resolver.resolve("elsewhere", "shell")
        assert (found.ref, found.info.status_as_of) == (ELSEWHERE.ref, 55)
        with pytest.raises(NotRunnable, match="rejected"):
            bench.resolver.resolve(str(rejected.ref), "shell")

    def test_an_approval_since_then_is_asked_for(self, bench):
        bench.cached(ELSEWHERE, SCRIPT, status="pending_review")
        bench.downloads.has[ELSEWHERE] = SCRIPT
        found = bench.resolver.resolve("elsewhere@1.0.0", "shell")
        assert (found.source, found.info.status) == (Source.CACHE, "approved")
        assert len(bench.downloads.told) == 1
        bench.resolver.resolve("elsewhere@1.0.0", "shell")
        assert len(bench.downloads.told) == 1, "from then on it is known"

    def test_the_escher_librarys_are_reviewed(self, bench):
        key = ScriptKey(Ref("escher-stop-rds", "1.0.0"), "shell")
        bench.downloads.has[key] = SCRIPT
        bench.downloads.status[key.ref] = None
        found = bench.resolver.resolve(key.ref.playbook_id, "shell")
        assert (found.info.status, found.info.warnings) == ("approved", ())
        bench.downloads.status[key.ref] = "deprecated"
        with pytest.raises(NotRunnable):
            bench.resolver.resolve(key.ref.playbook_id, "shell")
        bench.journal.script_rows.note_told({key.ref: ToldStatus("archived", None, None, None, 9)})
        bench.downloads.status[key.ref] = "archived"
        with pytest.raises(NotRunnable):
            bench.resolver.resolve(str(key.ref), "shell")

    @pytest.mark.parametrize("policy", ["approved", "own", "any"])
    def test_the_policy_is_that_of_the_process_that_resolves(self, make_bench, policy):
        bench = make_bench(run_policy=policy)
        bench.create()
        if policy == "approved":
            with pytest.raises(NotRunnable, match="run_policy = approved"):
                bench.resolver.resolve(ID, "shell", UNREVIEWED)
        else:
            assert bench.resolver.resolve(ID, "shell").source is Source.LOCAL


class TestChangedOnDisk:
    @pytest.mark.parametrize("what", SPOILERS)
    def test_unpublished_is_an_edit(self, bench, what):
        ref = bench.create(files=MODULE)
        SPOILERS[what](bench.store.folder(ref))
        with pytest.raises(IntegrityError, match=f"{ref} was changed on disk") as caught:
            bench.resolver.resolve(ID, "shell")
        assert "next sync" in caught.value.remedy
        assert bench.edits == [ref]
        assert bench.downloads.asked == []
        if what != "all away":
            assert bench.resolver.resolve(ID, "terraform").source is Source.LOCAL

    def test_unpublished_answers_once_the_edit_is_taken(self, bench):
        ref = bench.create()
        script = bench.store.folder(ref) / "shell/main.sh"
        script.write_bytes(b"echo edited\n")

        def take(ref: Ref) -> bool:
            edited = bench.store.edited_draft(ref)
            bench.store.update(ref.playbook_id, edited, check_scripts=False)
            return True

        bench.on_edit = take
        found = bench.resolver.resolve(ID, "shell")
        assert found.listing.entry.checksum == sha256_bytes(b"echo edited\n")
        assert found.path.read_bytes() == b"echo edited\n"

    @pytest.mark.parametrize("what", SPOILERS)
    def test_published_is_answered_by_the_cache(self, bench, what):
        ref = bench.create(files=MODULE)
        folder = bench.publish(ref)
        shell = {path: body for path, body in MODULE.items() if path.startswith("shell/")}
        hit = bench.cache.put(bench.key(ref), shell)
        SPOILERS[what](folder)
        found = bench.resolver.resolve(ID, "shell")
        assert (found.source, found.folder) == (Source.CACHE, hit.folder)
        assert (bench.cache.hits, bench.cache.misses) == (1, 0)
        assert bench.edits == [], "the next sync takes it"

    def test_published_and_not_cached_is_fetched_as_it_was_published(self, bench):
        ref = bench.create()
        folder = bench.publish(ref)
        script = (folder / "shell/main.sh").read_bytes()
        (folder / "shell/main.sh").unlink()
        bench.downloads.has[bench.key(ref)] = {"shell/main.sh": script}
        found = bench.resolver.resolve(ID, "shell")
        assert found.source is Source.DOWNLOAD
        entry = FileEntry("shell/main.sh", len(script), sha256_bytes(script))
        assert bench.downloads.asked == [(bench.key(ref), (entry,))]
        assert (bench.cache.hits, bench.cache.misses) == (0, 1)

    def test_published_and_neither_to_be_had_says_both(self, bench):
        ref = bench.create()
        (bench.publish(ref) / "shell/main.sh").write_bytes(b"echo edited\n")
        bench.downloads.error = OFFLINE
        with pytest.raises(ServerUnreachable) as caught:
            bench.resolver.resolve(ID, "shell")
        assert "changed on disk" in caught.value.detail
        assert "does not answer" in caught.value.detail
        assert caught.value.remedy == "Try later."

    def test_another_content_of_that_name_is_no_answer(self, bench):
        ref = bench.create()
        folder = bench.publish(ref)
        script = (folder / "shell/main.sh").read_bytes()
        (folder / "shell/main.sh").unlink()
        bench.cache.put(bench.key(ref), {"shell/main.sh": b"of an earlier life"})
        bench.downloads.has[bench.key(ref)] = {"shell/main.sh": script}
        found = bench.resolver.resolve(ID, "shell")
        assert (found.source, found.listing.entry.size_bytes) == (Source.DOWNLOAD, len(script))
        bench.cache.held.clear()
        bench.downloads.has[bench.key(ref)] = {"shell/main.sh": b"something else"}
        with pytest.raises(IntegrityError, match="other files"):
            bench.resolver.resolve(ID, "shell")

    def test_in_a_home_that_cant_be_written(self, bench, monkeypatch):
        ref = bench.create()
        (bench.store.folder(ref) / "shell/main.sh").write_bytes(b"echo edited\n")

        def refuse(self) -> None:
            raise StorageError("read-only")

        monkeypatch.setattr(PlaybookStore, "locked", refuse)
        with pytest.raises(IntegrityError, match="changed on disk"):
            bench.resolver.resolve(ID, "shell")


def _all(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


TERRAFORM = {path: body for path, body in MODULE.items() if path.startswith("terraform/")}
LEFT = {
    "a tool's folder": {".terraform/providers/x": b"binary", ".terraform/terraform.tfstate": b"{}"},
    "compiled Python": {"modules/__pycache__/vars.cpython-311.pyc": b"\0"},
    "a plan and a crash": {"out.tfplan": b"\0", "crash.2026.log": b"panic"},
    "an editor's": {".main.tf.swp": b"vim", "main.tf~": b"old"},
}


class TestExactlyTheContent:
    """What is handed out is what is listed, whatever was left beside it."""

    @pytest.mark.parametrize("published", [False, True], ids=["unpublished", "published"])
    @pytest.mark.parametrize("what", LEFT)
    def test_what_tools_left_is_not_handed_out(self, bench, what, published):
        ref = bench.create(files=MODULE)
        folder = bench.publish(ref) if published else bench.store.folder(ref)
        assert bench.resolver.resolve(ID, "terraform").folder == folder
        for path, content in LEFT[what].items():
            target = folder / "terraform" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        found = bench.resolver.resolve(ID, "terraform")
        assert (found.is_copy, found.source) == (
            True, Source.SYNCED if published else Source.LOCAL,
        )  # fmt: skip
        assert _all(found.folder) == TERRAFORM
        assert bench.resolver.resolve(ID, "terraform").folder == found.folder
        assert (bench.downloads.asked, bench.edits) == ([], [])
        assert all((folder / "terraform" / path).exists() for path in LEFT[what])

    @pytest.mark.parametrize(
        "name", ["terraform.tfstate", "terraform.tfstate.backup", "modules/net/prod.tfstate",
                 ".terraform.tfstate.lock.info"],
    )  # fmt: skip
    def test_the_state_of_a_run_is_said(self, bench, name):
        ref = bench.create(files=MODULE)
        state = bench.store.folder(ref) / "terraform" / name
        state.write_bytes(b'{"serial": 1}')
        with pytest.raises(StateBesideContent, match=state.name) as caught:
            bench.resolver.resolve(ID, "terraform")
        assert (caught.value.exit_code, caught.value.type) == (5, "state-beside-content")
        assert "backend" in caught.value.remedy
        found = bench.resolver.resolve(ID, "terraform", ResolveOptions(ignore_state=True))
        assert _all(found.folder) == TERRAFORM
        assert state.read_bytes() == b'{"serial": 1}'
        assert bench.resolver.resolve(ID, "shell").is_copy is False, "another format's"

    def test_a_listed_state_file_is_content(self, bench):
        """A version from before keeps what it lists."""
        ref = bench.create(files=MODULE)
        folder = bench.store.folder(ref)
        (folder / "terraform/old.tfstate").write_bytes(b"{}")
        row = bench.journal.versions.get(ref)
        kept = FileEntry("terraform/old.tfstate", 2, sha256_bytes(b"{}"))
        with bench.journal.database.write() as connection:
            bench.journal.versions.put(
                [(row, (*bench.journal.versions.files(ref), kept))], connection
            )
        found = bench.resolver.resolve(ID, "terraform")
        assert (found.is_copy, len(found.listing.files)) == (False, 3)

    def test_a_copy_stays_as_it_is_while_the_playbook_changes(self, bench):
        ref = bench.create(files=MODULE)
        found = bench.resolver.resolve(ID, "terraform", ResolveOptions(copy=True))
        assert found.is_copy
        assert found.folder.parent == bench.settings.cache_path / "copies"
        bench.store.update(ID, draft(files={"terraform/main.tf": b"module { b = 2 }\n"}))
        assert _all(found.folder) == TERRAFORM
        for path in (found.path, found.path.parent):
            assert not path.stat().st_mode & 0o222
        other = bench.resolver.resolve(str(ref), "terraform", ResolveOptions(copy=True))
        assert other.folder != found.folder

    def test_a_copy_that_was_changed_is_made_anew(self, bench):
        bench.create(files=MODULE)
        found = bench.resolver.resolve(ID, "terraform", ResolveOptions(copy=True))
        found.path.chmod(0o600)
        found.path.write_bytes(b"evil")
        again = bench.resolver.resolve(ID, "terraform", ResolveOptions(copy=True))
        assert _all(again.folder) == TERRAFORM

    def test_of_what_is_cached_too(self, bench):
        bench.downloads.has[ELSEWHERE] = SCRIPT
        hit = bench.cached(ELSEWHERE, SCRIPT)
        (hit.folder / "shell").mkdir(parents=True)
        (hit.folder / "shell/x.sh").write_bytes(SCRIPT["shell/x.sh"])
        found = bench.resolver.resolve("elsewhere@1.0.0", "shell", ResolveOptions(copy=True))
        assert (found.is_copy, _all(found.folder)) == (True, SCRIPT)

    def test_what_is_sensitive_is_never_copied(self, bench):
        bench.create(files=MODULE, sensitive=True)
        with pytest.raises(Refused, match="sensitive"):
            bench.resolver.resolve(ID, "terraform", ResolveOptions(copy=True))
        assert not (bench.settings.cache_path / "copies").exists()


class TestUnknownHere:
    KEY = ELSEWHERE
    FILES = SCRIPT

    def test_a_fresh_entry_answers_without_the_server(self, bench):
        hit = bench.cached(self.KEY, self.FILES)
        found = bench.resolver.resolve("elsewhere@1.0.0", "shell")
        assert (found.source, found.folder, found.stale) == (Source.CACHE, hit.folder, False)
        assert bench.downloads.asked == []

    def test_it_is_fetched(self, bench):
        bench.downloads.has[self.KEY] = self.FILES
        for target in ("elsewhere@1.0.0", "elsewhere"):
            bench.cache.held.clear()
            assert bench.resolver.resolve(target, "shell").source is Source.DOWNLOAD
        assert bench.downloads.asked == [(self.KEY, None)] * 2

    def test_a_stale_entry_that_the_server_still_lists_sends_nothing(self, bench):
        bench.cached(self.KEY, self.FILES, fresh=False)
        bench.downloads.has[self.KEY] = self.FILES
        assert bench.resolver.resolve("elsewhere@1.0.0", "shell").source is Source.CACHE
        bench.cached(self.KEY, self.FILES, fresh=False)
        bench.downloads.has[self.KEY] = {"shell/x.sh": b"echo y\n"}
        assert bench.resolver.resolve("elsewhere@1.0.0", "shell").source is Source.DOWNLOAD

    def test_the_latest_is_the_servers(self, bench):
        bench.cached(self.KEY, self.FILES)
        newer = ScriptKey(Ref("elsewhere", "1.1.0"), "shell")
        bench.downloads.has[newer] = self.FILES
        assert bench.resolver.resolve("elsewhere", "shell").ref == newer.ref

    @pytest.mark.parametrize("target", ["elsewhere", "elsewhere@1.0.0"])
    def test_nowhere_to_be_had(self, bench, target):
        with pytest.raises(NotFound, match=f"There is no {target} on this machine"):
            bench.resolver.resolve(target, "shell")
        bench.downloads.error = OFFLINE
        with pytest.raises(ServerUnreachable, match=f"There is no {target} on this machine"):
            bench.resolver.resolve(target, "shell")

    def test_offline_the_latest_is_the_highest_in_the_cache(self, bench):
        bench.downloads.error = OFFLINE
        for version, fresh in (("1.9.0", True), ("1.10.0", True), ("1.11.0", False)):
            bench.cached(ScriptKey(Ref("elsewhere", version), "shell"), self.FILES, fresh=fresh)
        found = bench.resolver.resolve("elsewhere", "shell")
        assert (found.ref.version, found.stale) == ("1.10.0", False)


class TestStale:
    KEY = ELSEWHERE
    FILES = SCRIPT

    @pytest.mark.parametrize("target", ["elsewhere", "elsewhere@1.0.0"])
    def test_is_served_only_where_the_setting_allows(self, make_bench, target, caplog):
        strict, lenient = make_bench(), make_bench(serve_stale=True)
        for bench in (strict, lenient):
            bench.cached(self.KEY, self.FILES, fresh=False)
            bench.downloads.error = OFFLINE
        why = "serve_stale is off" if "@" in target else "There is no"
        with pytest.raises(ServerUnreachable, match=why):
            strict.resolver.resolve(target, "shell")
        found = lenient.resolver.resolve(target, "shell")
        assert (found.stale, found.source) == (True, Source.CACHE)
        assert found.as_json()["stale"] is True
        assert "stale" in caplog.text

    def test_the_server_is_not_asked_again_and_again(self, make_bench):
        bench = make_bench(serve_stale=True)
        bench.cached(ELSEWHERE, SCRIPT, fresh=False)
        bench.downloads.error = OFFLINE
        for _ in range(5):
            assert bench.resolver.resolve("elsewhere@1.0.0", "shell").stale
            assert bench.resolver.resolve("elsewhere", "shell").stale
        assert (len(bench.downloads.told), bench.downloads.asked) == (1, [])
        bench.cache.held.clear()
        bench.downloads.error, bench.downloads.has[ELSEWHERE] = None, SCRIPT
        assert bench.resolver.resolve("elsewhere", "shell").source is Source.DOWNLOAD

    @pytest.mark.parametrize("error", [ServerRejected("gone"), CacheFull("full")])
    def test_is_not_served_when_the_server_spoke(self, make_bench, error):
        bench = make_bench(serve_stale=True)
        bench.cached(self.KEY, self.FILES, fresh=False)
        bench.downloads.error = error
        with pytest.raises(type(error)):
            bench.resolver.resolve("elsewhere@1.0.0", "shell")

    def test_of_a_published_version_that_was_changed(self, make_bench):
        bench = make_bench(serve_stale=True)
        ref = bench.create()
        folder = bench.publish(ref)
        script = (folder / "shell/main.sh").read_bytes()
        (folder / "shell/main.sh").write_bytes(b"echo edited\n")
        bench.cache.put(bench.key(ref), {"shell/main.sh": script}, fresh=False)
        bench.downloads.error = OFFLINE
        assert bench.resolver.resolve(ID, "shell").stale


class TestSensitive:
    @pytest.fixture
    def ref(self, bench) -> Ref:
        return bench.create(files=MODULE, sensitive=True)

    def test_is_handed_out_in_clear_for_a_while(self, bench, ref):
        found = bench.resolver.resolve(ID, "terraform")
        for file in found.listing.files:
            assert (found.folder / file.path).read_bytes() == MODULE[file.path]
            assert b"ESCHERv1" in (bench.store.folder(ref) / file.path).read_bytes()
        assert found.expires_at is not None
        assert not (found.folder / "shell").exists(), "only what was asked for"
        assert bench.store.folder(ref) not in found.path.parents
        again = bench.resolver.resolve(ID, "terraform")
        assert again.folder != found.folder

    def test_a_lease_ends_with_its_block(self, bench, ref):
        with bench.resolver.lease(ID, "shell") as found:
            assert found.path.read_bytes() == MODULE["shell/a.sh"]
        assert not found.folder.exists()
        with pytest.raises(KeyError), bench.resolver.lease(ID, "shell") as found:
            raise KeyError
        assert not found.folder.exists()

    def test_changed_on_disk_its_kept_copy_answers(self, bench, ref):
        spoil(bench.store.folder(ref) / "shell/a.sh")
        found = bench.resolver.resolve(ID, "shell")
        assert found.path.read_bytes() == MODULE["shell/a.sh"]

    def test_changed_on_disk_and_in_its_copy(self, bench, ref):
        spoil(bench.store.folder(ref) / "shell/a.sh")
        shutil.rmtree(bench.settings.home / "sealed")
        with pytest.raises(IntegrityError, match=r"shell/a\.sh"):
            bench.resolver.resolve(ID, "shell")
        assert bench.clear.leases() == []

    def test_with_another_key(self, bench, ref):
        other = PlaybookStore(bench.settings, bench.journal, Envelope(MasterKey(b"x" * 32)))
        vars(bench.resolver)["_stored"] = other
        with pytest.raises(WrongKey):
            bench.resolver.resolve(ID, "shell")
        assert bench.edits == []


def spoil(envelope: Path) -> None:
    """Flip a bit of the sealed content."""
    sealed = envelope.read_bytes()
    envelope.write_bytes(sealed[:-1] + bytes([sealed[-1] ^ 1]))


def test_a_lease_of_what_is_not_sensitive_leaves_it_where_it_is(bench):
    bench.create()
    with bench.resolver.lease(ID, "shell") as found:
        assert found.expires_at is None
    assert found.path.exists()


@pytest.mark.parametrize("sensitive", [False, True])
def test_while_it_is_replaced_again_and_again(bench, sensitive):
    """Each answer was, at its moment, what the journal said."""
    ref = bench.create(sensitive=sensitive)
    bodies = [f"#!/bin/sh\necho {number}\n".encode() * (number + 1) for number in range(25)]
    done = threading.Event()

    def replace() -> None:
        try:
            for body in bodies:
                new = draft(files={"shell/main.sh": body}, sensitive=sensitive)
                bench.store.update(ref.playbook_id, new, check_scripts=False)
        finally:
            done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    checksums = {sha256_bytes(body) for body in bodies} | {
        sha256_bytes(draft().files["shell/main.sh"])
    }
    looked = 0
    while not done.is_set() or not looked:
        assert bench.resolver.resolve(ID, "shell").listing.entry.checksum in checksums
        looked += 1
    writer.join(60)
    assert bench.resolver.resolve(ID, "shell").listing.entry.checksum == sha256_bytes(bodies[-1])
    assert bench.edits == [], "a replacement is no edit"
