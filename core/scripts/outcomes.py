"""What a batch says of each of its scripts, and how a failure is written down and read again.

As in publishing, a transient failure is due again after full jitter over 5 s, 10 s, 20 s … up to an
hour, or later where the server asked for it; a permanent one waits for the user.
"""

from __future__ import annotations

import logging
import math
import random
import traceback
from collections.abc import Callable

from core import errors
from core.errors import EscherError, NotEscherServer, TransientError
from core.journal.downloads import DownloadRow
from core.models import Outcome, OutcomeState
from core.scripts.entries import ScriptKey
from core.server.retry import full_jitter

BASE_SECONDS = 5.0
CAP_SECONDS = 3600.0
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


def outcome_of(
    error: EscherError,
    attempts: int,
    now: float,
    random: Callable[[], float] = random.random,
) -> Outcome:
    """Deferred or failed; ``attempts`` counts the failures before this one, ``now`` Unix seconds."""
    # an answer that is no Escher server's (a hotel's sign-in page) says nothing of the script
    if not isinstance(error, TransientError | NotEscherServer):
        return Outcome(OutcomeState.FAILED, error.type, str(error))
    jitter = full_jitter(
        attempts, base_seconds=BASE_SECONDS, cap_seconds=CAP_SECONDS, random=random
    )
    wait = max(jitter, min(error.retry_after or 0.0, CAP_SECONDS))
    return Outcome(OutcomeState.DEFERRED, error.type, str(error), math.ceil(now + wait))


def error_of(row: DownloadRow) -> EscherError:
    """The failure that a row tells of, as another process wrote it down."""
    kind = getattr(errors, row.error_type or "", None)
    if not (isinstance(kind, type) and issubclass(kind, EscherError)):
        kind = EscherError
    return kind(row.error or "The last attempt failed.")
