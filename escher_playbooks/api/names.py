"""Ids and versions in paths: what can't be a name can't be there, so it is a 404."""

from __future__ import annotations

from core.errors import InvalidPlaybook, NotFound
from core.models import Ref, check_id, parse_version

_REMEDY = "GET /v1/playbooks lists what is there."


def known_id(playbook_id: str) -> str:
    """A well-formed id; `NotFound` for anything else."""
    try:
        return check_id(playbook_id)
    except InvalidPlaybook as error:
        raise NotFound(f"There is no playbook {playbook_id[:120]!r}.", _REMEDY) from error


def known_ref(playbook_id: str, version: str) -> Ref:
    """A well-formed id and version; `NotFound` for anything else."""
    known_id(playbook_id)
    try:
        parse_version(version)
    except InvalidPlaybook as error:
        raise NotFound(
            f"There is no version {version[:80]!r} of {playbook_id!r}.", _REMEDY
        ) from error
    return Ref(playbook_id, version)
