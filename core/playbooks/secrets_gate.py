"""The gate before every upload: scans each content once, says what was found, and may refuse.

::

    intake (create, update, import, edit)     scan ► keep, by checksum and scanner version
    show, publish, upload                     kept; what is not is scanned then

The stricter setting counts: that of whoever asked to publish (kept in the version's row as
``publish_gate``) and that of the process that uploads. What is sensitive is not scanned: it holds
secrets by its nature, and never leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

from core.errors import EscherError, NotFound, Refused, UsageError
from core.files import json_bytes, sha256_bytes
from core.journal import Journal, VersionRecord
from core.journal.findings import Scanned, SecretRows
from core.models import METADATA_FILE, FileEntry, Ref
from core.secrets import Degree, SecretFinding, Spot, finding_key, named, scanner
from core.settings import Settings

LEVELS = ("off", "warn", "block")
MAX_REASON_CHARS = 500
VERSION_SECONDS = 60.0  # of processor time, for all files of a version
NOT_SCANNED = Spot(
    0,
    f"not scanned: the files before it took longer than {VERSION_SECONDS:.0f} s",
    Degree.CERTAIN,
)

# They change without the content; None in their place, so that the lines stay.
_CHANGING_FIELDS = (
    "status", "storage_strategy", "created_at", "updated_at", "execution_count", "success_count",
    "last_executed",
)  # fmt: skip

Item = tuple[VersionRecord, Sequence[FileEntry]]
Known = dict[tuple[str, str], tuple[Spot, ...]]
"""Spots by checksum and syntax."""


def stricter(*levels: str | None) -> str:
    """Return the strictest of some settings; None and what is unknown say nothing."""
    known = [LEVELS.index(level) for level in levels if level in LEVELS]
    return LEVELS[max(known, default=0)]


def check_level(level: str | None) -> str | None:
    """Return ``level`` when it is one, else raise `UsageError`."""
    if level is not None and level not in LEVELS:
        raise UsageError(f"secrets_gate {level!r} is unknown.", f"Use one of {', '.join(LEVELS)}.")
    return level


def metadata_content(metadata: Mapping[str, object]) -> bytes:
    """Return ``metadata.json`` as it is scanned: the same bytes as long as its content is the same."""
    return json_bytes(
        {key: None if key in _CHANGING_FIELDS else value for key, value in metadata.items()}
    )


class SecretsGate:
    """Scans versions, keeps what was found, and says whether they may leave; safe in threads."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self._settings = settings
        self._journal = journal
        self._rows = SecretRows(journal.database)

    @property
    def level(self) -> str:
        """The setting of this process."""
        return self._settings.secrets_gate

    # -- scanning ---------------------------------------------------------------------------
    def scan_new(self, metadata: Mapping[str, object], files: Mapping[str, bytes]) -> list[Scanned]:
        """Scan what no scan is kept of; `keep` writes it down. Nothing where the gate is off.

        ``files`` in their published form: what leaves is what is scanned.
        """
        if self.level == "off" or metadata.get("sensitive"):
            return []
        return self._scan({METADATA_FILE: metadata_content(metadata), **files})

    def keep(self, scans: Sequence[Scanned]) -> None:
        """Keep the results of scans, in one transaction."""
        if scans:
            self._rows.keep(scans, scanner.scanner_version())

    def _scan(self, contents: Mapping[str, bytes]) -> list[Scanned]:
        wanted: dict[tuple[str, str], tuple[str, bytes]] = {}
        for path, content in contents.items():
            wanted.setdefault((sha256_bytes(content), _syntax(path)), (path, content))
        known = self._known(checksum for checksum, _ in wanted)
        deadline = time.thread_time() + VERSION_SECONDS
        scans = []
        for key, (path, content) in wanted.items():
            if key not in known:
                in_time = time.thread_time() < deadline
                spots = scanner.scan_content(path, content) if in_time else [NOT_SCANNED]
                scans.append(Scanned(*key, tuple(spots)))
        return scans

    def known(self, items: Sequence[Item]) -> Known:
        """Look up what is kept of these versions, with one query for many, for `findings_of` each."""
        return self._known(key[0] for item in items for _, key in _keys(item))

    def _known(self, checksums: Iterable[str]) -> Known:
        kept = self._rows.kept(checksums, scanner.scanner_version())
        return {(scan.checksum, scan.syntax): scan.spots for scan in kept}

    # -- what was found ---------------------------------------------------------------------
    def findings(
        self,
        items: Sequence[Item],
        read: Callable[[Ref], Mapping[str, bytes]] | None = None,
        *,
        level: str | None = None,
        known: Known | None = None,
    ) -> dict[Ref, tuple[SecretFinding, ...]]:
        """Return what was found in these versions; those without findings are left out.

        ``read`` gives the published form of a version of which something was not scanned yet; one
        that can't be read is passed over. Without it, what is kept has to do. ``known`` is what
        `known` gave for these and others.
        """
        items = [(record, files) for record, files in items if not record.sensitive]
        kept = self.known(items) if known is None else known
        if read is not None and (level or self.level) != "off":
            kept = kept | self._scan_missing(items, kept, read)
        told: dict[Ref, tuple[SecretFinding, ...]] = {}
        for record, files in items:
            seen = [
                (path, key[0], spot)
                for path, key in _keys((record, files))
                for spot in kept.get(key, ())
            ]
            if seen:
                told[record.ref] = self._findings(record, seen)
        return told

    def findings_of(
        self,
        record: VersionRecord,
        files: Sequence[FileEntry],
        read: Callable[[Ref], Mapping[str, bytes]] | None = None,
        *,
        level: str | None = None,
        known: Known | None = None,
    ) -> tuple[SecretFinding, ...]:
        """`findings` of one version."""
        found = self.findings([(record, files)], read, level=level, known=known)
        return found.get(record.ref, ())

    def _findings(
        self, record: VersionRecord, seen: Sequence[tuple[str, str, Spot]]
    ) -> tuple[SecretFinding, ...]:
        """Spots (with path and checksum) as findings in just this version."""
        keys = [finding_key(checksum, spot) for _, checksum, spot in seen]
        accepted = self._rows.accepted(keys)
        comments = any(spot.marked for *_, spot in seen) and self._comments_count(record)
        return tuple(
            SecretFinding(
                path=f"{path}!/{spot.member}" if spot.member else path,
                line=spot.line,
                kind=spot.kind,
                degree=Degree.POSSIBLE if spot.marked and comments else spot.degree,
                key=key,
                accepted=accepted.get(key),
            )
            for key, (path, _, spot) in zip(keys, seen, strict=True)
        )

    def _scan_missing(
        self,
        items: Sequence[Item],
        known: Known,
        read: Callable[[Ref], Mapping[str, bytes]],
    ) -> Known:
        scans: dict[tuple[str, str], Scanned] = {}
        for record, files in items:
            missing = {
                path
                for path, key in _keys((record, files))
                if key not in known and key not in scans
            }
            if not missing:
                continue
            contents = {METADATA_FILE: metadata_content(record.metadata)}
            if missing != {METADATA_FILE}:
                try:
                    contents |= read(record.ref)
                except EscherError:
                    continue  # not here, or edited: it is scanned when it is taken in
            for scan in self._scan({p: c for p, c in contents.items() if p in missing}):
                scans[scan.checksum, scan.syntax] = scan
        self.keep(list(scans.values()))
        return {key: scan.spots for key, scan in scans.items()}

    def _comments_count(self, record: VersionRecord) -> bool:
        """Whether an allow-list comment is the user's own word: nothing of the id came from elsewhere.

        An edit or update of what was imported, or of what an AI wrote, is still that.
        """
        return not any(
            row.intake in {"import", "ai"} or row.metadata.get("author") == "ai_generated"
            for row in (record, *self._journal.versions.of_playbook(record.ref.playbook_id))
        )

    # -- letting pass -----------------------------------------------------------------------
    def refusal(self, ref: Ref, findings: Sequence[SecretFinding]) -> Refused | None:
        """Return why `block` does not let ``ref`` pass, or None."""
        stops = [finding for finding in findings if finding.stops]
        if not stops:
            return None
        return Refused(
            f"{ref} may hold secrets: {named(stops)}.",
            "Take them out. What is none is let pass by "
            f"`escher-playbooks publish {ref} --accept-finding KEY --reason TEXT`.",
        )

    @staticmethod
    def check_acceptance(where: str, keys: Container[str], wanted: Mapping[str, str]) -> None:
        """Raise `NotFound` for a key that is none of ``keys``, `UsageError` for one without a reason."""
        for key, reason in wanted.items():
            if key not in keys:
                raise NotFound(
                    f"There is no finding {key[:40]!r} in {where}.",
                    "`escher-playbooks show ID@VERSION` lists them with their keys.",
                )
            if not reason.strip() or len(reason) > MAX_REASON_CHARS:
                raise UsageError(
                    f"Finding {key} needs a reason of 1 to {MAX_REASON_CHARS} characters.",
                    "Say why it may leave this machine.",
                )

    def accept(
        self, ref: Ref, findings: Sequence[tuple[SecretFinding, str]], accepted_by: str
    ) -> None:
        """Let findings of a version pass, each for its reason."""
        self._rows.accept(ref, findings, accepted_by)


def _syntax(path: str) -> str:
    return scanner.syntax_of(path)


def _keys(item: Item) -> list[tuple[str, tuple[str, str]]]:
    """(path, what its scan is kept under) of everything that leaves with a version."""
    record, files = item
    own = sha256_bytes(metadata_content(record.metadata)), _syntax(METADATA_FILE)
    return [
        (METADATA_FILE, own),
        *((file.path, (file.checksum, _syntax(file.path))) for file in files),
    ]
