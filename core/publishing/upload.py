"""Step 1: the files of a version into the tenant space; nothing is committed yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from core.errors import EscherError, IntegrityError, Refused, TransferInterrupted
from core.files import json_bytes, sha256_bytes
from core.journal import Journal
from core.journal.records import VersionRecord
from core.models import METADATA_FILE, FileEntry, content_digest
from core.publishing.policy import forbidden
from core.publishing.ports import Source
from core.publishing.verdicts import WAITING, Verdict
from core.server.client import EscherServer

SECRET_WARNING = "may hold a secret: "  # noqa: S105 — the beginning of a warning
MAX_NAMED_FINDINGS = 10

log = logging.getLogger(__name__)


class Upload:
    """Uploads one version; errors are the batch's to judge."""

    def __init__(
        self, journal: Journal, server: EscherServer, source: Source, secrets_gate: str
    ) -> None:
        self._journal = journal
        self._server = server
        self._source = source
        self._secrets_gate = secrets_gate

    def __call__(self, record: VersionRecord) -> Verdict:
        """Read, scan, send. `WAITING` when the content became another one meanwhile."""
        reason = forbidden(record)
        if reason is not None:
            raise Refused(f"{record.ref} is not uploaded: {reason}.")
        contents = self._read(record)
        if contents is None:
            return Verdict(WAITING)
        state = self._pass_gate(record, contents)
        try:
            s3_paths = self._server.upload(record.ref, contents)
        except IntegrityError as error:
            # what is in memory is not what was announced: begin anew with what is on disk
            raise TransferInterrupted(error.detail, "It is read again and sent anew.") from None
        facts = {"uploaded_digest": record.content_digest, "s3_paths": s3_paths}
        return Verdict(facts=facts, state=state)

    def _read(self, record: VersionRecord) -> dict[str, bytes] | None:
        """The content of ``record``, hashed once more; None when it is no longer current."""
        try:
            contents = self._source.published_files(record.ref)
        except EscherError:
            if self._is_stale(record):
                return None
            raise
        entries = [
            FileEntry(path, len(content), sha256_bytes(content))
            for path, content in contents.items()
        ]
        if content_digest(record.metadata, entries) == record.content_digest:
            return contents
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
        self, record: VersionRecord, contents: Mapping[str, bytes]
    ) -> dict[str, tuple[str, ...]]:
        """Scan for secrets before anything leaves; the row's warnings when they change.

        `Refused` under ``block``. Findings name path, line and kind, never what was found.
        """
        if self._secrets_gate == "off":
            return {}
        from core.publishing.secrets import scan  # compiles its patterns: only where they are used

        findings = [
            finding.as_text()
            for finding in scan({METADATA_FILE: json_bytes(record.metadata), **contents})
        ]
        if findings and self._secrets_gate == "block":
            named = ", ".join(findings[:MAX_NAMED_FINDINGS])
            more = len(findings) - MAX_NAMED_FINDINGS
            raise Refused(
                f"{record.ref} may hold secrets: {named}{f' and {more} more' if more > 0 else ''}.",
                "Take them out, or mark a line with the comment `pragma: allowlist secret`.",
            )
        others = tuple(text for text in record.warnings if not text.startswith(SECRET_WARNING))
        warnings = others + tuple(SECRET_WARNING + text for text in findings)
        if findings:
            log.warning("%s: %d findings of the secrets scan", record.ref, len(findings))
        return {} if warnings == record.warnings else {"warnings": warnings}
