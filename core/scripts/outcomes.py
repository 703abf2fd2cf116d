"""How the failure of a script is put into words, written down and read again."""

from __future__ import annotations

import logging
import traceback

from core import errors
from core.errors import EscherError
from core.journal.downloads import DownloadRow
from core.models import Outcome, OutcomeState
from core.scripts.entries import ScriptKey

WAITING = Outcome(OutcomeState.WAITING)

log = logging.getLogger(__name__)


def in_words(key: ScriptKey, error: BaseException) -> EscherError:
    """``error`` as one of ours; a mistake is told by its kind and place, its text may hold content."""
    if isinstance(error, EscherError):
        return error
    if not isinstance(error, Exception):
        return errors.TransferInterrupted(f"The attempt on {key} was interrupted.", "Ask again.")
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
    kind = type(error).__name__
    log.error("%s failed with %s at %s", key, kind, place)
    return errors.PermanentError(f"Unexpected {kind} at {place}.", "Please report it.")


def error_of(row: DownloadRow) -> EscherError:
    """The failure that a row tells of, as another process wrote it down."""
    kind = getattr(errors, row.error_type or "", None)
    if not (isinstance(kind, type) and issubclass(kind, EscherError)):
        kind = EscherError
    return kind(row.error or "The last attempt failed.")
