"""What a caller asks for: a playbook, and one version of it or the latest."""

from __future__ import annotations

from functools import lru_cache

from core.errors import InvalidPlaybook, UsageError
from core.models import check_id
from core.versions import parse_version

LATEST = "latest"
REMEMBERED = 8192


@lru_cache(maxsize=REMEMBERED)
def read_target(target: str) -> tuple[str, str | None]:
    """``id``, ``id@version`` or ``id@latest``: the id, and the version unless it is the latest."""
    playbook_id, at, version = target.partition("@")
    try:
        check_id(playbook_id)
        if not at or version == LATEST:
            return playbook_id, None
        parse_version(version)
    except InvalidPlaybook as error:  # of a request, not of a playbook
        raise UsageError(error.detail, error.remedy) from error
    return playbook_id, version
