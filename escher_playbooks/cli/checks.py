"""What `doctor` looks at on this machine. Nothing here makes or changes anything of the user's."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import EscherError, IndexBusy
from core.permissions import OTHERS, open_to_others, refuse_links, writable_by_others
from core.settings import Settings

OLDEST_PYTHON = (3, 11)
WANTED_BYTES = 1 << 30  # the model's working files, logs and a few thousand playbooks
MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `doctor`; ``remedy`` only where something is wrong."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""

    @classmethod
    def from_error(cls, name: str, error: EscherError) -> Finding:
        return cls(name, False, error.detail, error.remedy)


def python_version(_settings: Settings) -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info[:2] >= OLDEST_PYTHON
    yield Finding("python", ok, found, "" if ok else "Install Python 3.11 or later.")


def setting_files(settings: Settings) -> Iterator[Finding]:
    """Says where a `.env` lies that is not read."""
    from escher_playbooks.cli.setting_sources import ignored_dotenv

    for sentence in ignored_dotenv(Path(), settings.home):
        yield Finding("settings", True, sentence)


def home(settings: Settings) -> Iterator[Finding]:
    path = settings.home
    if not path.exists():
        parent = _nearest(path)
        ok = os.access(parent, os.W_OK | os.X_OK)
        remedy = "" if ok else "Set ESCHER_HOME to a folder that can be made."
        yield Finding("home", ok, f"{path} is made at the first use, in {parent}", remedy)
        return
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in {0, os.geteuid()}:
        detail = f"{path} belongs to user {found.st_uid}, who can change everything in it"
        yield Finding("home", False, detail, "Make it your own, or set ESCHER_HOME elsewhere.")
    elif not os.access(path, os.W_OK | os.X_OK):
        remedy = "Change its owner or mode, or set ESCHER_HOME elsewhere."
        yield Finding("home", False, f"{path} can't be written", remedy)
    elif mode & OTHERS:
        detail = f"{path} is open to others (mode {mode:04o})"
        remedy = f"The next command that opens the home closes it, or: chmod 700 {path}"
        yield Finding("home", False, detail, remedy)
    else:
        yield Finding("home", True, f"{path} (mode {mode:04o})")


def modes(settings: Settings) -> Iterator[Finding]:
    """Everything in the home is this user's alone."""
    found = open_to_others(settings.home)
    if found:
        shown = ", ".join(str(path) for path in found[:5])
        detail = (
            f"{len(found)} files and folders are open to others ({shown}{', …' * (len(found) > 5)})"  # noqa: PLR2004  some names tell enough
        )
        remedy = f"`escher-playbooks up` closes them, or: chmod -R go= {settings.home}"
        yield Finding("modes", False, detail, remedy)
    elif writable := writable_by_others(settings):
        shown = " and ".join(map(str, writable))
        remedy = f"chmod go-w {' '.join(map(str, writable))}"
        yield Finding("modes", False, f"{shown} can be changed by others", remedy)
    elif settings.home.exists():
        yield Finding("modes", True, "everything in the home is private")


def links(settings: Settings) -> Iterator[Finding]:
    """The home's own folders are no links; raises what names the first that is."""
    refuse_links(settings)
    yield Finding("links", True, "none leads out of the home")


def disk_space(settings: Settings) -> Iterator[Finding]:
    for path in dict.fromkeys([settings.home, settings.playbooks_path, settings.cache_path]):
        place = _nearest(path)
        free = shutil.disk_usage(place).free
        ok = free >= WANTED_BYTES
        remedy = "" if ok else f"Free at least {WANTED_BYTES // MEBIBYTE} MiB."
        yield Finding("disk space", ok, f"{free // MEBIBYTE} MiB free for {path}", remedy)
        if (
            place == _nearest(settings.home)
            and settings.playbooks_dir is settings.cache_dir is None
        ):
            return  # all on one disk


def encryption_key(settings: Settings) -> Iterator[Finding]:
    from core.encryption import load_master_key

    source = settings.encryption_key_source
    if source == "file" and not settings.key_path.exists():
        yield Finding("encryption key", True, f"{settings.key_path} is made at the first use")
        return
    try:
        key = load_master_key(settings, create=False)
    except EscherError as error:
        yield Finding.from_error("encryption key", error)
    else:
        where = settings.key_path if source == "file" else f"from {source}"
        yield Finding("encryption key", True, f"{where}, id {key.key_id}")


def secret_files(settings: Settings) -> Iterator[Finding]:
    for name, path in (
        ("API token", settings.api_token_path),
        ("server token", settings.server_token_path),
        ("Flower password", settings.flower_auth_path),
    ):
        if not path.exists():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            detail = f"{path} can be read by others (mode {mode:04o})"
            yield Finding(name, False, detail, f"chmod 600 {path}")
        else:
            yield Finding(name, True, f"{path} (mode {mode:04o})")


def journal(settings: Settings) -> Iterator[Finding]:
    from core.journal import Journal

    if settings.journal_url is None and not (settings.home / "journal.db").exists():
        yield Finding("journal", True, "journal.db is made at the first use")
        return
    try:
        opened = Journal(settings.effective_journal_url)
        try:
            counts, intents = opened.versions.counts(), opened.intents.open()
        finally:
            opened.close()
    except EscherError as error:
        yield Finding.from_error("journal", error)
        return
    detail = f"{counts['playbooks']} playbooks, {counts['versions']} versions"
    yield Finding("journal", True, detail)
    if intents:
        refs = ", ".join(str(intent.ref) for intent in intents[:5])
        yield Finding(
            "unfinished changes",
            False,
            f"{len(intents)} changes were begun and not finished ({refs})",
            "Any command that opens the home finishes them, such as `escher-playbooks status`; "
            "if they stay, run `escher-playbooks verify`.",
        )


def server_changes(settings: Settings) -> Iterator[Finding]:
    """How old what is known of the server is, and what of it waits for the user."""
    from core.journal import Journal
    from core.journal.pulls import STALE
    from core.service.status import pull_status

    if settings.journal_url is None and not (settings.home / "journal.db").exists():
        return
    opened = Journal(settings.effective_journal_url)
    try:
        known = pull_status(opened)
    finally:
        opened.close()
    name, is_well = "server's changes", True
    for wrong, detail, remedy in (
        (known["warnings"], STALE, "`escher-playbooks sync --wait` says what keeps it."),
        (
            known["deletions_waiting"],
            f"{known['deletions_waiting']} deletions wait, as they are many at once",
            "Look at `escher-playbooks status`; `sync --accept-deletions` carries them out.",
        ),
        (
            known["passed_over"],
            f"{known['passed_over']} changes of the server can't be taken in",
            "`escher-playbooks sync --wait` names them.",
        ),
        (
            known["absent"],
            f"{known['absent']} published versions are not on the server",
            "The home that published them sends them again; sync there.",
        ),
    ):
        if wrong:
            is_well = False
            yield Finding(name, False, detail, remedy)
    if is_well and known["pulled_at"] is not None:
        yield Finding(name, True, "read to their end within 24 h, and all taken in")


def embedding_model(settings: Settings) -> Iterator[Finding]:
    from core.rag.embedding import SentenceTransformerEmbedder

    embedder = SentenceTransformerEmbedder(settings.embedding_model)
    try:
        digest = embedder.fingerprint
    except EscherError as error:
        yield Finding.from_error("embedding model", error)
    else:
        yield Finding("embedding model", True, f"{settings.embedding_model}, {digest[:19]}…")


def collection(settings: Settings) -> Iterator[Finding]:
    """Opens the embedded collection as the model that made it, so nothing is thrown away."""
    from core.rag.edge import EdgeCollection
    from core.rag.edge_files import load_manifest, manifest_path

    if not settings.embeds_qdrant:
        return  # looked at over the network
    path = settings.collection_path
    manifest = load_manifest(manifest_path(path))
    if manifest is None:
        yield Finding("collection", True, f"{path} is built from the folders at the first use")
        return
    try:
        opened = EdgeCollection.open(
            path, model=manifest.model, fingerprint=manifest.fingerprint, wait_seconds=0
        )
    except IndexBusy:
        yield Finding("collection", True, f"{path} is in use by a running process")
        return
    except EscherError as error:
        yield Finding.from_error("collection", error)
        return
    try:
        points, damaged = opened.count(), manifest.complete and opened.needs_rebuild
    finally:
        opened.close()
    if damaged:
        remedy = "`escher-playbooks reindex` builds it again from the folders."
        yield Finding("collection", False, f"{path} was damaged and is empty now", remedy)
    else:
        yield Finding("collection", True, f"{path}, {points} points")


def _nearest(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    while not path.exists():
        path = path.parent
    return path
