"""The user's decisions: on what an AI made, on held edits, and that one is sensitive no more."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from core.playbooks.decisions import Decision
from core.playbooks.store import StoreResult
from core.service import PlaybookService
from escher_playbooks.api.body_limit import BoundedRoute
from escher_playbooks.api.dependencies import Service
from escher_playbooks.api.names import known_ref
from escher_playbooks.api.schemas import DecisionBody, DeclassifyBody, HeldBody
from tasks import jobs

router = APIRouter(prefix="/v1/playbooks", tags=["playbooks"], route_class=BoundedRoute)


@router.post("/{playbook_id}/versions/{version}/decision")
def decide(
    playbook_id: str, version: str, body: DecisionBody, service: Service
) -> dict[str, Any]:  # fmt: skip
    """Keep an AI-generated version private, publish it, or discard it."""
    ref, decision = known_ref(playbook_id, version), Decision.parse(body.decision)
    playbook = service.decide(ref, decision)
    return jobs.decided(service, ref, decision, playbook)


@router.post("/{playbook_id}/versions/{version}/held")
def settle_held(
    playbook_id: str, version: str, body: HeldBody, service: Service
) -> dict[str, Any]:  # fmt: skip
    """Take an edit of sensitive content that is held, sealed, or drop it."""
    ref = known_ref(playbook_id, version)
    if body.decision == "discard":
        service.held.discard(service.held.of(str(ref)))
        return {"playbook_id": playbook_id, "version": version, "warnings": [], "job_id": None}
    return _changed(service, service.held.accept(service.held.of(str(ref))))


@router.post("/{playbook_id}/versions/{version}/declassify")
def declassify(
    playbook_id: str, version: str, body: DeclassifyBody, service: Service
) -> dict[str, Any]:  # fmt: skip
    """Make a sensitive version not sensitive: it lies in clear then, and may be published."""
    del body  # that it confirms is its shape
    return _changed(service, service.declassify(known_ref(playbook_id, version)))


def _changed(service: PlaybookService, result: StoreResult) -> dict[str, Any]:
    job = jobs.changed(service, [result.ref])
    return {
        "playbook_id": result.ref.playbook_id,
        "version": result.ref.version,
        "warnings": list(result.warnings),
        "job_id": job.job_id,
    }
