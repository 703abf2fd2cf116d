"""The user's decision on a playbook that an AI made."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from api.dependencies import Service
from api.names import known_ref
from api.schemas import DecisionBody
from core.playbooks.decisions import Decision
from tasks import follow_ups

router = APIRouter(prefix="/v1/playbooks", tags=["playbooks"])


@router.post("/{playbook_id}/versions/{version}/decision")
def decide(
    playbook_id: str, version: str, body: DecisionBody, service: Service
) -> dict[str, Any]:  # fmt: skip
    """Keep an AI-generated version private, publish it, or discard it."""
    ref, decision = known_ref(playbook_id, version), Decision.parse(body.decision)
    playbook = service.decide(ref, decision)
    return follow_ups.decided(service, ref, decision, playbook)
