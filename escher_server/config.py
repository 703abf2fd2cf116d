"""What the reference server is started with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from core import limits

Role = Literal["member", "reviewer"]
TenantId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Member = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$")]
MEBIBYTE = 1 << 20


class TenantToken(BaseModel):
    """A bearer token to be valid from the start; only its hash is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant_id: TenantId
    token: SecretStr
    role: Role = "member"
    member: Member | None = None
    """Whose token it is; None: the member it had, else a name made of its role and hash."""


class LocalObjects(BaseModel):
    """Objects in files under ``<data_dir>/objects``, served by this server's own signed URLs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["local"] = "local"


class S3Objects(BaseModel):
    """Objects in a bucket; credentials come from boto3's usual chain, never from here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["s3"] = "s3"
    bucket: str
    endpoint_url: str | None = None
    region: str = "us-east-1"


class ServerConfig(BaseModel):
    """Everything the server needs to know; sizes in bytes, times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path
    public_url: str = "http://127.0.0.1:8788"
    """Where clients reach this server; pre-signed URLs start with it."""
    tokens: tuple[TenantToken, ...] = ()
    signing_secret: SecretStr | None = None
    """None: made at the first start and kept in ``<data_dir>/signing.key`` (0600)."""
    faults_enabled: bool = False
    object_store: LocalObjects | S3Objects = Field(
        default_factory=LocalObjects, discriminator="kind"
    )
    library_dir: Path | None = None
    """Escher Library playbooks, ``<escher-id>/v<semver>/…``; read only."""
    embedding_model: str | None = None
    """Search compares only vectors of this model; None compares all of the query's length."""

    agent_deadline_ms: Annotated[int, Field(ge=1, le=60_000)] = 1500
    """How long a search waits for the clients of the agent link."""

    upload_url_ttl_seconds: int = 900
    download_url_ttl_seconds: int = 3600
    max_file_bytes: int = limits.FILE_BYTES
    """Of one file; clients have a setting of their own (``max_script_size_mb``)."""
    max_files_per_upload: int = limits.ANNOUNCED_FILES
    max_json_bytes: int = limits.BODY_BYTES
    max_executions_per_member_day: int = 10_000
    multipart_over_bytes: int = 8 * MEBIBYTE
    part_bytes: int = 8 * MEBIBYTE
