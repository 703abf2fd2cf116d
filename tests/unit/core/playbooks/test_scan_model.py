"""Scan and edits against a model: random hands on the folders, and nothing is overlooked or lost.

The model holds what every folder was last given; after each sync the store must say the same of
unpublished versions, and of published ones what was published, with every edit kept as a version.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from core.encryption import Envelope, MasterKey
from core.errors import ServerUnreachable
from core.journal import Journal
from core.models import Area, Move, PlaybookDraft, Ref
from core.playbooks.edits import Edits
from core.playbooks.scan import Scan
from core.playbooks.store import PlaybookStore
from core.playbooks.verify import verify
from core.settings import Settings

LETTERS = "abcd"  # contents are four bytes, so that edits keep the size
contents = st.text(LETTERS, min_size=4, max_size=4).map(str.encode)
paths = st.sampled_from(["shell/a.sh", "shell/b.sh", "python/c.py", "python/deep/d.py"])
picks = st.integers(0, 20)


class Hands(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="hands-"))
        settings = Settings(home=self.root / "home", secrets_gate="off")
        settings.home.mkdir(mode=0o700)
        envelope = Envelope(MasterKey(b"k" * 32))
        self.store = PlaybookStore(settings, Journal(settings.effective_journal_url), envelope)
        self.scan = Scan(self.store, settings)
        self.edits = Edits(self.store, settings)
        self.disk: dict[Ref, dict[str, bytes]] = {}  # what stands in the folders now
        self.published: dict[Ref, dict[str, bytes]] = {}
        self.sensitive: set[Ref] = set()
        self.broken: dict[Ref, bytes] = {}  # metadata that was broken by hand
        self.kept: list[tuple[str, dict[str, bytes]]] = []  # edits of published versions
        self.offline = False
        self.made = 0

    def teardown(self) -> None:
        self.store.journal.close()
        shutil.rmtree(self.root)

    # -- helpers ----------------------------------------------------------------------------
    def pick(self, number: int) -> Ref:
        return sorted(self.disk)[number % len(self.disk)]

    def place(self, ref: Ref) -> Path:
        return self.store.folder(ref)

    def fetch(self, ref: Ref) -> dict[str, bytes]:
        if self.offline:
            raise ServerUnreachable("No answer.")
        return self.published[ref]

    def is_whole(self, ref: Ref) -> bool:
        return bool(self.disk.get(ref)) and ref not in self.broken

    # -- hands ------------------------------------------------------------------------------
    @rule(content=contents, sensitive=st.booleans())
    def create(self, content: bytes, sensitive: bool) -> None:
        self.made += 1
        files = {"shell/a.sh": content, "python/c.py": b"zzzz"}
        metadata = {
            "playbook_id": f"p{self.made % 3}", "version": f"{self.made}.0.0", "name": "A name",
            "description": "Words.", "cloud_provider": ["aws"], "sensitive": sensitive,
        }  # fmt: skip
        # a new version of an id that has a sensitive one is sensitive
        follows = bool(self.store.journal.versions.sensitive_ids([metadata["playbook_id"]]))
        ref = self.store.create(PlaybookDraft(metadata, files), check_scripts=False).ref
        self.disk[ref] = dict(files)
        assert self.store.get(ref).sensitive is (sensitive or follows)
        if sensitive or follows:
            self.sensitive.add(ref)

    @precondition(lambda self: self.disk)
    @rule(number=picks, path=paths, content=contents, keep_time=st.booleans())
    def edit_in_place(self, number: int, path: str, content: bytes, keep_time: bool) -> None:
        ref = self.pick(number)
        file = self.place(ref) / path
        if not self.is_whole(ref) or path not in self.disk[ref]:
            return
        before = file.stat()
        file.write_bytes(content)
        if keep_time:
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.typed(ref, path, content)

    def typed(self, ref: Ref, path: str, content: bytes) -> None:
        """What is sealed goes on being answered; what was laid over it is held."""
        if ref in self.sensitive:
            self.sync()
        else:
            self.disk[ref][path] = content

    @precondition(lambda self: self.disk)
    @rule(number=picks, path=paths, content=contents)
    def replace_by_rename(self, number: int, path: str, content: bytes) -> None:
        """As most editors save; also how a file comes that was not there.

        One that comes beside published content is no edit, as ``test_edits.py`` shows.
        """
        ref = self.pick(number)
        if not self.is_whole(ref) or (ref in self.published and path not in self.disk[ref]):
            return
        file = self.place(ref) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.swp")
        temporary.write_bytes(content)
        temporary.replace(file)
        self.typed(ref, path, content)

    @precondition(lambda self: self.disk)
    @rule(number=picks, path=paths)
    def remove_a_file(self, number: int, path: str) -> None:
        ref = self.pick(number)
        if self.is_whole(ref) and path in self.disk[ref] and len(self.disk[ref]) > 1:
            (self.place(ref) / path).unlink()
            del self.disk[ref][path]
            if ref in self.sensitive:
                self.sync()  # removing, and laying clear text over the rest, are two things

    @precondition(lambda self: self.disk)
    @rule(number=picks, how=st.sampled_from(["touch", "chmod", "future", "swap", "readme"]))
    def disturb(self, number: int, how: str) -> None:
        """What is no edit."""
        ref = self.pick(number)
        if not self.is_whole(ref):
            return
        folder = self.place(ref)
        file = folder / min(self.disk[ref])
        match how:
            case "touch":
                file.touch()
            case "chmod":
                file.chmod(0o640 if file.stat().st_mode & 0o100 else 0o700)
            case "future":
                os.utime(file, (4e9, 4e9))
            case "swap":
                file.with_name(f".{file.name}.swp").write_bytes(b"b0VIM")
            case "readme":
                (folder / "README.md").write_text("mine")

    @precondition(lambda self: self.disk)
    @rule(number=picks, away=st.sampled_from([b'{"name": ', b"[]", b""]))
    def break_metadata(self, number: int, away: bytes) -> None:
        ref = self.pick(number)
        path = self.place(ref) / "metadata.json"
        if self.is_whole(ref):
            self.broken[ref] = path.read_bytes()
            path.write_bytes(away)

    @precondition(lambda self: self.broken)
    @rule()
    def mend_metadata(self) -> None:
        ref, content = self.broken.popitem()
        (self.place(ref) / "metadata.json").write_bytes(content)

    @precondition(lambda self: self.disk)
    @rule(number=picks)
    def remove_the_folder(self, number: int) -> None:
        ref = self.pick(number)
        if ref not in self.broken and self.place(ref).is_dir():
            shutil.rmtree(self.place(ref))
            self.disk[ref] = {}  # published: it is to come back; else it is to go

    @precondition(lambda self: self.disk)
    @rule(number=picks)
    def rename_the_folder(self, number: int) -> None:
        ref = self.pick(number)
        if not self.is_whole(ref) or ref in self.published:
            return
        self.made += 1
        to = Ref(ref.playbook_id, f"{self.made}.0.0")
        place = self.place(ref)
        place.rename(self.store.layout.folder(self.store.get(ref).area, to))
        files = self.disk.pop(ref)
        self.sync()  # a rename and an edit of its successor at once are two things
        assert self.store.read(to) == files
        self.disk[to] = files
        if ref in self.sensitive:
            self.sensitive.add(to)

    @precondition(lambda self: self.disk)
    @rule(number=picks)
    def move_the_folder(self, number: int) -> None:
        ref = self.pick(number)
        if not self.is_whole(ref):
            return
        row = self.store.get(ref)
        to = Area.AI_GENERATED if row.area is not Area.AI_GENERATED else Area.LOCAL
        target = self.store.layout.folder(to, ref)
        target.parent.mkdir(exist_ok=True)
        self.place(ref).rename(target)
        self.sync()
        assert self.store.get(ref).area is (row.area if ref in self.published else to)

    @precondition(lambda self: self.disk)
    @rule(number=picks)
    def copy_as_a_new_version(self, number: int) -> None:
        ref = self.pick(number)
        if not self.is_whole(ref) or ref in self.sensitive:
            return
        self.made += 1
        to = Ref(f"c{self.made % 2}", f"{self.made}.0.0")
        place = self.store.layout.folder(Area.LOCAL, to)
        shutil.copytree(self.place(ref), place)
        metadata = json.loads((place / "metadata.json").read_bytes())
        metadata |= {"playbook_id": to.playbook_id, "version": to.version}
        (place / "metadata.json").write_text(json.dumps(metadata))
        files = dict(self.disk[ref])
        self.sync()
        self.disk[to] = files

    @precondition(lambda self: self.disk)
    @rule(number=picks)
    def publish(self, number: int) -> None:
        ref = self.pick(number)
        self.sync()
        if not self.is_whole(ref) or ref in self.sensitive or ref in self.published:
            return
        self.published[ref] = self.store.published_files(ref)
        self.store.journal.versions.set(ref, revision=1)
        self.store.move([Move(ref, Area.SYNCED, {"status": "approved"})])

    @rule()
    def go_on_or_off_line(self) -> None:
        self.offline = not self.offline

    # -- and what must be true --------------------------------------------------------------
    @rule()
    def sync(self) -> None:
        for ref, files in self.disk.items():
            is_edited = ref in self.published and files and ref not in self.broken
            if is_edited and files != self.published[ref]:
                self.kept.append((ref.playbook_id, dict(files)))
        found = self.scan.run(now_ns=time.time_ns() + 10_000_000_000)
        report = self.edits.take(found, self.fetch)
        assert report.failed == {}
        assert set(found.broken) == {str(self.place(ref)) for ref in self.broken}
        for ref in list(self.disk):
            self.after_sync(ref)
        for new in report.kept_as.values():
            self.disk[new] = dict(self.store.read(new))
        for playbook_id, files in self.kept:
            assert files in self.versions_of(playbook_id)
        if not self.broken and not self.offline:
            again = self.scan.run(now_ns=time.time_ns() + 10_000_000_000)
            assert not again.has_changes
            assert verify(self.store) == []
        self.kept.clear()

    def after_sync(self, ref: Ref) -> None:
        if ref in self.broken:
            assert (self.place(ref) / "metadata.json").read_bytes() != self.broken[ref]
        elif ref in self.published:
            folder = self.place(ref)
            if (folder.is_dir() and (folder / "shell").is_dir()) or (folder / "python").is_dir():
                assert self.store.read(ref) == self.published[ref]
                self.disk[ref] = dict(self.published[ref])
            else:  # metadata alone, or gone until the server answers
                self.disk[ref] = {}
        elif not self.disk[ref]:
            assert self.store.journal.versions.get(ref) is None
            del self.disk[ref]
        else:
            assert self.store.read(ref) == self.disk[ref]

    def versions_of(self, playbook_id: str) -> list[dict[str, bytes]]:
        rows = self.store.journal.versions.of_playbook(playbook_id)
        return [
            self.store.read(row.ref)
            for row in rows
            if row.ref not in self.broken and not row.is_published
        ]

    @invariant()
    def nothing_is_left_half_way(self) -> None:
        assert self.store.journal.intents.open() == []


TestHands = Hands.TestCase
TestHands.settings = hypothesis_settings(
    max_examples=20, stateful_step_count=25, deadline=None, derandomize=bool(os.environ.get("CI"))
)
