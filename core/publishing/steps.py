"""Step 1: the files of a version into the tenant space; nothing is committed yet."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pydantic import ValidationError

from core.errors import (
    Conflict,
    EscherError,
    FilesMissing,
    IntegrityError,
    NotEscherServer,
    Refused,
    TransferInterrupted,
    TransientError,
)
from core.files import sha256_bytes
from core.journal import Journal
from core.journal.conflicts import Conflicts
from core.journal.records import VersionRecord, executables
from core.models import DONE, Area, FileEntry, Outcome, OutcomeState, Ref, SyncState, content_digest
from core.playbooks.remote_versions import PulledVersions, Source
from core.playbooks.secrets_gate import Known, SecretsGate, stricter
from core.publishing.batch import CONFLICT_REMEDY, WAITING, Batch, Judge, Verdict
from core.publishing.conflict_rules import Here, Rule, There, decide
from core.publishing.policy import forbidden, is_published
from core.secrets.findings import named
from core.server.answers import Published
from core.server.client import EscherServer
from core.server.problems import CHECK_URL

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


# Step 2: the metadata and the vector; the server's answer is the commit.


class Commit:
    """Publishes one version with its vector; errors are the batch's to judge.

    What the server holds against it follows the conflict rules: the same content is no conflict, a
    deletion there gives way to the wish to publish, and what the user is to choose is written down.
    """

    def __init__(
        self,
        server: EscherServer,
        conflicts: Conflicts,
        judge: Judge,
        vectors: Mapping[Ref, list[float]],
        embedding_model: str,
        pins: Mapping[Ref, str] | None = None,
        shut: Collection[str] = (),
    ) -> None:
        """``pins``: the contents that names stand for; ``shut``: ids whose conflict waits."""
        self._server = server
        self._conflicts = conflicts
        self._judge = judge
        self._vectors = vectors
        self._embedding_model = embedding_model
        self._pins = pins or {}
        self._shut = shut

    def __call__(self, record: VersionRecord) -> Verdict:
        reason = forbidden(record)
        if reason is not None:
            raise Refused(f"{record.ref} is not published: {reason}.")
        self._check_name(record)
        vector = self._vectors.get(record.ref)
        if vector is None:
            return Verdict(WAITING)
        try:
            base = None if record.absent_since is not None else record.revision
            published = self._publish(record, vector, base)
        except FilesMissing as error:
            return self._judge.deferred(record, error, {"uploaded_digest": None, "s3_paths": {}})
        return _committed(record, published)

    def _check_name(self, record: VersionRecord) -> None:
        """`Conflict` where the name stands for other content, or the id waits for a choice."""
        ref = record.ref
        if ref.playbook_id in self._shut:
            words = f"The server has versions of {ref.playbook_id}, which is private here."
            raise Conflict(words, CONFLICT_REMEDY)
        pinned = self._pins.get(ref)
        if pinned not in {None, record.content_digest, record.published_digest}:
            words = f"{ref} was published once, and its name stands for what it held then."
            self._conflicts.open(ref, Rule.NAME_IS_TAKEN, words, server_digest=pinned)
            raise Conflict(words, CONFLICT_REMEDY)

    def _publish(
        self, record: VersionRecord, vector: list[float], base_revision: int | None
    ) -> Published:
        strategy = record.publish_as or record.strategy
        try:
            return self._server.publish(
                record.ref,
                metadata={**record.metadata, "storage_strategy": strategy.value},
                vector=vector,
                embedding_model=self._embedding_model,
                content_digest=record.content_digest,
                s3_paths=record.s3_paths,
                base_revision=base_revision,
            )
        except Conflict as error:
            if error.server.get("deleted") and base_revision is not None:
                # deleted there, and here the wish to publish it: as a version it never had
                return self._publish(record, vector, None)
            same = _same_content(record, error)
            if same is not None:
                return same
            raise self._opened(record, error) from None

    def _opened(self, record: VersionRecord, error: Conflict) -> Conflict:
        """Write the conflict down for the user, or for the rule that the next pull follows."""
        rule, words = _rule_and_words(record, error.server)
        there = _small(error.server)
        revision, digest = there.get("revision"), there.get("content_digest")
        self._conflicts.open(
            record.ref,
            rule,
            words,
            server_revision=revision if isinstance(revision, int) else None,
            server_digest=digest if isinstance(digest, str) else None,
        )
        return Conflict(words, CONFLICT_REMEDY, server=there)


def _committed(record: VersionRecord, published: Published) -> Verdict:
    facts = {
        "revision": published.revision,
        "published_digest": record.content_digest,
        "published_at": published.published_at,
        "published_here": True,
        "absent_since": None,
        "status_at": int(time.time()),
    }
    # metadata.json on disk follows when the version settles
    metadata = {
        **record.metadata,
        "status": published.status.value,
        "storage_strategy": published.storage_strategy.value,
        "updated_at": max(published.published_at, record.metadata["created_at"]),
    }
    # pending whatever became of the wish meanwhile: what is committed is settled, not withdrawn
    return Verdict(facts=facts, state={"metadata": metadata, "sync_state": SyncState.PENDING})


def _rule_and_words(record: VersionRecord, server: Mapping[str, Any]) -> tuple[Rule, str]:
    """What the rules say of a version that is to be published, and the server's other content."""
    ref, revision = record.ref, server.get("revision")
    digest = server.get("content_digest")
    if not isinstance(revision, int) or not isinstance(digest, str):
        return (
            Rule.OPEN_CONFLICT,
            f"The server refused revision {record.revision} of {ref} and does not say what it has.",
        )
    words = f"The server already holds {ref} with other content (revision {revision})."
    if server.get("deleted"):
        return Rule.NAME_IS_TAKEN, f"{ref} was deleted on the server, and names what it held then."
    here = Here(
        digest=record.content_digest,
        published_digest=record.published_digest,
        revision=record.revision,
        synced=record.area is Area.SYNCED,
    )
    # no time is given: an answer to this very call is not stale
    rule = decide(here, There(digest, revision, updated_at=1))
    if rule is Rule.EDIT_BECOMES_SUCCESSOR:
        return rule, f"{words} The next sync makes a new version of what is here."
    return Rule.OPEN_CONFLICT, words


def _same_content(record: VersionRecord, conflict: Conflict) -> Published | None:
    """The server's standing where it holds this very content; else None.

    Same version, same content digest is no conflict, whatever the history: the first answer may
    have been lost, or another machine published the same.
    """
    server = conflict.server
    if server.get("deleted") or server.get("content_digest") != record.content_digest:
        return None
    metadata = server.get("metadata")
    held: dict[str, Any] = metadata if isinstance(metadata, dict) else {}
    try:
        return Published.model_validate(
            {
                "revision": server.get("revision"),
                "status": held.get("status"),
                "storage_strategy": held.get("storage_strategy"),
                "published_at": server.get("updated_at"),
            },
            strict=False,
        )
    except ValidationError:
        raise NotEscherServer(
            f"The server's account of {record.ref} is not as the contract says.", CHECK_URL
        ) from None


def _small(server: Mapping[str, Any]) -> dict[str, object]:
    """What the server holds, without its metadata: an error crosses the broker."""
    names = ("revision", "content_digest", "updated_at", "deleted")
    return {name: server[name] for name in names if name in server}


# Deleting published versions: the server first, confirmed, then the folder and the row.

NO_REVISION = 0  # revisions count from 1, so this one never matches


class Removal:
    """Deletes one version at the server; a 404 there confirms it too."""

    def __init__(
        self,
        server: EscherServer,
        source: Source,
        judge: Judge,
        conflicts: Conflicts,
        folders: PulledVersions | None = None,
    ) -> None:
        self._server = server
        self._source = source
        self._judge = judge
        self._conflicts = conflicts
        self._folders = folders

    def __call__(self, record: VersionRecord) -> Verdict:
        try:
            self._delete(record)
        except Conflict as error:
            return self._kept(record, error)
        except (TransientError, NotEscherServer):
            raise
        except EscherError as error:
            return _not_deleted(record, error.type, f"Not deleted: {error}", {})
        return Verdict()

    def forget(self, batch: Batch, records: list[VersionRecord]) -> None:
        """Remove what the server confirmed from here, all at once, else one by one."""
        if not records:
            return
        try:
            untouched = [record.ref for record in records if not self._kept_edit(record)]
            self._source.delete(untouched)
        except Exception as error:  # noqa: BLE001 — an item's mistake is its own, as in Batch.work
            if len(records) > 1:
                for record in records:
                    self.forget(batch, [record])
            else:  # asked again later: the server answers 404 or the same as before
                batch.settle([(records[0], self._judge.again(records[0], error))])
        else:
            batch.outcomes.update((record.ref, DONE) for record in records)

    def _kept_edit(self, record: VersionRecord) -> bool:
        """Remove one that was edited since its deletion was asked for, and keep the edit."""
        if self._folders is None or not self._folders.is_edited(record.ref):
            return False
        words = f"{record.ref} was deleted, and had been edited: a copy of the edit is kept."
        note = partial(self._conflicts.note, record.ref, Rule.DELETION_GOES_ON, words, "deleted")
        self._folders.drop(record.ref, copy="edits", on_kept=note)
        return True

    def _delete(self, record: VersionRecord) -> None:
        if record.revision is not None:
            self._server.delete(record.ref, record.revision)
            return
        # uploaded, and the answer to publishing may have been lost: ask what the server holds
        try:
            self._server.delete(record.ref, NO_REVISION)
        except Conflict as error:
            if error.server.get("content_digest") != record.content_digest:
                return  # somebody else's: nothing of ours is there
            revision = error.server.get("revision")
            if not isinstance(revision, int):
                raise
            self._server.delete(record.ref, revision)

    def _kept(self, record: VersionRecord, error: Conflict) -> Verdict:
        """The change there wins: an edit can be deleted again, a deletion can't be undone."""
        facts: dict[str, Any] = {}
        revision = error.server.get("revision")
        if error.server.get("content_digest") == record.content_digest:
            if isinstance(revision, int):
                facts["revision"] = revision  # so that deleting again means what is there now
            words = f"{record.ref} changed on the server meanwhile and was not deleted."
        else:
            words = f"{record.ref} has other content on the server and was not deleted."
        self._conflicts.note(record.ref, Rule.CHANGE_BEATS_DELETION, words, resolution="theirs")
        return _not_deleted(record, error.type, words + " Delete it again to insist.", facts)


def _not_deleted(record: VersionRecord, type_: str, words: str, facts: dict[str, Any]) -> Verdict:
    state = {
        "deleting": False,
        "sync_state": SyncState.PUBLISHED if is_published(record) else SyncState.FAILED,
        "error_type": type_,
        "error": words,
        "attempts": 0,
        "next_attempt_at": None,
    }
    return Verdict(Outcome(OutcomeState.FAILED, type_, words), facts, state)
