"""Tampering with sealed content: held, reported, and the content from before goes on."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import ClassVar

import pytest

from core.encryption import is_sealed
from core.errors import IntegrityError, NotFound, Refused, UsageError
from core.models import Area, PlaybookDraft, Ref, Strategy, SyncState
from core.playbooks.edits import EditReport, Edits
from core.playbooks.held import HeldEdits, declassify
from core.playbooks.remote_versions import RemoteVersions
from core.playbooks.scan import Scan
from core.playbooks.verify import adopt, verify
from core.playbooks.versioning import strategy_of_successor

REF = Ref("stop-rds", "1.0.0")
OLD = {"shell/stop.sh": b"echo CANARY-old\n", "python/a.py": b"a = 'CANARY-a'\n"}
NEW = b"echo CANARY-new\n"


class Home:
    def __init__(self, store, envelope, settings) -> None:
        self.store, self.settings = store, settings
        self.scan = Scan(store, settings)
        self.edits = Edits(store, settings)
        self.held = HeldEdits(store, settings.conflicts_path)

    def sync(self) -> EditReport:
        self.found = self.scan.run(now_ns=time.time_ns() + 10_000_000_000)
        return self.edits.take(self.found, lambda _ref: {})

    def clear_text(self) -> list[str]:
        """Files of the home in which something secret lies in clear."""
        return [
            path.relative_to(self.settings.home).as_posix()
            for path in self.settings.home.rglob("*")
            if path.is_file() and b"CANARY" in path.read_bytes()
        ]


@pytest.fixture
def home(store, envelope, settings, make_draft) -> Home:
    store.create(make_draft(OLD, sensitive=True))
    return Home(store, envelope, settings)


@pytest.fixture
def folder(home) -> Path:
    return home.store.folder(REF)


def rewrite(folder: Path, **fields) -> None:
    path = folder / "metadata.json"
    metadata = json.loads(path.read_bytes()) | fields
    path.write_text(json.dumps({k: v for k, v in metadata.items() if v is not None}))


def unflag(folder: Path) -> None:
    rewrite(folder, sensitive=False)


def flag_gone(folder: Path) -> None:
    rewrite(folder, sensitive=None)


def over_an_envelope(folder: Path) -> None:
    (folder / "shell/stop.sh").write_bytes(NEW)


def beside_the_envelopes(folder: Path) -> None:
    (folder / "shell/more.sh").write_bytes(NEW)


def over_all_and_unflagged(folder: Path) -> None:
    unflag(folder)
    for path in OLD:
        (folder / path).write_bytes(NEW)


def over_one_under_broken_metadata(folder: Path) -> None:
    over_an_envelope(folder)
    (folder / "metadata.json").write_text('{"sensitive": ')


def over_one_and_an_envelope_rolled_back(folder: Path) -> None:
    over_an_envelope(folder)
    shutil.copy(folder / "python/a.py", folder / "shell/a.sh")


TAMPERINGS = [
    unflag,
    flag_gone,
    over_an_envelope,
    beside_the_envelopes,
    over_all_and_unflagged,
    over_one_under_broken_metadata,
    over_one_and_an_envelope_rolled_back,
]


@pytest.mark.parametrize("tamper", TAMPERINGS[:5], ids=lambda tamper: tamper.__name__)
@pytest.mark.parametrize("name", ["stop-rds/v1.0.1", "other/v1.0.0"])
def test_a_rename_at_the_same_time_hides_nothing(home, folder, tamper, name):
    before = home.store.get(REF)
    tamper(folder)
    place = home.store.layout.area(Area.LOCAL) / name
    place.parent.mkdir(exist_ok=True)
    folder.rename(place)
    report = home.sync()
    assert list(report.held) == [str(REF)]
    assert home.store.journal.versions.refs() == [REF]
    assert home.store.get(REF).content_digest == before.content_digest
    assert home.store.read(REF) == OLD
    assert home.clear_text() == []
    assert not place.exists()
    assert home.sync() == EditReport()


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_it_is_held_sealed_and_what_was_there_goes_on(home, folder, tamper):
    before = home.store.get(REF)
    tamper(folder)
    assert home.store.read(REF) == OLD, "before anybody has looked"
    report = home.sync()
    assert list(report.held) == [str(REF)]
    assert "was tampered with" in report.held[str(REF)]
    assert "CANARY" not in report.held[str(REF)]
    assert (report.updated, report.failed, home.found.broken) == ([], {}, {})
    now = home.store.get(REF)
    assert (now.content_digest, now.metadata) == (before.content_digest, before.metadata)
    assert now.sensitive
    assert home.store.read(REF) == OLD
    assert all(is_sealed((folder / path).read_bytes()) for path in OLD)
    assert json.loads((folder / "metadata.json").read_bytes()) == before.metadata
    assert home.clear_text() == []
    assert verify(home.store) == []
    assert home.sync() == EditReport(), "once is enough"


def test_an_editors_own_files_are_no_tampering(home, folder):
    (folder / "shell/.stop.sh.swp").write_bytes(b"b0VIM")
    (folder / "README.md").write_text("mine")
    assert home.sync() == EditReport()


def test_an_edit_of_what_lies_in_clear_anyway_is_an_edit(home, folder):
    rewrite(folder, name="Another name")
    report = home.sync()
    assert (report.updated, report.held) == ([REF], {})
    assert home.store.get(REF).name == "Another name"
    assert home.store.read(REF) == OLD


class TestSettled:
    def test_accepted_it_is_the_content_and_sealed(self, home, folder):
        over_all_and_unflagged(folder)
        beside_the_envelopes(folder)
        rewrite(folder, name="Another name", storage_strategy="uploaded_trusted")
        home.sync()
        result = home.held.accept(home.held.of("stop-rds"))
        assert result.ref == REF
        row = home.store.get(REF)
        assert row.sensitive
        assert (row.name, row.sync_state, row.strategy) == (
            "Another name",
            SyncState.LOCAL,
            "local_only",
        )
        assert home.store.read(REF) == dict.fromkeys([*OLD, "shell/more.sh"], NEW)
        assert home.clear_text() == []
        assert not list(home.settings.conflicts_path.glob("*/held-*"))
        with pytest.raises(NotFound):
            home.held.of(str(REF))
        assert verify(home.store) == []
        assert home.sync() == EditReport()

    def test_dropped_it_is_gone(self, home, folder):
        over_an_envelope(folder)
        home.sync()
        over_an_envelope(folder)  # and once more
        home.sync()
        home.held.discard(home.held.of(str(REF)))
        assert home.store.read(REF) == OLD
        assert not list(home.settings.conflicts_path.glob("*/held-*"))

    def test_dropped_it_takes_no_edit_of_a_pre_release_with_it(self, home, folder, make_draft):
        early = home.store.create(make_draft(OLD, version="1.0.0-rc.1", sensitive=True)).ref
        over_an_envelope(folder)
        over_an_envelope(home.store.folder(early))
        home.sync()
        home.held.discard(home.held.of(str(REF)))
        home.held.accept(home.held.of(str(early)))
        assert home.store.read(early) != OLD
        assert home.store.read(REF) == OLD

    def test_what_is_held_opens_in_no_other_place(self, home, folder):
        over_an_envelope(folder)
        home.sync()
        held = Path(home.held.of(str(REF)).folder)
        (folder / "shell/stop.sh").write_bytes((held / "shell/stop.sh").read_bytes())
        assert home.store.read(REF) == OLD
        (held / "shell/stop.sh").write_bytes((folder / "python/a.py").read_bytes())
        with pytest.raises(IntegrityError):
            home.held.accept(home.held.of(str(REF)))
        assert home.store.read(REF) == OLD

    def test_nothing_is_held_of_others(self, home, store, make_draft):
        for version in ("1.1.0", "1.2.0"):
            ref = store.create(make_draft(OLD, version=version)).ref
            over_an_envelope(store.folder(ref))
        assert list(home.sync().held) == ["stop-rds@1.1.0", "stop-rds@1.2.0"]
        with pytest.raises(UsageError, match=r"1\.1\.0, stop-rds@1\.2\.0"):
            home.held.of("stop-rds")
        with pytest.raises(NotFound):
            home.held.of("stop")

    def test_a_deleted_version_has_no_held_edit(self, home, folder):
        over_an_envelope(folder)
        home.sync()
        home.store.delete([REF])
        assert home.store.journal.held_edits.entries() == []
        assert not (home.settings.home / "sealed" / "stop-rds-v1.0.0").exists()


class TestHomesFromBefore:
    """Their sealed content was not kept a second time."""

    @pytest.fixture(autouse=True)
    def no_copies(self, home) -> None:
        shutil.rmtree(home.settings.home / "sealed")

    def test_it_is_kept_at_the_first_look(self, home, folder):
        home.sync()
        over_an_envelope(folder)
        assert list(home.sync().held) == [str(REF)]
        assert home.store.read(REF) == OLD

    def test_edited_before_that_the_edit_is_sealed_and_said(self, home, folder):
        over_an_envelope(folder)
        report = home.sync()
        assert "only sealed content" in report.held[str(REF)]
        assert home.store.read(REF) == OLD | {"shell/stop.sh": NEW}
        assert home.clear_text() == []
        assert home.store.journal.held_edits.entries() == []

    def test_an_edited_flag_alone_is_held_all_the_same(self, home, folder):
        unflag(folder)
        home.sync()
        assert home.store.read(REF) == OLD
        assert home.store.get(REF).sensitive


class TestTheFlag:
    @pytest.mark.parametrize("sensitive", [None, False, True])
    def test_an_update_seals_and_does_not_take_it_away(self, home, make_draft, sensitive):
        result = home.store.update(
            "stop-rds", make_draft({"shell/stop.sh": NEW}, sensitive=sensitive)
        )
        assert home.store.get(REF).sensitive
        assert home.store.read(REF) == {"shell/stop.sh": NEW}
        assert home.clear_text() == []
        assert any("declassify" in text for text in result.warnings) is (sensitive is False)

    @pytest.mark.parametrize("how", ["create", "update", "import", "edit", "dropped", "renamed id"])
    def test_a_new_version_of_a_sensitive_id_is_sensitive(self, home, make_draft, how, tmp_path):
        store, made = (
            home.store,
            make_draft({"shell/stop.sh": NEW}, version="1.1.0", sensitive=False),
        )
        ref = Ref("stop-rds", "1.1.0")
        match how:
            case "create":
                store.create(made)
            case "update":
                store.update("stop-rds", made, "1.1.0")
            case "import":
                assert [r.error for r in store.create_many([made])] == [None]
            case "edit" | "dropped":
                place = store.layout.folder(Area.LOCAL, ref)
                (place / "shell").mkdir(parents=True)
                (place / "metadata.json").write_text(json.dumps(made.metadata))
                (place / "shell/stop.sh").write_bytes(NEW)
                home.sync()
            case "renamed id":
                ref = Ref("other", "1.0.0")
                store.folder(REF).parent.rename(store.layout.area(Area.LOCAL) / "other")
                home.sync()
        row = store.get(ref)
        assert (row.sensitive, row.sync_state) == (True, SyncState.LOCAL)
        assert home.clear_text() == []
        with pytest.raises(Refused):
            store.check_uploadable(ref)

    def test_an_edit_of_what_was_published_before_is_sealed_and_stays(self, home, make_draft):
        ref = Ref("stop-rds", "1.1.0")
        draft = make_draft({"shell/stop.sh": NEW}, version="1.1.0")
        home.store.journal.choices.choose_review([ref.playbook_id])
        previous = home.store.get(REF)
        assert strategy_of_successor(home.store.journal, draft.metadata, previous) is None

    def test_versions_that_come_together_with_a_sensitive_one_are_sensitive(
        self, store, make_draft
    ):
        drafts = [
            make_draft({"shell/x.sh": NEW}, playbook_id="two", version="2.0.0"),
            make_draft({"shell/x.sh": NEW}, playbook_id="two", version="1.0.0", sensitive=True),
        ]
        assert [result.error for result in store.create_many(drafts)] == [None, None]
        assert store.get(Ref("two", "2.0.0")).sensitive

    def test_a_choice_does_not_open_it(self, home, make_draft):
        with pytest.raises(Refused, match="sensitive"):
            home.store.create(make_draft(version="2.0.0"), strategy=Strategy.REVIEW)

    def test_declassify_is_the_way(self, home, folder):
        result = declassify(home.store, REF)
        row = home.store.get(REF)
        assert (result.ref, row.sensitive, row.sync_state) == (REF, False, SyncState.LOCAL)
        assert (folder / "shell/stop.sh").read_bytes() == OLD["shell/stop.sh"]
        assert json.loads((folder / "metadata.json").read_bytes())["sensitive"] is False
        assert not (home.settings.home / "sealed" / "stop-rds-v1.0.0").exists()
        assert home.sync() == EditReport()
        with pytest.raises(Refused, match="not sensitive"):
            declassify(home.store, REF)

    def test_not_while_an_edit_is_held(self, home, folder):
        over_an_envelope(folder)
        home.sync()
        with pytest.raises(Refused, match="--discard"):
            declassify(home.store, REF)
        assert home.store.get(REF).sensitive


class TestALostJournal:
    """The flag is nowhere but in the file and in what is sealed."""

    @pytest.mark.parametrize("tamper", [unflag, flag_gone, None])
    def test_what_is_sealed_is_sensitive(self, home, folder, tamper):
        if tamper is None:
            unflag(folder)
            over_an_envelope(folder)
        else:
            tamper(folder)
        with home.store.journal.database.write() as connection:
            home.store.journal.versions.delete([REF], connection)
        adopted, failed = adopt(home.store)
        assert (adopted, failed) == ([REF], {})
        assert home.store.get(REF).sensitive
        home.sync()
        assert home.clear_text() == []
        with pytest.raises(Refused):
            home.store.check_uploadable(REF)


class TestParameters:
    """The default of a sensitive parameter is sealed for the same reasons."""

    SECRET: ClassVar = {
        "name": "password",
        "type": "string",
        "sensitive": True,
        "default": "CANARY-1",
    }

    @pytest.mark.parametrize("flag", [{"sensitive": False}, {"sensitive": None}, {"type": "int"}])
    def test_an_edited_flag_opens_no_default(self, store, envelope, settings, make_draft, flag):
        store.create(make_draft(parameters=[self.SECRET]), strategy=Strategy.REVIEW)
        home = Home(store, envelope, settings)
        path = store.folder(REF) / "parameters.json"
        document = json.loads(path.read_bytes())
        document["parameters"][0] = {
            key: value
            for key, value in (document["parameters"][0] | flag).items()
            if value is not None
        }
        path.write_text(json.dumps(document))
        report = home.sync()
        assert bool(report.held) is ("sensitive" in flag)
        [sent] = json.loads(store.published_files(REF)["parameters.json"])["parameters"]
        assert (sent["sensitive"], "default" in sent) == (True, False)
        [clear] = json.loads(store.read(REF)["parameters.json"])["parameters"]
        assert clear["default"] == "CANARY-1"
        assert home.clear_text() == []


def test_what_was_marked_sensitive_a_moment_ago_does_not_leave(store, make_draft):
    from core.errors import LeaseHeld

    ref = store.create(make_draft(playbook_id="other"), strategy=Strategy.REVIEW).ref
    store.check_uploadable(ref)
    rewrite(store.folder(ref), sensitive=True)
    with pytest.raises(LeaseHeld, match="marked sensitive"):
        store.check_uploadable(ref)


def test_an_envelope_does_not_leave_under_another_flag(store, envelope, make_draft):
    from core.encryption import Place

    ref = store.create(make_draft(playbook_id="other"), strategy=Strategy.REVIEW).ref
    path = store.folder(ref) / "shell/stop.sh"
    path.write_bytes(envelope.seal(b"x", Place(*ref, "shell/stop.sh", 1)))
    with pytest.raises(Refused, match="sealed"):
        store.check_uploadable(ref)


def test_a_draft_read_from_an_unflagged_folder_is_sensitive(home, folder):
    unflag(folder)
    assert isinstance(draft := home.store.edited_draft(REF), PlaybookDraft)
    assert draft.metadata["sensitive"] is True


@pytest.mark.parametrize("copy", ["trash", "always", "edits"])
def test_copies_of_what_goes_are_sealed(home, folder, copy):
    over_an_envelope(folder)
    beside_the_envelopes(folder)
    kept = RemoteVersions(home.store, home.settings).drop(REF, copy=copy)
    assert kept is not None
    assert home.clear_text() == []
    assert is_sealed((Path(kept.folder) / "shell/more.sh").read_bytes())
