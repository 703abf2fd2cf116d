"""What deletions of the other side took from here."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter

from core.models import Ref
from escher_playbooks.api.dependencies import Service
from tasks import jobs

router = APIRouter(prefix="/v1/trash", tags=["conflicts"])
Json = dict[str, Any]


@router.get("")
def list_trash(service: Service) -> Json:
    """What is in the trash, the newest first, and until when it is kept."""
    days = service.settings.trash_days
    return {"items": [entry.as_json(days) for entry in service.trash.entries()]}


@router.post("/{playbook_id}/{version}/restoration", status_code=HTTPStatus.CREATED)
def restore(playbook_id: str, version: str, service: Service) -> Json:
    """Bring a version back as a private one, under the next free version."""
    ref = Ref.parse(f"{playbook_id}@{version}")
    return jobs.restored(service, service.restore_from_trash(ref))
