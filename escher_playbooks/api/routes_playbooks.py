"""Playbooks. Handlers are plain functions: FastAPI runs them in threads, as they wait on disk."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query

from core.models import Strategy
from core.playbooks.store import StoreResult
from core.service import PlaybookService
from escher_playbooks.api.body_limit import BoundedRoute
from escher_playbooks.api.dependencies import Service
from escher_playbooks.api.names import known_id, known_ref
from escher_playbooks.api.schemas import PlaybookBody, StatusBody, StrategyText
from tasks import jobs

router = APIRouter(prefix="/v1/playbooks", tags=["playbooks"], route_class=BoundedRoute)
Json = dict[str, Any]


@router.post("", status_code=HTTPStatus.CREATED)
def create(body: PlaybookBody, service: Service) -> Json:
    """Check and store a playbook; its indexing and publishing are the job ``job_id``."""
    strategy = Strategy.parse(body.strategy) if body.strategy else None
    return _stored(service, service.create(body.draft(), strategy=strategy))


@router.get("")
def list_playbooks(
    service: Service,
    status: str | None = None,
    strategy: StrategyText | None = None,
    cloud: str | None = None,
    author: str | None = None,
    sync: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[
        str | None, Query(max_length=200, description="As next_cursor gave it.")
    ] = None,
) -> Json:
    """A page of playbooks, each by its latest matching version, without files."""
    items, next_cursor = service.catalog.list_page(
        status=status,
        strategy=Strategy.parse(strategy).value if strategy else None,
        cloud=cloud,
        author=author,
        sync=sync,
        limit=limit,
        cursor=cursor,
    )
    return {"items": [item.as_json(with_files=False) for item in items], "next_cursor": next_cursor}


@router.get("/{playbook_id}")
def show(playbook_id: str, service: Service) -> Json:
    """The latest version."""
    return service.catalog.show(known_id(playbook_id)).as_json()


@router.get("/{playbook_id}/versions")
def versions(playbook_id: str, service: Service) -> Json:
    """Every version, the lowest first, without files."""
    items = service.catalog.versions_of(known_id(playbook_id))
    return {"items": [item.as_json(with_files=False) for item in items]}


@router.get("/{playbook_id}/versions/{version}")
def show_version(playbook_id: str, version: str, service: Service) -> Json:
    """One version."""
    return service.catalog.show(str(known_ref(playbook_id, version))).as_json()


@router.put("/{playbook_id}")
def update(playbook_id: str, body: PlaybookBody, service: Service) -> Json:
    """Replace the latest version's content; a published one gets a new version instead."""
    strategy = Strategy.parse(body.strategy) if body.strategy else None
    return _stored(service, service.update(known_id(playbook_id), body.draft(), strategy=strategy))


@router.delete("/{playbook_id}", status_code=HTTPStatus.ACCEPTED)
def delete(playbook_id: str, service: Service) -> Json:
    """Delete all versions; those that are published go once the server has confirmed."""
    return _deleted(service, known_id(playbook_id))


@router.delete("/{playbook_id}/versions/{version}", status_code=HTTPStatus.ACCEPTED)
def delete_version(playbook_id: str, version: str, service: Service) -> Json:
    """Delete one version; a published one goes once the server has confirmed."""
    return _deleted(service, str(known_ref(playbook_id, version)))


@router.post("/{playbook_id}/versions/{version}/status")
def set_status(playbook_id: str, version: str, body: StatusBody, service: Service) -> Json:
    """Change a version's status; of a published one the server decides."""
    ref = known_ref(playbook_id, version)
    return service.set_status(ref, body.status, body.reason).as_json()


def _stored(service: PlaybookService, result: StoreResult) -> Json:
    job = jobs.changed(service, [result.ref])
    return {
        "playbook_id": result.ref.playbook_id,
        "version": result.ref.version,
        "warnings": list(result.warnings),
        "findings": [finding.as_json() for finding in result.findings],
        "job_id": job.job_id,
    }


def _deleted(service: PlaybookService, target: str) -> Json:
    return {"job_id": jobs.submit(service, "delete", refs=[target]).job_id}
