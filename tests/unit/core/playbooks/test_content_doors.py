"""One rule for what is content, at every door: a table of doors and of kinds of things in folders."""

from __future__ import annotations

import io
import itertools
import json
import os
import tarfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from core.encryption import Envelope, MasterKey
from core.errors import AlreadyExists, EscherError, Unchanged
from core.journal import Journal
from core.models import PlaybookDraft, Ref
from core.playbooks.drafts import draft_from_folder, iter_drafts
from core.playbooks.edits import Edits
from core.playbooks.scan import Scan
from core.playbooks.store import PlaybookStore
from core.settings import Settings

REF = Ref("stop-rds", "1.0.0")
NUMBERS = itertools.count()
METADATA = {
    "playbook_id": "stop-rds",
    "version": "1.0.0",
    "name": "Stop idle RDS",
    "description": "Stops what nobody uses.",
    "cloud_provider": ["aws"],
}
SCRIPT = b"#!/bin/sh\necho stop\n"
BASE: dict[str, bytes] = {"shell/stop.sh": SCRIPT}
BINARY = b"\x7fELF\x02\x01\x01\x00\x00rest"
UTF16 = "echo größer\n".encode("utf-16")
NFD, NFC = (unicodedata.normalize(form, "shell/prüfung.sh") for form in ("NFD", "NFC"))
PERSIAN, EMOJI = "shell/گزارش\u200cها.sh", "shell/👩\u200d💻-oncall.sh"
SCOTLAND = "shell/\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f.sh"


@dataclass(frozen=True)
class Link:
    """A link as a source has it: ``hard`` ones only archives show."""

    target: str
    hard: bool = False


@dataclass(frozen=True)
class Kind:
    """Something beside ``shell/stop.sh``, and what must become of it at every door.

    ``files``: bytes, or bytes with a mode, or a link. ``content``: what is stored besides.
    """

    name: str
    files: dict[str, bytes | tuple[bytes, int] | Link]
    content: dict[str, bytes] = field(default_factory=dict)
    executable: frozenset[str] = frozenset()
    left_out: tuple[str, ...] = ()
    warning: str = ""


KINDS = [
    Kind("an editor's backup", {"shell/stop.sh~": b"old"}, left_out=("shell/stop.sh~",)),
    Kind(
        "leftovers of file managers, editors and shares",
        {
            f"shell/{name}": b"x"
            for name in (
                ".DS_Store",
                "Thumbs.db",
                "desktop.ini",
                "._stop.sh",
                ".stop.sh.swp",
                ".stop.sh.sw0",
                "#stop.sh#",
                "4913",
                ".nfs0001",
                "a___jb_tmp___",
            )
        },
        left_out=("shell/#stop.sh#", "shell/.DS_Store", "shell/.stop.sh.sw0", "shell/4913"),
    ),
    Kind(
        "what runs leave",
        {
            "terraform/main.tf": b"# one\n",
            "terraform/terraform.tfstate": b"{}",
            "terraform/crash.log": b"x",
            "terraform/.terraform.lock.hcl": b"# lock\n",
            "terraform/.gitignore": b"*.tfstate\n",
        },
        {
            "terraform/main.tf": b"# one\n",
            "terraform/.terraform.lock.hcl": b"# lock\n",
            "terraform/.gitignore": b"*.tfstate\n",
        },
        left_out=("terraform/crash.log", "terraform/terraform.tfstate"),
    ),
    Kind(
        "a tool's folder, with links and odd names in it",
        {
            "python/main.py": b"a = 1\n",
            "python/.venv/lib/a \x01.py": b"x",
            "python/.venv/bin/python": Link("/usr/bin/python3"),
            "python/deep/__pycache__/main.pyc": b"x",
        },
        {"python/main.py": b"a = 1\n"},
        left_out=("python/.venv", "python/deep/__pycache__"),
    ),
    Kind(
        "a link named like a tool's folder",
        {"python/main.py": b"a = 1\n", "python/.venv": Link("/opt/venvs/a")},
        {"python/main.py": b"a = 1\n"},
        left_out=("python/.venv",),
    ),
    Kind(
        "Emacs' lock, a link that leads to nothing",
        {
            "shell/.#stop.sh": Link("me@host.4711:1764000000"),
            "shell/lib/.#a.sh": Link("me@host.4711:1764000000"),
        },
        left_out=("shell/.#stop.sh", "shell/lib/.#a.sh"),
    ),
    Kind(
        "a backup and a state that are links",
        {
            "terraform/main.tf": b"# one\n",
            "terraform/main.tf~": Link("main.tf"),
            "terraform/terraform.tfstate": Link("/mnt/shared/terraform.tfstate"),
        },
        {"terraform/main.tf": b"# one\n"},
        left_out=("terraform/main.tf~", "terraform/terraform.tfstate"),
    ),
    Kind(
        "a script that is called like a tool's folder",
        {"shell/venv": b"python -m venv .\n"},
        {"shell/venv": b"python -m venv .\n"},
    ),
    Kind(
        "what stands beside the formats",
        {"README.md": b"read", "docs/more.md": b"more", "latest": Link("docs/more.md")},
        left_out=("README.md", "docs", "latest"),
    ),
    Kind(
        "an executable script",
        {"shell/run.sh": (SCRIPT, 0o755)},
        {"shell/run.sh": SCRIPT},
        frozenset({"shell/run.sh"}),
    ),
    Kind(
        "an executable program",
        {"shell/bin/tool": (BINARY, 0o755)},
        {"shell/bin/tool": BINARY},
        frozenset({"shell/bin/tool"}),
    ),
    Kind(
        "text that a share shows as executable",
        {"shell/NOTES": (b"caf\xe9\n", 0o777), "shell/wide.txt": (UTF16, 0o777)},
        {"shell/NOTES": b"caf\xe9\n", "shell/wide.txt": UTF16},
    ),
    Kind(
        "links to files of the same format folder",
        {
            "shell/lib/a.sh": (SCRIPT, 0o755),
            "shell/a.sh": Link("lib/a.sh"),
            "shell/lib/b.sh": Link("../../shell/a.sh"),
        },
        {"shell/lib/a.sh": SCRIPT, "shell/a.sh": SCRIPT, "shell/lib/b.sh": SCRIPT},
        frozenset({"shell/lib/a.sh", "shell/a.sh", "shell/lib/b.sh"}),
    ),
    Kind("a name in NFD", {NFD: b"echo\n"}, {NFC: b"echo\n"}, warning="NFC"),
    Kind("joiners", {PERSIAN: b"a\n", EMOJI: b"b\n"}, {PERSIAN: b"a\n", EMOJI: b"b\n"}),
    Kind("a flag", {SCOTLAND: b"a\n"}, {SCOTLAND: b"a\n"}),
]

DEEP = "shell/" + "/".join(["d" * 100] * 10)  # 1,015 bytes
KINDS.append(
    Kind(
        "a path of just 1,024 bytes",
        {f"{DEEP}/{'e' * 8}": b"x"},
        {f"{DEEP}/{'e' * 8}": b"x"},
    )
)

# The same at every door: what is refused, and what the refusal names.
REFUSED: list[tuple[str, dict[str, bytes | Link], str]] = [
    ("a link out of the format folder", {"shell/a.sh": Link("../../secret")}, "shell/a.sh"),
    ("a link to another format", {"python/b.py": b"b", "shell/b.py": Link("../python/b.py")}, "b.py"),
    ("a link to metadata.json", {"shell/m.json": Link("../metadata.json")}, "m.json"),
    ("a link to a folder", {"shell/lib/a.sh": b"a", "shell/more": Link("lib")}, "more"),
    ("a link to nothing", {"shell/a.sh": Link("gone.sh")}, "a.sh"),
    ("links in a ring", {"shell/a.sh": Link("b.sh"), "shell/b.sh": Link("a.sh")}, "a.sh"),
    ("an absolute link out", {"shell/a.sh": Link("/etc/hostname")}, "a.sh"),
    ("a link in a format's place", {"python": Link("shell")}, "python"),
    ("a link in a known file's place", {"parameters.json": Link("shell/stop.sh")}, "parameters.json"),
    ("a file called like a format", {"python": b"print(1)\n"}, "'python'"),
    ("a folder called like a file", {"parameters.json/a.json": b"{}"}, "'parameters.json'"),
    ("a bidirectional control", {"shell/a\u202ehs.sh": b"x"}, "u202e"),
    ("a control character", {"shell/a\x1b.sh": b"x"}, "x1b"),
    ("an invisible character", {"shell/a\u200b.sh": b"x"}, "u200b"),
    ("a line separator", {"shell/a\u2028.sh": b"x"}, "u2028"),
    ("two names that become one", {NFD: b"1", NFC: b"2"}, "prüfung.sh"),
    ("a path of 1,025 bytes", {f"{DEEP}/{'e' * 9}": b"x"}, "1024 bytes"),
    ("two names but for case", {"shell/A.sh": b"1", "shell/a.sh": b"2"}, "A.sh"),
]  # fmt: skip


# -- the doors ------------------------------------------------------------------------------
class Doors:
    """Each way into a store for ``ref``; each gives the version's warnings or raises."""

    def __init__(self, store: PlaybookStore, settings: Settings, root: Path, ref: Ref) -> None:
        self.store = store
        self.settings = settings
        self.root = root
        self.ref = ref
        self.metadata = METADATA | {"playbook_id": ref.playbook_id}

    def create(self, files: dict[str, object]) -> tuple[str, ...]:
        folder = lay(self.root / "source", {**BASE, **files}, self.metadata)
        return self.store.create(draft_from_folder(folder), check_scripts=False).warnings

    def import_folder(self, files: dict[str, object]) -> tuple[str, ...]:
        lay(self.root / "many/one", {**BASE, **files}, self.metadata)
        return self._imported(self.root / "many")

    def import_archive(self, files: dict[str, object]) -> tuple[str, ...]:
        archive = pack(self.root / "many.tar.gz", {**BASE, **files}, self.metadata)
        return self._imported(archive)

    def _imported(self, source: Path) -> tuple[str, ...]:
        drafts = []
        for _, draft in iter_drafts(source):
            if isinstance(draft, EscherError):
                raise draft
            drafts.append(draft)
        [result] = self.store.create_many(drafts, intake="import", check_scripts=False)
        if result.error is not None:
            raise result.error
        return result.warnings

    def update(self, files: dict[str, object]) -> tuple[str, ...]:
        self.store.create(
            PlaybookDraft(self.metadata, {"shell/old.sh": b"#\n"}), check_scripts=False
        )
        folder = lay(self.root / "source", {**BASE, **files}, self.metadata)
        return self.store.update(self.ref.playbook_id, draft_from_folder(folder)).warnings

    def edit(self, files: dict[str, object]) -> tuple[str, ...]:
        """What is laid into the home's own folder, beside another edit."""
        self.store.create(PlaybookDraft(self.metadata, {**BASE, "shell/more.sh": b"echo 1\n"}))
        folder = self.store.folder(self.ref)
        (folder / "shell/more.sh").unlink()
        lay_files(folder, files)
        scan, edits = Scan(self.store, self.settings), Edits(self.store, self.settings)
        found = scan.run_one(self.ref)
        report = edits.take(found, dict)  # type: ignore[arg-type]  nothing is published
        for reason in [*found.broken.values(), *report.failed.values()]:
            raise EscherError(reason)
        assert report.updated == [self.ref]
        assert not scan.run_one(self.ref).has_changes  # leftovers and modes make no edit
        return self.store.get(self.ref).warnings


DOORS = ["create", "import_folder", "import_archive", "update", "edit"]


def lay(folder: Path, files: dict[str, object], metadata: dict[str, object] = METADATA) -> Path:
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps(metadata))
    lay_files(folder, files)
    return folder


def lay_files(folder: Path, files: dict[str, object]) -> None:
    for path, what in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(what, Link):
            if what.hard:
                os.link(folder / what.target, target)
            else:
                target.symlink_to(what.target)
            continue
        content, mode = what if isinstance(what, tuple) else (what, 0o644)
        target.write_bytes(content)
        target.chmod(mode)


def pack(path: Path, files: dict[str, object], metadata: dict[str, object] = METADATA) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        whole = {"metadata.json": json.dumps(metadata).encode(), **files}
        for name, what in whole.items():
            info = tarfile.TarInfo(f"one/{name}")
            if isinstance(what, Link):
                info.type = tarfile.LNKTYPE if what.hard else tarfile.SYMTYPE
                info.linkname = f"one/{what.target}" if what.hard else what.target
                archive.addfile(info)
                continue
            content, info.mode = what if isinstance(what, tuple) else (what, 0o644)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PlaybookStore, Settings]]:
    """One home for the whole table."""
    settings = Settings(home=tmp_path_factory.mktemp("home"), edit_quiet_seconds=0)
    journal = Journal(settings.effective_journal_url)
    yield PlaybookStore(settings, journal, Envelope(MasterKey(b"k" * 32))), settings
    journal.close()


@pytest.fixture
def doors(home: tuple[PlaybookStore, Settings], tmp_path: Path) -> Doors:
    """The doors of the home for a playbook of this test's own."""
    return Doors(*home, tmp_path, Ref(f"a-{next(NUMBERS)}", "1.0.0"))


# -- the table --------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("door", DOORS)
def test_what_is_content_is_the_same_at_every_door(doors: Doors, door: str, kind: Kind) -> None:
    warnings = getattr(doors, door)(dict(kind.files))
    store, ref = doors.store, doors.ref
    assert store.read(ref) == BASE | kind.content
    rows = store.journal.versions.files(ref)
    assert {row.path for row in rows if row.executable} == kind.executable
    told = [words for words in warnings if words.startswith("left out: ")]
    assert len(told) == bool(kind.left_out), warnings
    for name in kind.left_out:
        assert name in told[0]
    assert sum(kind.warning in words for words in warnings) == 1 or not kind.warning
    assert store.check_version(store.get(ref), rows) == []
    for path in {*BASE, *kind.content}:
        file = store.folder(ref) / path
        shared = door == "edit" and path not in kind.executable  # a share's own modes stay
        assert bool(file.stat().st_mode & 0o100) == (path in kind.executable) or shared
        assert not file.is_symlink()


@pytest.mark.parametrize(("name", "files", "named"), REFUSED, ids=[row[0] for row in REFUSED])
@pytest.mark.parametrize("door", DOORS)
def test_what_is_refused_is_refused_by_name_at_every_door(
    doors: Doors, door: str, name: str, files: dict[str, bytes | Link], named: str
) -> None:
    with pytest.raises(EscherError) as caught:
        getattr(doors, door)(dict(files))
    assert named in str(caught.value)


def test_hard_links_of_an_archive_are_the_files_they_lead_to(doors):
    doors.import_archive({"shell/again.sh": Link("shell/stop.sh", hard=True)})
    assert doors.store.read(doors.ref) == BASE | {"shell/again.sh": SCRIPT}


@pytest.mark.parametrize("target", ["python/b.py", "metadata.json", "../two/shell/a.sh"])
def test_hard_links_out_of_the_format_folder_are_refused(doors, target):
    files = {"python/b.py": b"b = 1\n", "shell/again.sh": Link(target, hard=True)}
    with pytest.raises(EscherError, match=r"again\.sh"):
        doors.import_archive(files)


def test_a_link_may_stand_before_what_it_leads_to(doors):
    doors.import_archive({"shell/a.sh": Link("z.sh"), "shell/z.sh": b"echo z\n"})
    assert doors.store.read(doors.ref)["shell/a.sh"] == b"echo z\n"


def test_an_absolute_link_into_the_folder_is_taken_from_a_folder(store, tmp_path):
    folder = lay(tmp_path / "source", dict(BASE))
    (folder / "shell/again.sh").symlink_to(folder / "shell/stop.sh")
    store.create(draft_from_folder(folder))
    assert store.read(REF)["shell/again.sh"] == SCRIPT


# -- content without modes ----------------------------------------------------------------------
def test_an_update_without_modes_keeps_those_of_the_version(store):
    draft = PlaybookDraft(METADATA, dict(BASE), executable=frozenset(BASE))
    store.create(draft)
    store.update(REF.playbook_id, PlaybookDraft(METADATA, {"shell/stop.sh": SCRIPT + b"# 2\n"}))
    assert [row.executable for row in store.journal.versions.files(REF)] == [True]


def test_the_digest_knows_modes_only_where_they_say_something(store, make_draft):
    digests = {}
    for version, marked in (
        ("1.0.0", None),
        ("1.0.1", []),
        ("1.0.2", ["shell/stop.sh", "shell/n"]),
    ):
        files = {"shell/stop.sh": SCRIPT, "shell/n": b"text\n"}
        executable = None if marked is None else frozenset(marked)
        draft = PlaybookDraft(METADATA | {"version": "9.9.9"}, files, executable=executable)
        store.create(draft, version=version)
        rows = store.journal.versions.files(Ref("stop-rds", version))
        digests[version] = {row.path for row in rows if row.executable}
    assert digests == {"1.0.0": set(), "1.0.1": set(), "1.0.2": {"shell/stop.sh"}}


# -- edits of modes -------------------------------------------------------------------------------
@pytest.fixture
def look(store, settings) -> Callable[[], object]:
    scan, edits = Scan(store, settings), Edits(store, settings)

    def once() -> object:
        found = scan.run(now_ns=time.time_ns() + 10_000_000_000)
        edits.take(found, lambda ref: {})
        return found

    return once


def test_a_mode_that_says_something_is_an_edit_of_what_is_not_published(store, look):
    store.create(PlaybookDraft(METADATA, {**BASE, "shell/notes": b"text\n"}))
    before = store.get(REF).content_digest
    (store.folder(REF) / "shell/notes").chmod(0o700)
    assert not look().has_changes
    (store.folder(REF) / "shell/stop.sh").chmod(0o700)
    assert look().edited == [REF]
    assert store.get(REF).content_digest != before
    assert not look().has_changes


def test_modes_of_versions_from_before_make_no_edit(store, look):
    """Their digest knows no modes, and their folders may have any."""
    store.create(PlaybookDraft(METADATA, dict(BASE)))
    store.journal.versions.set(REF, modes_known=False)
    before = store.get(REF)
    (store.folder(REF) / "shell/stop.sh").chmod(0o755)
    assert not look().has_changes
    assert store.get(REF) == before


def test_a_leftover_in_the_home_is_named_once_and_makes_no_edit(store, look, monkeypatch):
    store.create(PlaybookDraft(METADATA, dict(BASE)))
    (store.folder(REF) / "shell/stop.sh~").write_bytes(b"old")
    monkeypatch.setattr("core.playbooks.compare.CLOCK_NS", -10_000_000_000)
    found = look()
    assert not found.has_changes
    assert found.left_out == {REF: ("shell/stop.sh~",)}
    assert look().left_out == {}


def test_a_listed_leftover_stays_content(store, look):
    """A version from before may list what a later rule leaves out."""
    store.create(PlaybookDraft(METADATA, {**BASE, "shell/keep": b"kept"}))
    folder = store.folder(REF)
    (folder / "shell/keep").rename(folder / "shell/keep~")
    with store.journal.database.write() as connection:
        from core.journal.tables import files

        connection.execute(
            files.update().where(files.c.path == "shell/keep").values(path="shell/keep~")
        )
    assert not look().has_changes
    assert store.read(REF)["shell/keep~"] == b"kept"


def test_the_same_folder_again_is_unchanged_whatever_an_earlier_version_kept_of_it(store):
    """A version from before knows no modes: importing its source again is no other content."""
    store.create(PlaybookDraft(METADATA, dict(BASE)))
    store.journal.versions.set(REF, modes_known=False)
    again = PlaybookDraft(METADATA, dict(BASE), executable=frozenset(BASE))
    [result] = store.create_many([again])
    assert isinstance(result.error, Unchanged)
    other = PlaybookDraft(METADATA, {"shell/stop.sh": SCRIPT + b"# 2\n"})
    [result] = store.create_many([other])
    assert isinstance(result.error, AlreadyExists)


def test_a_link_in_a_files_place_becomes_the_file(store, look):
    store.create(PlaybookDraft(METADATA, {**BASE, "shell/same.sh": SCRIPT}))
    file = store.folder(REF) / "shell/same.sh"
    file.unlink()
    file.symlink_to("stop.sh")
    before = store.get(REF).content_digest
    assert look().edited == [REF]
    assert not file.is_symlink()
    assert store.get(REF).content_digest == before
    assert not look().has_changes
