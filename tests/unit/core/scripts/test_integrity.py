from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import StorageError
from core.files import sha256_bytes, write_tree
from core.journal import Journal
from core.models import FileEntry
from core.scripts import integrity as module
from core.scripts.integrity import HASHED_BYTES, PROOF_SECONDS, Proofs, prove

SMALL = b"echo small\n"
LARGE = b"L" * (HASHED_BYTES + 1)
CONTENT = {"shell/a.sh": SMALL, "shell/lib/large.bin": LARGE}
FILES = tuple(FileEntry(path, len(body), sha256_bytes(body)) for path, body in CONTENT.items())


class Hashing:
    """Counts how often a large file is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        real = module._hash_large

        def counted(fd: int) -> str:
            self.count += 1
            return real(fd)

        monkeypatch.setattr(module, "_hash_large", counted)


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> Hashing:
    monkeypatch.setattr(module, "SETTLED_SECONDS", -1.0)  # the files were written just now
    return Hashing(monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tree(tmp_path / "v1.0.0", CONTENT)
    return tmp_path / "v1.0.0"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(f"sqlite:///{tmp_path / 'journal.db'}")
    yield opened
    opened.close()


@pytest.fixture
def proofs(journal: Journal) -> Proofs:
    return Proofs(journal.proofs)


def test_what_matches_is_proven_and_what_is_beside_the_format_does_not_matter(root, proofs):
    (root / "metadata.json").write_bytes(b"{}")
    assert prove(root, "shell", FILES, proofs) is None
    assert prove(str(root), "shell", FILES, None) is None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "shell/a.sh").write_bytes(SMALL[:-1] + b"x"), "'shell/a.sh' has oth"),
        (lambda root: (root / "shell/a.sh").write_bytes(b""), "'shell/a.sh' has 0 bytes inst"),
        (lambda root: (root / "shell/a.sh").unlink(), "'shell/a.sh' is missing"),
        (lambda root: (root / "shell/b.sh").touch(), "'shell/b.sh' does not belong"),
        (lambda root: (root / "shell/b").symlink_to("a.sh"), "'shell/b' is a symbolic link"),
        (lambda root: os.mkfifo(root / "shell/b"), "'shell/b' does not belong"),
        (lambda root: (root / "shell").rename(root / "python"), "shell is missing"),
        (lambda root: (root / "shell/lib/large.bin").write_bytes(b"M" + LARGE[1:]), "'shell/lib/l"),
        (lambda root: (root / "shell/\udcff.sh").touch(), "does not belong"),
    ],
)
def test_what_does_not_is_named(root, proofs, damage, words):
    damage(root)
    assert words in prove(root, "shell", FILES, proofs)


def test_a_folder_instead_of_the_file_and_the_other_way_round(root, proofs):
    (root / "shell/a.sh").unlink()
    (root / "shell/a.sh").mkdir()
    assert "'shell/a.sh' is missing" in prove(root, "shell", FILES, proofs)
    (root / "python").write_bytes(b"")
    assert "python is missing" in prove(root, "python", FILES, proofs)


def test_a_link_in_place_of_the_format_is_not_followed(root, proofs):
    (root / "shell").rename(root.parent / "elsewhere")
    (root / "shell").symlink_to(root.parent / "elsewhere")
    assert prove(root, "shell", FILES, proofs) == "shell is a symbolic link"


def test_a_large_file_is_hashed_once_a_day_by_all_processes_together(root, journal, hashing):
    now = time.time()
    first = Proofs(journal.proofs, lambda: now)
    for _ in range(3):
        assert prove(root, "shell", FILES, first) is None
    assert hashing.count == 1
    assert prove(root, "shell", FILES, Proofs(journal.proofs, lambda: now)) is None
    assert hashing.count == 1, "another process' proof holds too"
    now += PROOF_SECONDS
    assert prove(root, "shell", FILES, first) is None
    assert hashing.count == 2
    now -= 10 * PROOF_SECONDS
    assert prove(root, "shell", FILES, first) is None
    assert hashing.count == 3, "a proof of the future is none"


def test_a_changed_large_file_is_found_though_size_and_mtime_are_the_same(root, proofs, hashing):
    assert prove(root, "shell", FILES, proofs) is None
    path = root / "shell/lib/large.bin"
    before = path.stat()
    path.write_bytes(b"M" + LARGE[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "other bytes" in prove(root, "shell", FILES, proofs)


def test_a_proof_is_of_one_checksum(root, proofs, hashing):
    assert prove(root, "shell", FILES, proofs) is None
    other = FileEntry(FILES[1].path, FILES[1].size_bytes, sha256_bytes(b"other"))
    assert "other bytes" in prove(root, "shell", [FILES[0], other], proofs)


def test_a_file_that_was_just_written_is_no_proof_yet(root, journal, monkeypatch):
    """A write within the file system's clock tick of the hashing would leave the same times."""
    hashing = Hashing(monkeypatch)
    proofs = Proofs(journal.proofs)
    for _ in range(2):
        assert prove(root, "shell", FILES, proofs) is None
    assert hashing.count == 2


def test_inside_a_write_transaction_nothing_waits_for_itself(root, journal, proofs, hashing):
    with journal.database.write():
        assert prove(root, "shell", FILES, proofs.without_writes()) is None
    assert journal.proofs.get(str(root / "shell/lib/large.bin")) is None
    assert prove(root, "shell", FILES, proofs) is None
    assert hashing.count == 1, "it was kept in memory"


def test_an_unreadable_file_is_wrong_but_a_system_out_of_descriptors_proves_nothing(
    root, proofs, monkeypatch
):
    def failing(code: int):
        def fail(*_: object, **__: object) -> int:
            raise OSError(code, os.strerror(code))

        return fail

    monkeypatch.setattr(module.os, "open", failing(errno.EIO))
    assert "can't be read" in prove(root, "shell", FILES, proofs)
    monkeypatch.setattr(module.os, "open", failing(errno.EMFILE))
    with pytest.raises(StorageError, match="Too many open files"):
        prove(root, "shell", FILES, proofs)
