"""The scan finds every change to the folders, reads only what may have changed, and acts on none."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from core.files import read_bytes
from core.models import Area, Move, Ref
from core.playbooks import compare
from core.playbooks.scan import Moved, Scan

REF = Ref("stop-rds", "1.0.0")
LATER_NS = 10_000_000_000


@pytest.fixture
def scan(store, envelope, settings):
    return Scan(store, settings)


@pytest.fixture
def look(scan):
    """Scan as it will be seen when every edit is quiet."""
    return lambda: scan.run(now_ns=time.time_ns() + LATER_NS)


@pytest.fixture
def folder(store, make_draft) -> Path:
    store.create(make_draft({"shell/stop.sh": b"echo stop\n", "python/a.py": b"a = 1\n"}))
    return store.folder(REF)


@pytest.fixture
def settled(folder, look, monkeypatch):
    """A version whose stats vouch for it, without waiting for the clock to tick."""
    monkeypatch.setattr("core.playbooks.compare.CLOCK_NS", -1_000_000_000)
    assert look().unchanged == 1
    return folder


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    seen: list[str] = []

    def counted(path: Path) -> bytes:
        seen.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(compare, "read_bytes", counted)
    return seen


def publish(store, ref=REF) -> Path:
    store.journal.versions.set(ref, revision=1, published_digest=store.get(ref).content_digest)
    store.move([Move(ref, Area.SYNCED, {"status": "approved"})])
    return store.folder(ref)


def nothing(result) -> bool:
    return not result.has_changes and not result.broken and result.quiet_in is None


# -- what is read ---------------------------------------------------------------------------
def test_what_did_not_change_is_not_read_again(settled, look, reads):
    result = look()
    assert (result.scanned, result.unchanged) == (1, 1)
    assert nothing(result)
    assert reads == []


def test_a_stat_vouches_only_for_what_was_read_clearly_after_it(folder, look, reads):
    look()
    assert set(reads) == {"metadata.json", "stop.sh", "a.py"}
    reads.clear()
    look()  # within the clock's coarsest tick an edit may show in no stat
    assert set(reads) == {"metadata.json", "stop.sh", "a.py"}


def test_an_edit_of_the_same_size_and_time_is_found(settled, look):
    path = settled / "shell/stop.sh"
    before = path.stat()
    path.write_bytes(b"echo STOP\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert look().edited == [REF]


def test_an_edit_within_one_tick_of_the_clock_is_found(folder, look, monkeypatch):
    """The racily clean case: size, times and inode are those that were seen."""
    look()
    real = os.lstat
    path = folder / "shell/stop.sh"
    frozen = real(path)
    path.write_bytes(b"echo STOP\n")

    class Frozen:
        def __getattr__(self, name: str):
            return getattr(frozen, name)

    monkeypatch.setattr(
        os, "lstat", lambda p, **k: Frozen() if str(p) == str(path) else real(p, **k)
    )
    assert look().edited == [REF]


def test_a_touch_is_no_edit_and_is_looked_at_once(settled, look, reads):
    (settled / "shell/stop.sh").touch()
    result = look()
    assert nothing(result)
    assert set(reads) == {"metadata.json", "stop.sh", "a.py"}
    reads.clear()
    look()
    assert reads == []


@pytest.mark.parametrize("sensitive", [False, True])
def test_the_stores_own_changes_are_none(store, make_draft, look, sensitive, monkeypatch):
    monkeypatch.setattr("core.playbooks.compare.CLOCK_NS", -1_000_000_000)
    parameters = [{"name": "password", "type": "string", "sensitive": True, "default": "x"}]
    store.create(make_draft(sensitive=sensitive, parameters=parameters))
    assert nothing(look())
    store.update("stop-rds", make_draft({"shell/b.sh": b"b\n"}, sensitive=sensitive))
    assert nothing(look())
    if not sensitive:
        publish(store)
        assert nothing(look())
    store.delete([REF])
    result = look()
    assert nothing(result)
    assert result.scanned == 0


def test_rows_of_versions_that_are_gone_go(settled, look, store, make_draft):
    store.delete([REF])
    store.create(make_draft(playbook_id="other"))
    (store.folder(Ref("other", "1.0.0")) / "shell/stop.sh").write_bytes(b"new\n")
    look()
    with store.journal.database.read() as connection:
        kept = connection.execute(text("SELECT playbook_id FROM scan_state")).scalars().all()
    assert kept in ([], ["other"])


# -- what counts as an edit -----------------------------------------------------------------
def test_an_edit_counts_when_it_is_quiet(settled, scan, settings):
    (settled / "shell/stop.sh").write_bytes(b"echo new\n")
    young = scan.run()
    assert not young.has_changes
    assert 0 < young.quiet_in <= settings.edit_quiet_seconds
    then = time.time_ns() + int(settings.edit_quiet_seconds * 1e9)
    assert scan.run(now_ns=then).edited == [REF]


def test_an_edit_of_the_future_is_quiet_after_it_was_seen_unchanged(settled, scan):
    """The clock was an hour ahead when it was saved."""
    (settled / "shell/stop.sh").write_bytes(b"echo new\n")
    hour_ago = time.time_ns() - 3_600_000_000_000
    first = scan.run(now_ns=hour_ago)
    assert (first.edited, first.quiet_in) == ([], 3)
    assert scan.run(now_ns=hour_ago + 1_000_000_000).quiet_in == 2
    assert scan.run(now_ns=hour_ago + 3_000_000_000).edited == [REF]
    # and an hour later it is an edit like any other
    assert scan.run(now_ns=time.time_ns() + LATER_NS).edited == [REF]
    assert scan._journal.facts.get("edits_of_the_future") == "{}"


@pytest.mark.parametrize(
    "change",
    [
        lambda f: (f / "shell/more.sh").write_bytes(b"more\n"),
        lambda f: (f / "shell/deep").mkdir() or (f / "shell/deep/x.sh").write_bytes(b"x\n"),
        lambda f: (f / "python/a.py").unlink(),
        lambda f: (f / "python/a.py").rename(f / "python/b.py"),
        lambda f: (f / "parameters.json").write_bytes(b'{"parameters": []}'),
        lambda f: rewrite(f, name="Another name"),
        lambda f: rewrite(f, status="draft"),
        lambda f: rewrite(f, unheard_of={"a": [1, 2.5, None]}),
    ],
)
def test_every_kind_of_edit(settled, look, change):
    change(settled)
    assert look().edited == [REF]
    assert look().edited == [REF]  # until it is taken in


def rewrite(folder: Path, **fields) -> None:
    path = folder / "metadata.json"
    replacement = path.with_name("new")
    metadata = json.loads(path.read_bytes()) | fields
    replacement.write_text(json.dumps({k: v for k, v in metadata.items() if v is not None}))
    replacement.replace(path)


@pytest.mark.parametrize(
    "name", ["shell/.stop.sh.swp", "shell/stop.sh~", "shell/4913", "python/.#a.py", "README.md"]
)
def test_what_an_editor_leaves_is_no_edit(settled, look, name):
    (settled / name).write_bytes(b"b0VIM")
    assert nothing(look())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "metadata.json").write_bytes(b'{"name": '), "not JSON"),
        (lambda f: (f / "metadata.json").unlink(), "no metadata.json"),
        (lambda f: rewrite(f, name="x"), "name"),
        (lambda f: rewrite(f, version="1.1.0"), "its folder"),
        (lambda f: rewrite(f, playbook_id="another"), "another"),
        (lambda f: (f / "parameters.json").write_bytes(b"[]"), "parameters.json"),
        (lambda f: (f / "shell/link").symlink_to("/etc/passwd"), "symbolic link"),
        (lambda f: os.mkfifo(f / "shell/pipe"), "not a regular file"),
        (lambda f: (f / "shell/a\nb").write_bytes(b""), "control character"),
    ],
)
def test_a_broken_edit_is_told_and_left_alone(settled, look, store, change, words):
    change(settled)
    before = sorted(p.name for p in settled.rglob("*"))
    result = look()
    assert list(result.broken) == [str(settled)]
    assert words in result.broken[str(settled)]
    assert not result.has_changes
    assert sorted(p.name for p in settled.rglob("*")) == before
    assert store.get(REF).metadata["name"] == "Stop idle RDS"


def test_a_half_saved_edit_is_not_told_of(settled, scan):
    (settled / "metadata.json").write_bytes(b'{"name": ')
    result = scan.run()
    assert result.broken == {}
    assert result.quiet_in is not None


def test_a_sealed_file_that_does_not_open_is_told(store, make_draft, look):
    store.create(make_draft(sensitive=True))
    path = store.folder(REF) / "shell/stop.sh"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert list(look().broken) == [str(store.folder(REF))]


def test_a_clear_file_in_a_sensitive_version_is_tampering(store, make_draft, look):
    store.create(make_draft(sensitive=True))
    (store.folder(REF) / "shell/stop.sh").write_bytes(b"echo secret\n")
    found = look()
    assert (found.tampered, found.edited) == ([REF], [])


def test_the_same_content_in_clear_is_to_be_sealed_again(store, make_draft, look):
    store.create(make_draft(sensitive=True))
    (store.folder(REF) / "shell/stop.sh").write_bytes(b"echo stop\n")
    assert look().resealed == [REF]


# -- published ------------------------------------------------------------------------------
def test_server_owned_fields_changed_by_hand_are_no_edit(folder, store, look):
    folder = publish(store)
    rewrite(folder, status="draft", deprecated_by="me")
    result = look()
    assert (result.owned, result.edited) == ([REF], [])


def test_between_publishing_and_settling_the_disk_is_behind(folder, store, look):
    metadata = store.get(REF).metadata | {"status": "pending_review"}
    store.journal.versions.set(REF, revision=1, metadata=metadata)
    assert nothing(look())


def test_metadata_alone_is_a_version_that_is_not_fetched(folder, store, look):
    folder = publish(store)
    for name in ("shell", "python"):
        shutil.rmtree(folder / name)
    assert nothing(look())
    (folder / ".metadata.json.swp").write_bytes(b"b0VIM")
    assert nothing(look())
    rewrite(folder, name="Another name")
    assert look().edited == [REF]


# -- gone, come, moved ----------------------------------------------------------------------
def test_a_vanished_folder_is_told_of_in_every_area(folder, store, look, scan, make_draft):
    store.create(make_draft(playbook_id="other"))
    publish(store)
    shutil.rmtree(store.folder(REF))
    shutil.rmtree(store.folder(Ref("other", "1.0.0")).parent)
    assert scan.run().vanished == []  # somebody may be moving them
    assert scan.run().quiet_in is not None
    assert sorted(look().vanished) == [Ref("other", "1.0.0"), REF]


def test_an_area_that_is_not_there_is_no_deletion(folder, store, look):
    area = store.layout.area(Area.LOCAL)
    area.rename(area.with_name("away"))
    result = look()
    assert (result.vanished, list(result.broken)) == ([], [str(area)])


def test_a_mount_point_without_its_disk_is_no_deletion_either(folder, store, look, make_draft):
    store.create(make_draft(playbook_id="other"))
    assert look().scanned == 2  # it knows which folder held them
    disk = store.layout.area(Area.LOCAL)
    disk.rename(away := disk.with_name("away"))
    with store.locked():  # whoever writes next makes the areas anew
        pass
    result = look()
    assert (result.vanished, list(result.broken)) == ([], [str(disk)])
    assert look().vanished == []
    shutil.rmtree(disk)
    away.rename(disk)
    shutil.rmtree(store.folder(REF))
    assert look().vanished == [REF]  # one that is missing among others was deleted


def test_an_area_that_lists_nothing_any_more_is_no_deletion_of_many(store, look, make_draft):
    names = [f"many-{number}" for number in range(10)]
    for name in names:
        store.create(make_draft(playbook_id=name))
    look()
    for name in names:
        shutil.rmtree(store.layout.area(Area.LOCAL) / name)
    result = look()
    assert (result.vanished, len(result.broken)) == ([], 1)
    assert "`escher-playbooks delete`" in next(iter(result.broken.values()))


def test_a_copy_of_the_whole_home_is_the_same_home(folder, store, look, make_draft):
    look()
    area = store.layout.area(Area.LOCAL)
    area.rename(away := area.with_name("away"))
    shutil.copytree(away, area)
    assert look().broken == {}
    shutil.rmtree(folder)
    assert look().vanished == [REF]


def test_a_version_that_is_being_deleted_is_not_missed(folder, store, look):
    publish(store)
    store.journal.versions.set(REF, deleting=True)
    shutil.rmtree(store.folder(REF))
    assert nothing(look())


def test_added_folders_are_found_beside_known_ones_and_alone(settled, look):
    for ref in (Ref("stop-rds", "1.1.0"), Ref("new-one", "2.0.0")):
        place = settled.parent.parent / ref.playbook_id / f"v{ref.version}"
        shutil.copytree(settled, place)
        rewrite(place, version=ref.version, playbook_id=ref.playbook_id)
    assert [str(f.ref) for f in look().added] == ["new-one@2.0.0", "stop-rds@1.1.0"]


def test_an_added_folder_needs_little(store, look):
    place = store.layout.folder(Area.LOCAL, REF)
    (place / "shell").mkdir(parents=True)
    (place / "shell/a.sh").write_bytes(b"a\n")
    metadata = {"name": "Minimal", "description": "Little.", "cloud_provider": ["aws"]}
    (place / "metadata.json").write_text(json.dumps(metadata))
    assert [f.ref for f in look().added] == [REF]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("local/stop-rds/v1.0.0-backup", "its folder"),  # a copy, its metadata says 1.0.0
        ("local/stop-rds/notes", "Rename it"),
        ("local/Stop/v1.0.0", "Rename it"),
        ("ai-generated/stop-rds-v1.0.0", "A second copy"),
        ("synced/stop-rds/v1.0.0", "A second copy"),
        ("synced/other/v1.0.0", "no version that was published"),
    ],
)
def test_folders_that_can_be_no_version_are_told_of(settled, look, store, name, words):
    shutil.copytree(settled, store.layout.root / name)
    result = look()
    assert list(result.broken) == [str(store.layout.root / name)]
    assert words in result.broken[str(store.layout.root / name)]
    assert not result.has_changes


def test_metadata_alone_and_unknown_in_synced_is_the_feeds(store, look, settled):
    place = store.layout.root / "synced/other/v1.0.0"
    place.mkdir(parents=True)
    shutil.copy(settled / "metadata.json", place)
    assert nothing(look())


def test_a_moved_folder_is_one_finding(settled, look, store):
    target = store.layout.folder(Area.AI_GENERATED, REF)
    settled.rename(target)
    result = look()
    assert [(m.ref, m.from_area, m.folder.path) for m in result.moved] == [
        (REF, Area.LOCAL, target)
    ]
    assert (result.added, result.vanished) == ([], [])


def test_a_renamed_folder_is_one_finding(settled, look):
    target = settled.with_name("v2.0.0")
    settled.rename(target)
    result = look()
    moved = [replace(m, folder=m.folder.ref) for m in result.moved]
    assert moved == [Moved(REF, Area.LOCAL, Ref("stop-rds", "2.0.0"))]
    assert (result.added, result.vanished, result.broken) == ([], [], {})


def test_while_a_folder_is_young_nothing_counts_as_vanished(settled, scan, settings):
    target = settled.with_name("v2.0.0")
    settled.rename(target)
    result = scan.run()
    assert (result.moved, result.vanished) == ([], [])
    assert result.quiet_in is not None


def test_a_published_version_keeps_its_name(folder, store, look):
    folder = publish(store)
    folder.rename(folder.with_name("v2.0.0"))
    result = look()
    assert "Refused" not in result.broken
    assert result.vanished == [REF]
    assert list(result.broken) == [str(folder.with_name("v2.0.0"))]


def test_files_in_the_areas_are_nobodys_business(settled, look, store):
    (store.layout.area(Area.LOCAL) / "notes.txt").write_text("hello")
    (settled.parent / "notes.txt").write_text("hello")
    (store.layout.area(Area.LOCAL) / ".git").mkdir()
    assert nothing(look())
