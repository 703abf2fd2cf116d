"""The steps of publishing for one version; `core.publishing.batch` runs them on many.

::

    Upload     the files into the tenant space; nothing is committed yet
    Commit     the metadata and the vector; the server's answer is the commit
    Removal    the server deletes, confirmed; then the folder and the row go

Each takes a version's row and returns a `StepResult`; what it raises is the batch's to turn into one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
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
    UnsafePath,
)
from core.files import check_relative_path
from core.journal import Journal
from core.journal.versions import VersionRecord
from core.models import (
    DONE,
    RESERVED_PREFIX,
    Area,
    FileEntry,
    Outcome,
    OutcomeState,
    Ref,
    Strategy,
    SyncState,
    content_digest,
    executables,
    file_entries,
)
from core.playbooks.remote_versions import RemoteVersions
from core.playbooks.secrets_gate import Known, SecretsGate, stricter
from core.playbooks.store import PlaybookStore
from core.publishing.batch import (
    CONFLICT_REMEDY,
    NO_ERROR,
    WAITING,
    Batch,
    FailurePolicy,
    StepResult,
    at_once_or_each,
)
from core.publishing.conflict_rules import Here, Rule, There, decide
from core.secrets import named
from core.server.answers import CHECK_URL, Published
from core.server.client import EscherServer

NO_REVISION = 0  # revisions count from 1, so this one never matches
_FORMER_WARNING = "may hold a secret: "  # findings stood among the warnings once

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Context:
    """What the steps of one home work with."""

    journal: Journal
    server: EscherServer
    store: PlaybookStore
    folders: RemoteVersions
    secrets: SecretsGate
    failures: FailurePolicy


@dataclass(frozen=True, slots=True)
class Upload:
    """Uploads the files of one version; ``known``: what is kept of the batch's secret scans."""

    context: Context
    known: Known

    def __call__(self, record: VersionRecord) -> StepResult:
        """Read, look at the secrets gate, send; `WAITING` when the content became another one."""
        reason = forbidden(record)
        if reason is not None:
            raise Refused(f"{record.ref} is not uploaded: {reason}.")
        read = self._read(record)
        if read is None:
            return StepResult(WAITING)
        contents, entries = read
        self.context.store.check_uploadable(record.ref)
        self._pass_gate(record, entries, contents)
        try:
            s3_paths = self.context.server.upload(record.ref, contents, entries)
        except IntegrityError as error:
            # what is in memory is not what was announced: begin anew with what is on disk
            raise TransferInterrupted(error.detail, "It is read again and sent anew.") from None
        facts = {"uploaded_digest": record.content_digest, "s3_paths": s3_paths}
        return StepResult(facts=facts, state=_without_former_warnings(record))

    def _read(self, record: VersionRecord) -> tuple[dict[str, bytes], tuple[FileEntry, ...]] | None:
        """The content of ``record``, hashed once more; None when it is no longer current."""
        try:
            contents = self.context.store.published_files(record.ref)
        except EscherError:
            if self._is_stale(record):
                return None
            raise
        marked = executables(self.context.journal.versions.files(record.ref))
        entries = file_entries(contents, marked)
        if content_digest(record.metadata, entries) == record.content_digest:
            return contents, entries
        if self._is_stale(record):
            return None
        raise IntegrityError(
            f"The files of {record.ref} are not those the journal knows.",
            "`escher-playbooks verify` says which; update the playbook with the right content.",
        )

    def _is_stale(self, record: VersionRecord) -> bool:
        current = self.context.journal.versions.get(record.ref)
        return current is None or current.content_digest != record.content_digest

    def _pass_gate(
        self, record: VersionRecord, entries: Sequence[FileEntry], contents: Mapping[str, bytes]
    ) -> None:
        """Look at what the scan found, before anything leaves; `Refused` under ``block``.

        The stricter setting counts: this process' own, or that of whoever asked to publish.
        """
        secrets = self.context.secrets
        level = stricter(secrets.level, record.publish_gate)
        if level == "off":
            return
        found = secrets.findings_of(
            record, entries, lambda _: contents, level=level, known=self.known
        )
        if not found:
            return
        refusal = secrets.refusal(record.ref, found) if level == "block" else None
        if refusal is not None:
            raise refusal
        log.warning("%s is sent, and may hold secrets: %s", record.ref, named(found))


def _without_former_warnings(record: VersionRecord) -> dict[str, tuple[str, ...]]:
    """The row's warnings, when they change: an earlier format kept findings among them."""
    kept = tuple(text for text in record.warnings if not text.startswith(_FORMER_WARNING))
    return {} if kept == record.warnings else {"warnings": kept}


@dataclass(frozen=True, slots=True)
class Commit:
    """Publishes one version with its vector.

    What the server holds against it follows the conflict rules: the same content is no conflict, a
    deletion there gives way to the request to publish, and what the user is to choose is written
    down. ``pins``: the contents that names stand for; ``shut``: ids whose conflict waits.
    """

    context: Context
    vectors: Mapping[Ref, list[float]]
    embedding_model: str
    pins: Mapping[Ref, str]
    shut: Collection[str]

    def __call__(self, record: VersionRecord) -> StepResult:
        reason = forbidden(record)
        if reason is not None:
            raise Refused(f"{record.ref} is not published: {reason}.")
        self._check_name(record)
        vector = self.vectors.get(record.ref)
        if vector is None:
            return StepResult(WAITING)
        try:
            base = None if record.absent_since is not None else record.revision
            published = self._publish(record, vector, base)
        except FilesMissing as error:
            return self.context.failures.deferred(
                record, error, {"uploaded_digest": None, "s3_paths": {}}
            )
        return _committed(record, published)

    def _check_name(self, record: VersionRecord) -> None:
        """`Conflict` where the name stands for other content, or the id waits for a choice."""
        ref = record.ref
        if ref.playbook_id in self.shut:
            words = f"The server has versions of {ref.playbook_id}, which is private here."
            raise Conflict(words, CONFLICT_REMEDY)
        pinned = self.pins.get(ref)
        if pinned not in {None, record.content_digest, record.published_digest}:
            words = f"{ref} was published once, and its name stands for what it held then."
            self.context.journal.conflicts.open(
                ref, Rule.NAME_IS_TAKEN, words, server_digest=pinned
            )
            raise Conflict(words, CONFLICT_REMEDY)

    def _publish(
        self, record: VersionRecord, vector: list[float], base_revision: int | None
    ) -> Published:
        strategy = record.publish_as or record.strategy
        try:
            return self.context.server.publish(
                record.ref,
                metadata={**record.metadata, "storage_strategy": strategy.value},
                vector=vector,
                embedding_model=self.embedding_model,
                content_digest=record.content_digest,
                s3_paths=record.s3_paths,
                base_revision=base_revision,
            )
        except Conflict as error:
            if error.server.get("deleted") and base_revision is not None:
                # deleted there, and to be published from here: as a version it never had
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
        self.context.journal.conflicts.open(
            record.ref,
            rule,
            words,
            server_revision=revision if isinstance(revision, int) else None,
            server_digest=digest if isinstance(digest, str) else None,
        )
        return Conflict(words, CONFLICT_REMEDY, server=there)


def _committed(record: VersionRecord, published: Published) -> StepResult:
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
    # pending whatever was asked meanwhile: what is committed is settled, not withdrawn
    return StepResult(facts=facts, state={"metadata": metadata, "sync_state": SyncState.PENDING})


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
    """The server's answer as if it had just been given, where it holds this very content; else None.

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


@dataclass(frozen=True, slots=True)
class Removal:
    """Deletes one version at the server; a 404 there confirms it too."""

    context: Context

    def __call__(self, record: VersionRecord) -> StepResult:
        try:
            self._delete(record)
        except Conflict as error:
            return self._kept(record, error)
        except (TransientError, NotEscherServer):
            raise
        except EscherError as error:
            return _not_deleted(record, error.type, f"Not deleted: {error}", {})
        return StepResult()

    def forget(self, batch: Batch, records: Sequence[VersionRecord]) -> None:
        """Remove from here what the server confirmed."""
        # what does not go is asked for again: the server answers 404 then, or the same as before
        failures = self.context.failures
        gone = at_once_or_each(
            records,
            self._remove,
            lambda record, error: batch.write([(record, failures.deferred(record, error))]),
        )
        batch.outcomes.update((record.ref, DONE) for record in gone)

    def _remove(self, records: Sequence[VersionRecord]) -> None:
        untouched = [record.ref for record in records if not self._kept_edit(record)]
        self.context.store.delete(untouched)

    def _kept_edit(self, record: VersionRecord) -> bool:
        """Remove one that was edited since its deletion was asked for, and keep the edit."""
        if not self.context.folders.is_edited(record.ref):
            return False
        words = f"{record.ref} was deleted, and had been edited: a copy of the edit is kept."
        conflicts = self.context.journal.conflicts
        note = partial(conflicts.note, record.ref, Rule.DELETION_GOES_ON, words, "deleted")
        self.context.folders.drop(record.ref, copy="edits", on_kept=note)
        return True

    def _delete(self, record: VersionRecord) -> None:
        server = self.context.server
        if record.revision is not None:
            server.delete(record.ref, record.revision)
            return
        # uploaded, and the answer to publishing may have been lost: ask what the server holds
        try:
            server.delete(record.ref, NO_REVISION)
        except Conflict as error:
            if error.server.get("content_digest") != record.content_digest:
                return  # somebody else's: nothing of ours is there
            revision = error.server.get("revision")
            if not isinstance(revision, int):
                raise
            server.delete(record.ref, revision)

    def _kept(self, record: VersionRecord, error: Conflict) -> StepResult:
        """The change there wins: an edit can be deleted again, a deletion can't be undone."""
        facts: dict[str, Any] = {}
        revision = error.server.get("revision")
        if error.server.get("content_digest") == record.content_digest:
            if isinstance(revision, int):
                facts["revision"] = revision  # so that deleting again means what is there now
            words = f"{record.ref} changed on the server meanwhile and was not deleted."
        else:
            words = f"{record.ref} has other content on the server and was not deleted."
        self.context.journal.conflicts.note(
            record.ref, Rule.CHANGE_BEATS_DELETION, words, resolution="theirs"
        )
        return _not_deleted(record, error.type, words + " Delete it again to insist.", facts)


def _not_deleted(
    record: VersionRecord, type_: str, words: str, facts: dict[str, Any]
) -> StepResult:
    state = NO_ERROR | {
        "deleting": False,
        "sync_state": SyncState.PUBLISHED if is_published(record) else SyncState.FAILED,
        "error_type": type_,
        "error": words,
    }
    return StepResult(Outcome(OutcomeState.FAILED, type_, words), facts, state)


def forbidden(record: VersionRecord) -> str | None:
    """Return why this content must not leave this machine, or None."""
    if record.sensitive:
        return "sensitive: a sensitive playbook never leaves this machine"
    if record.strategy is Strategy.DEFAULT or record.ref.playbook_id.startswith(RESERVED_PREFIX):
        return "using_default: it is the Escher Library's, there is nothing to send"
    if record.area is Area.AI_GENERATED:
        return "ai-generated: decide first (escher-playbooks decide ID@VERSION review|trusted)"
    return _refused_entry_point(record)


def _refused_entry_point(record: VersionRecord) -> str | None:
    """Name an entry point that the server refuses; what came in before had no one form of them."""
    entries = record.metadata.get("entry_points")
    for path in entries.values() if isinstance(entries, Mapping) else ():
        try:
            check_relative_path(str(path))
        except UnsafePath:
            mend = f"escher-playbooks update {record.ref.playbook_id} DIR"
            return f"entry_points names {path!r}: `{mend}` stores it in the form that is sent"
    return None


def is_published(record: VersionRecord) -> bool:
    """Tell whether the server has committed exactly this content."""
    return record.revision is not None and record.published_digest == record.content_digest
