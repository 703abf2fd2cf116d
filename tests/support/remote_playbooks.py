"""Playbooks that stand on the server and nowhere else."""

from __future__ import annotations

import random
from collections.abc import Mapping

from core.files import sha256_bytes
from core.models import FileEntry, Ref, content_digest
from core.server.client import EscherServer
from support.playbooks import metadata


def publish_remotely(server: EscherServer, ref: Ref, files: Mapping[str, bytes]) -> None:
    """Upload and commit a version as another machine of the tenant would."""
    body = metadata(
        f"Remote {ref.playbook_id}",
        playbook_id=ref.playbook_id,
        version=ref.version,
        storage_strategy="uploaded_trusted",
        status="ready",
        author="user_custom",
        created_at=1,
        updated_at=1,
    )
    entries = [FileEntry(path, len(data), sha256_bytes(data)) for path, data in files.items()]
    server.publish(
        ref,
        metadata=body,
        vector=None,
        embedding_model=None,
        content_digest=content_digest(body, entries),
        s3_paths=server.upload(ref, files),
        base_revision=None,
    )


def random_script(dice: random.Random, size_bytes: int) -> bytes:
    """Bytes that no other script has; not compressible, so no cut goes unnoticed."""
    return b"#!/bin/sh\n# " + dice.randbytes(max(0, size_bytes - 13)).hex().encode()[:size_bytes]
