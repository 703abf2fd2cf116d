"""Step 2: the metadata and the vector; the server's answer is the commit."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from core.errors import Conflict, FilesMissing, NotEscherServer, Refused
from core.journal.conflicts import Conflicts
from core.journal.records import VersionRecord
from core.models import Area, Ref, SyncState
from core.publishing.conflict_rules import Here, Rule, There, decide
from core.publishing.policy import forbidden
from core.publishing.verdicts import CONFLICT_REMEDY, WAITING, Judge, Verdict
from core.server.answers import Published
from core.server.client import EscherServer
from core.server.problems import CHECK_URL


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
