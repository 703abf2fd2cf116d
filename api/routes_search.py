"""Search, and the scripts of what was found."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from api.dependencies import Service
from api.names import known_id, known_ref
from api.schemas import SearchBody
from core.models import Area
from tasks import jobs

router = APIRouter(prefix="/v1", tags=["search"])
Json = dict[str, Any]
LATEST = "latest"


@router.post("/search")
def search(body: SearchBody, service: Service) -> Json:
    """The best playbooks for a query, best first; ``degraded`` when found by words alone."""
    filters = body.filters.model_dump(exclude_none=True)
    return jobs.search(service, body.query, filters, body.limit).as_json()


@router.get("/scripts/{playbook_id}/{version}/{format}")
def script(playbook_id: str, version: str, format: str, service: Service) -> Json:  # noqa: A002  the contract's name
    """Where the verified entry script stands; ``version`` may be ``latest``."""
    target = known_id(playbook_id)
    if version != LATEST:
        target = str(known_ref(playbook_id, version))
    path = service.resolve_script(playbook_id, format, version)
    ref = service.store.resolve(target)
    inside = path.relative_to(service.store.folder(ref)).as_posix()
    file = {f.entry.path: f.entry for f in service.journal.versions.files(ref)}[inside]
    is_synced = service.store.get(ref).area is Area.SYNCED
    return {
        "path": str(path),
        "checksum": file.checksum,
        "size_bytes": file.size_bytes,
        "source": "synced" if is_synced else "local",
        "playbook_id": ref.playbook_id,
        "version": ref.version,
    }
