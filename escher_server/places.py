"""The ``s3://`` names that clients know files by; where the bytes really are is the store's."""

from __future__ import annotations

TENANT_BUCKET = "s3://escher-tenant-data"
LIBRARY_BUCKET = "s3://escher-library"


def tenant_base(tenant_id: str, playbook_id: str, version: str) -> str:
    """Where a published version's files are; no slash at the end."""
    return f"{TENANT_BUCKET}/tenants/{tenant_id}/playbooks/{playbook_id}/v{version}"
