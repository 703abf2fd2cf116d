"""Scanned once, kept by checksum; degrees by where a version came from."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import select

from core.files import sha256_bytes
from core.journal import Journal, VersionRecord
from core.journal.tables import secret_scans
from core.models import Area, FileEntry, Ref
from core.playbooks.secrets_gate import SecretsGate, metadata_content, stricter
from core.secrets import Degree, SecretFinding, scanner
from core.settings import Settings

AWS_ID = "AKIA" + "Q3EGZ7XN5LWTM2RB"
LEAK = f"key={AWS_ID}\n".encode()
MARKED = f"key={AWS_ID}  # pragma: allowlist secret\n".encode()


class Home:
    """A gate over a journal; ``scanned`` names what was read by the scanner."""

    def __init__(self, tmp_path, monkeypatch) -> None:
        self.settings = Settings(home=tmp_path / "home")
        self.journal = Journal(f"sqlite:///{tmp_path / 'journal.db'}")
        self.gate = SecretsGate(self.settings, self.journal)
        self.scanned: list[str] = []
        scan = scanner.scan_content

        def counted(path: str, content: bytes):
            self.scanned.append(path)
            return scan(path, content)

        monkeypatch.setattr(scanner, "scan_content", counted)

    def add(self, ref: Ref, files: dict[str, bytes], **fields: Any) -> tuple[SecretFinding, ...]:
        """Take a version in as the store does; its findings."""
        intake = fields.pop("intake", "create")
        metadata = {
            "playbook_id": ref.playbook_id, "version": ref.version, "name": "Some name",
            "description": "Does it.", "cloud_provider": ["aws"], "created_at": 1, "updated_at": 1,
        } | fields  # fmt: skip
        record = VersionRecord(ref, Area.LOCAL, "sha256:" + "0" * 64, metadata, intake=intake)
        with self.journal.database.write() as connection:
            self.journal.versions.put([(record, ())], connection)
        self.gate.keep(self.gate.scan_new(metadata, files))
        entries = [FileEntry(p, len(c), sha256_bytes(c)) for p, c in files.items()]
        return self.gate.findings_of(record, entries)


@pytest.fixture
def home(tmp_path, monkeypatch):
    made = Home(tmp_path, monkeypatch)
    yield made
    made.journal.close()


REF = Ref("leaky", "1.0.0")


def test_a_content_is_scanned_once(home):
    first = home.add(REF, {"shell/a.sh": LEAK})
    again = home.add(Ref("leaky", "1.1.0"), {"shell/a.sh": LEAK, "shell/b.sh": LEAK})
    assert home.scanned == ["metadata.json", "shell/a.sh", "metadata.json"]
    assert {finding.key for finding in again} == {finding.key for finding in first}


def test_another_scanner_scans_again(home, monkeypatch):
    home.add(REF, {"shell/a.sh": LEAK})
    monkeypatch.setattr("core.secrets.scanner.scanner_version", lambda: "next")
    home.scanned.clear()
    assert len(home.add(REF, {"shell/a.sh": LEAK})) == 1
    assert home.scanned == ["metadata.json", "shell/a.sh"]


def test_what_a_value_looks_like_depends_on_the_file(home):
    text = b"password = correcthorse1\n"
    found = home.add(REF, {"shell/a.sh": text, "python/a.py": text})
    assert [finding.path for finding in found] == ["shell/a.sh"]


def test_metadata_parameters_and_plan_are_scanned(home):
    token = "ghp_" + "a1B2" * 9
    found = home.add(
        REF,
        {
            "parameters.json": b'{"parameters": [\n{"name": "db_password",\n "default": "P@ss-1234"}]}',
            "explain_plan.json": f'{{"steps": ["{AWS_ID}"]}}'.encode(),
        },
        description=f"Runs with {token}",
    )
    assert [finding.path for finding in found] == [
        "metadata.json", "parameters.json", "explain_plan.json",
    ]  # fmt: skip


def test_a_changed_status_is_the_same_metadata():
    body = {"name": "x", "status": "ready", "updated_at": 1, "storage_strategy": "local_only"}
    other = body | {"status": "approved", "updated_at": 9, "storage_strategy": "uploaded_trusted"}
    assert metadata_content(body) == metadata_content(other)
    assert metadata_content(body) != metadata_content(body | {"name": "y"})


def test_what_is_sensitive_is_not_scanned(home):
    assert home.add(REF, {"shell/a.sh": LEAK}, sensitive=True) == ()
    assert home.scanned == []


def test_off_scans_nothing_at_intake_and_a_stricter_process_does_later(home):
    home.settings.secrets_gate = "off"
    assert home.add(REF, {"shell/a.sh": LEAK}) == ()
    assert home.scanned == []
    record = home.journal.versions.get(REF)
    files = [FileEntry("shell/a.sh", len(LEAK), sha256_bytes(LEAK))]
    read = {"shell/a.sh": LEAK}
    assert home.gate.findings_of(record, files, lambda _: read) == ()
    assert len(home.gate.findings_of(record, files, lambda _: read, level="block")) == 1
    home.settings.secrets_gate = "warn"
    assert len(home.gate.findings_of(record, files)) == 1


@pytest.mark.parametrize(
    ("fields", "degree"),
    [
        ({}, Degree.POSSIBLE),
        ({"intake": None}, Degree.POSSIBLE),
        ({"intake": "edit"}, Degree.POSSIBLE),
        ({"intake": "import"}, Degree.CERTAIN),
        ({"author": "ai_generated"}, Degree.CERTAIN),
    ],
)
def test_an_allow_list_comment_is_the_word_of_who_made_it_here(home, fields, degree):
    [finding] = home.add(REF, {"shell/a.sh": MARKED}, **fields)
    assert finding.degree is degree
    assert (home.gate.refusal(REF, [finding]) is None) == (degree is Degree.POSSIBLE)


@pytest.mark.parametrize("first", [{"intake": "import"}, {"author": "ai_generated"}])
def test_an_edit_of_what_came_from_elsewhere_is_still_that(home, first):
    home.add(REF, {"shell/a.sh": b"echo\n"}, **first)
    [finding] = home.add(Ref("leaky", "1.0.1"), {"shell/a.sh": MARKED}, intake="edit")
    assert finding.degree is Degree.CERTAIN


def test_the_key_stays_with_line_and_content(home):
    first = home.add(REF, {"shell/a.sh": LEAK + LEAK})
    assert len({finding.key for finding in first}) == 2
    moved = home.add(Ref("other", "2.0.0"), {"shell/z.sh": LEAK + LEAK})
    assert {finding.key for finding in moved} == {finding.key for finding in first}
    changed = home.add(Ref("other", "3.0.0"), {"shell/z.sh": LEAK + LEAK + b"\n"})
    assert not {finding.key for finding in changed} & {finding.key for finding in first}


def test_a_version_that_can_not_be_read_is_passed_over(home):
    from core.errors import NotFound

    def unreadable(_: Ref):
        raise NotFound("not here", "")

    record = VersionRecord(REF, Area.SYNCED, "sha256:0", {"name": "x"})
    files = [FileEntry("shell/a.sh", 3, "sha256:" + "1" * 64)]
    assert home.gate.findings_of(record, files, unreadable) == ()


def test_the_strictest_setting_counts():
    assert stricter("off", None, "warn") == "warn"
    assert stricter("block", "off") == "block"
    assert stricter(None, "nonsense") == "off"


def test_many_slow_files_are_scanned_for_a_minute_and_the_rest_is_certain(home, monkeypatch):
    monkeypatch.setattr("core.playbooks.secrets_gate.VERSION_SECONDS", 0.0)
    found = home.add(REF, {"shell/a.sh": b"echo a\n", "shell/b.sh": b"echo b\n"})
    assert home.scanned == []
    assert {(f.path, f.degree) for f in found} == {
        (path, Degree.CERTAIN) for path in ("metadata.json", "shell/a.sh", "shell/b.sh")
    }


def test_old_scans_of_contents_that_are_gone_are_forgotten(home, monkeypatch):
    now = time.time()
    monkeypatch.setattr("core.journal.findings.time.time", lambda: now - 100 * 86400)
    home.add(REF, {"shell/a.sh": LEAK})
    monkeypatch.undo()
    home.add(Ref("other", "1.0.0"), {"shell/b.sh": b"echo\n"})
    with home.journal.database.read() as connection:
        kept = connection.execute(select(secret_scans.c.checksum)).scalars().all()
    assert sha256_bytes(LEAK) not in kept
    assert sha256_bytes(b"echo\n") in kept
