"""What scans found and what was let pass: the journal's ``secret_scans``, ``accepted_findings``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import delete, select

from core.journal.database import Database
from core.journal.rows import chunks
from core.journal.tables import accepted_findings, secret_scans
from core.journal.tables import files as files_table
from core.models import Ref
from core.secrets import Accepted, Degree, SecretFinding, Spot

UNUSED_SECONDS = 90 * 86400  # a content that no version has (any more) is forgotten after that


class Scanned(NamedTuple):
    """What a scan found in a content, read as a file of a syntax."""

    checksum: str
    syntax: str
    spots: tuple[Spot, ...]


class SecretRows:
    """What the scan found, by content, and which findings were let pass."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def kept(self, checksums: Iterable[str], scanner_version: str) -> list[Scanned]:
        """The scans of these contents by just this scanner."""
        found: list[Scanned] = []
        with self._database.read() as connection:
            for part in chunks(sorted(set(checksums))):
                rows = connection.execute(
                    select(secret_scans).where(
                        secret_scans.c.checksum.in_(part),
                        secret_scans.c.scanner_version == scanner_version,
                    )
                )
                found += [Scanned(row.checksum, row.syntax, _spots(row.spots)) for row in rows]
        return found

    def keep(self, scans: Sequence[Scanned], scanner_version: str) -> None:
        """Write scans down, in one transaction, over those of another scanner.

        Old ones of contents that no version has (any more) go at the same time.
        """
        now = int(time.time())
        unique = {(scan.checksum, scan.syntax): scan for scan in scans}
        rows: list[dict[str, Any]] = [
            {
                "checksum": scan.checksum,
                "syntax": scan.syntax,
                "scanner_version": scanner_version,
                "spots": scan.spots,
                "scanned_at": now,
            }
            for scan in unique.values()
        ]
        if rows:
            with self._database.write() as connection:
                self._database.put(secret_scans, rows, connection)
                old = secret_scans.c.scanned_at < now - UNUSED_SECONDS
                unused = secret_scans.c.checksum.not_in(select(files_table.c.checksum))
                connection.execute(delete(secret_scans).where(old, unused))

    # -- accepted ---------------------------------------------------------------------------
    def accepted(self, keys: Iterable[str]) -> dict[str, Accepted]:
        """Those of the findings that somebody let pass, by key."""
        found: dict[str, Accepted] = {}
        with self._database.read() as connection:
            for part in chunks(sorted(set(keys))):
                rows = connection.execute(
                    select(accepted_findings).where(accepted_findings.c.finding_key.in_(part))
                )
                for row in rows:
                    passed = Accepted(row.accepted_by, row.accepted_at, row.reason)
                    found[row.finding_key] = passed
        return found

    def accept(
        self, ref: Ref, findings: Sequence[tuple[SecretFinding, str]], accepted_by: str
    ) -> None:
        """Let findings pass, each for its reason; one that was accepted before stays as it was."""
        now = int(time.time())
        rows = [
            {
                "finding_key": finding.key,
                "ref": str(ref),
                "path": finding.path,
                "line": finding.line,
                "kind": finding.kind,
                "accepted_by": accepted_by[:200],
                "reason": reason,
                "accepted_at": now,
            }
            for finding, reason in findings
        ]
        self._database.put_new(accepted_findings, rows)


def _spots(rows: list[list[Any]]) -> tuple[Spot, ...]:
    return tuple(
        Spot(line, kind, Degree(degree), marked, member)
        for line, kind, degree, marked, member in rows
    )
