"""Step 1: the files of a version into the tenant space; nothing is committed yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from core.errors import EscherError, IntegrityError, Refused, TransferInterrupted
from core.files import sha256_bytes
from core.journal import Journal
from core.journal.records import VersionRecord, executables
from core.models import FileEntry, content_digest
from core.publishing.policy import forbidden
from core.publishing.ports import Source
from core.publishing.verdicts import WAITING, Verdict
from core.secrets.findings import named
from core.secrets.gate import Known, SecretsGate, stricter
from core.server.client import EscherServer

_FORMER_WARNING = "may hold a secret: "  # findings stood among the warnings once

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Read:
    """The bytes of a version, and what they are."""

    contents: dict[str, bytes]
    entries: tuple[FileEntry, ...]


class Upload:
    """Uploads one version; errors are the batch's to judge."""

    def __init__(
        self,
        journal: Journal,
        server: EscherServer,
        source: Source,
        secrets: SecretsGate,
        known: Known | None = None,
    ) -> None:
        self._journal = journal
        self._server = server
        self._source = source
        self._secrets = secrets
        self._known = known  # what is kept of the batch's scans, read with one query

    def __call__(self, record: VersionRecord) -> Verdict:
        """Read, look at the secrets gate, send. `WAITING` when the content became another one."""
        reason = forbidden(record)
        if reason is not None:
            raise Refused(f"{record.ref} is not uploaded: {reason}.")
        read = self._read(record)
        if read is None:
            return Verdict(WAITING)
        self._source.check_leaving(record.ref)
        self._pass_gate(record, read.entries, read.contents)
        try:
            s3_paths = self._server.upload(record.ref, read.contents, read.entries)
        except IntegrityError as error:
            # what is in memory is not what was announced: begin anew with what is on disk
            raise TransferInterrupted(error.detail, "It is read again and sent anew.") from None
        facts = {"uploaded_digest": record.content_digest, "s3_paths": s3_paths}
        return Verdict(facts=facts, state=_without_former_warnings(record))

    def _read(self, record: VersionRecord) -> _Read | None:
        """The content of ``record``, hashed once more; None when it is no longer current."""
        try:
            contents = self._source.published_files(record.ref)
        except EscherError:
            if self._is_stale(record):
                return None
            raise
        entries = tuple(
            FileEntry(path, len(content), sha256_bytes(content))
            for path, content in contents.items()
        )
        if content_digest(record.metadata, entries) == record.content_digest:
            return _Read(contents, entries)
        if marked := executables(self._journal.versions.files(record.ref)):
            entries = tuple(replace(e, executable=e.path in marked) for e in entries)
            if content_digest(record.metadata, entries) == record.content_digest:
                return _Read(contents, entries)
        if self._is_stale(record):
            return None
        raise IntegrityError(
            f"The files of {record.ref} are not those the journal knows.",
            "`escher-playbooks verify` says which; update the playbook with the right content.",
        )

    def _is_stale(self, record: VersionRecord) -> bool:
        current = self._journal.versions.get(record.ref)
        return current is None or current.content_digest != record.content_digest

    def _pass_gate(
        self, record: VersionRecord, entries: Sequence[FileEntry], contents: Mapping[str, bytes]
    ) -> None:
        """Look at what the scan found, before anything leaves; `Refused` under ``block``.

        The stricter setting counts: this process' own, or that of whoever asked to publish.
        """
        level = stricter(self._secrets.level, record.publish_gate)
        if level == "off":
            return
        found = self._secrets.findings_of(
            record, entries, lambda _: contents, level=level, known=self._known
        )
        if not found:
            return
        refusal = self._secrets.refusal(record.ref, found) if level == "block" else None
        if refusal is not None:
            raise refusal
        log.warning("%s is sent, and may hold secrets: %s", record.ref, named(found))


def _without_former_warnings(record: VersionRecord) -> dict[str, tuple[str, ...]]:
    """The row's warnings, when they change: an earlier format kept findings among them."""
    kept = tuple(text for text in record.warnings if not text.startswith(_FORMER_WARNING))
    return {} if kept == record.warnings else {"warnings": kept}
