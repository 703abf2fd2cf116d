"""The library of Escher's playbooks: `PlaybookService`, its `PlaybookConfig`, and its exceptions.

::

    from escher_playbooks import PlaybookConfig, PlaybookService

    with PlaybookService.open(PlaybookConfig(home="/srv/escher")) as service:
        path = service.resolve_script("stop-idle-databases", "shell")

Importing it loads nothing of them until they are named, so the command line's help stays quick.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.errors import (
        AlreadyExists,
        BrokerUnreachable,
        CacheFull,
        Conflict,
        EscherError,
        FilesMissing,
        ForbiddenUrl,
        HomeInUse,
        HomeMismatch,
        IndexBusy,
        IndexCorrupt,
        IntegrityError,
        InvalidPlaybook,
        JournalUnavailable,
        KeyUnavailable,
        LeaseHeld,
        ModelMismatch,
        ModelUnavailable,
        NotEscherServer,
        NotFound,
        NotRunnable,
        OtherContent,
        PermanentError,
        Refused,
        ServerBusy,
        ServerRejected,
        ServerUnreachable,
        SettingsError,
        StateBesideContent,
        StorageError,
        TransferInterrupted,
        TransientError,
        Unchanged,
        Unreadable,
        UnsafePath,
        UrlExpired,
        UsageError,
        WrongKey,
    )
    from core.models import (
        Outcome,
        OutcomeState,
        Playbook,
        PlaybookDraft,
        PlaybookMetadata,
        Ref,
        Status,
        Strategy,
    )
    from core.reports import DeleteReport, PlaybookSearchResult
    from core.service import PlaybookService
    from core.settings import Settings as PlaybookConfig

__all__ = [
    "AlreadyExists",
    "BrokerUnreachable",
    "CacheFull",
    "Conflict",
    "DeleteReport",
    "EscherError",
    "FilesMissing",
    "ForbiddenUrl",
    "HomeInUse",
    "HomeMismatch",
    "IndexBusy",
    "IndexCorrupt",
    "IntegrityError",
    "InvalidPlaybook",
    "JournalUnavailable",
    "KeyUnavailable",
    "LeaseHeld",
    "ModelMismatch",
    "ModelUnavailable",
    "NotEscherServer",
    "NotFound",
    "NotRunnable",
    "OtherContent",
    "Outcome",
    "OutcomeState",
    "PermanentError",
    "Playbook",
    "PlaybookConfig",
    "PlaybookDraft",
    "PlaybookMetadata",
    "PlaybookSearchResult",
    "PlaybookService",
    "Ref",
    "Refused",
    "ServerBusy",
    "ServerRejected",
    "ServerUnreachable",
    "SettingsError",
    "StateBesideContent",
    "Status",
    "StorageError",
    "Strategy",
    "TransferInterrupted",
    "TransientError",
    "Unchanged",
    "Unreadable",
    "UnsafePath",
    "UrlExpired",
    "UsageError",
    "WrongKey",
]

_NOT_ERRORS = {
    "DeleteReport": "core.reports",
    "PlaybookSearchResult": "core.reports",
    "PlaybookConfig": "core.settings",
    "PlaybookService": "core.service",
    **dict.fromkeys(
        (
            "Outcome", "OutcomeState", "Playbook", "PlaybookDraft", "PlaybookMetadata",
            "Ref", "Status", "Strategy",
        ),
        "core.models",
    ),
}  # fmt: skip
_NAMES_THERE = {"PlaybookConfig": "Settings"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for; `AttributeError` for any other."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_NOT_ERRORS.get(name, "core.errors"))
    value = getattr(module, _NAMES_THERE.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _check_neighbours() -> None:
    """Refuse to go on with somebody else's ``core`` or ``tasks``; `ImportError` names the file.

    The names are common ones, and whatever stands earlier on Python's path answers to them.
    """
    here = Path(__file__).resolve().parent.parent
    for name in ("core", "tasks"):
        if name in sys.modules:
            origin = getattr(sys.modules[name], "__file__", None)
        else:
            spec = find_spec(name)
            origin = spec.origin if spec is not None else None
        if origin is None or Path(origin).resolve().parent.parent != here:
            found = (
                f"is {Path(origin).resolve()}"
                if origin
                else "can't be found, or is a folder without __init__.py"
            )
            raise ImportError(
                f"escher_playbooks needs its own package {name!r}, in {here}; {name!r} {found}. "
                f"Rename that file or folder, or take its folder off Python's path "
                f"(PYTHONPATH, the current folder: python -P leaves the latter out).",
                name=name,
            )


_check_neighbours()
