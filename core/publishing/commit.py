"""Step 2: the metadata and the vector; the server's answer is the commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from core.errors import Conflict, FilesMissing, NotEscherServer, Refused
from core.journal.records import VersionRecord
from core.models import Ref, SyncState
from core.publishing.policy import forbidden
from core.publishing.verdicts import WAITING, Judge, Verdict
from core.server.answers import Published
from core.server.client import EscherServer
from core.server.problems import CHECK_URL


class Commit:
    """Publishes one version with its vector; errors are the batch's to judge."""

    def __init__(
        self,
        server: EscherServer,
        judge: Judge,
        vectors: Mapping[Ref, list[float]],
        embedding_model: str,
    ) -> None:
        self._server = server
        self._judge = judge
        self._vectors = vectors
        self._embedding_model = embedding_model

    def __call__(self, record: VersionRecord) -> Verdict:
        reason = forbidden(record)
        if reason is not None:
            raise Refused(f"{record.ref} is not published: {reason}.")
        vector = self._vectors.get(record.ref)
        if vector is None:
            return Verdict(WAITING)
        strategy = record.publish_as or record.strategy
        try:
            published = self._server.publish(
                record.ref,
                metadata={**record.metadata, "storage_strategy": strategy.value},
                vector=vector,
                embedding_model=self._embedding_model,
                content_digest=record.content_digest,
                s3_paths=record.s3_paths,
                base_revision=record.revision,
            )
        except FilesMissing as error:
            return self._judge.deferred(record, error, {"uploaded_digest": None, "s3_paths": {}})
        except Conflict as error:
            published = _same_content(record, error)
        return _committed(record, published)


def _committed(record: VersionRecord, published: Published) -> Verdict:
    facts = {
        "revision": published.revision,
        "published_digest": record.content_digest,
        "published_at": published.published_at,
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


def _same_content(record: VersionRecord, conflict: Conflict) -> Published:
    """The server's standing where it holds this very content; else a `Conflict` in clear words.

    Same version, same content digest is no conflict, whatever the history: the first answer may
    have been lost, or another machine published the same.
    """
    server = conflict.server
    remedy = "Choose with `escher-playbooks conflicts resolve`; both contents are kept."
    if not server:
        raise Conflict(
            f"The server has no revision {record.revision} of {record.ref}: it lost or forgot it.",
            remedy,
        )
    if server.get("deleted"):
        raise Conflict(f"{record.ref} was deleted on the server.", remedy, server=_small(server))
    if server.get("content_digest") != record.content_digest:
        raise Conflict(
            f"The server already holds {record.ref} with other content"
            f" (revision {server.get('revision')}).",
            remedy,
            server=_small(server),
        )
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
