"""Every failure of the service, and what is done about it.

::

    EscherError                     title · detail · remedy
    ├── TransientError              retried with full jitter and a cap, then left to the next sync
    │   ├── ServerUnreachable       no answer: refused, reset, timeout, name not found
    │   ├── ServerBusy              408 425 429 5xx; may carry retry_after
    │   ├── TransferInterrupted     a body ended early or arrived changed
    │   ├── UrlExpired              403 from a pre-signed URL
    │   ├── FilesMissing            424: upload again, then publish
    │   ├── LeaseHeld               another worker works on this version
    │   ├── CacheFull               every cached script is in use; room comes when leases end
    │   ├── JournalUnavailable      its PostgreSQL is away, or gave way to another transaction
    │   ├── IndexBusy               the embedded collection is open in another process
    │   └── BrokerUnreachable       the job is journalled; a later sync picks it up
    └── PermanentError              never retried; the reason is kept where the user looks
        ├── UsageError              the request itself is wrong              (exit 2)
        ├── NotFound                                                         (exit 3)
        ├── InvalidPlaybook         metadata, parameters or files break a rule
        │   ├── UnsafePath          a name that would leave its folder
        │   └── Unreadable          its reader took too long, too much memory, or broke
        ├── Refused                 policy says no                           (exit 5)
        │   ├── AlreadyExists       id@version is taken
        │   │   └── Unchanged       … by this very content
        │   ├── HomeMismatch        the home belongs to another server or tenant
        │   ├── NotRunnable         no version that was asked for may be run here
        │   ├── StateBesideContent  state of a run lies beside the scripts
        │   └── Conflict            409 412: the server holds something else
        ├── ServerRejected          any other 4xx, in the server's words
        │   ├── NotEscherServer     an answer that is not the contract's
        │   └── ForbiddenUrl        the server names a URL that content may not go to or come from
        ├── IntegrityError          bytes are not what they claim to be
        │   ├── OtherContent        the server claims other bytes for a name that is taken
        │   └── WrongKey            the key does not open this content
        ├── KeyUnavailable          no master key could be had
        ├── StorageError            disk full, read-only, not permitted
        ├── HomeInUse               another process holds the home
        ├── ModelUnavailable        the embedding model can't be loaded
        │   └── ModelMismatch       its weights are not the pinned ones
        ├── IndexCorrupt            the collection does not open; it is rebuilt from disk
        └── SettingsError           a setting can't be read

What odd content makes code raise (`CONTENT_FAULTS`) becomes an `Unreadable` of the item at hand,
by `faults_of`, so that one bad item is named and the others go on.

Celery rebuilds an exception from its positional arguments, so every field goes to
``super().__init__``.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Final


class EscherError(Exception):
    """Root of all failures; ``detail`` names the thing, ``remedy`` says what to do about it."""

    title: ClassVar[str] = "Failed"
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    slug: ClassVar[str] = ""  # the contract's name of the problem, where it has one

    def __init__(self, detail: str, remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(detail, remedy, retry_after)
        self.detail = detail
        self.remedy = remedy
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.detail} {self.remedy}".strip()

    @property
    def type(self) -> str:
        """The error's stable name, as programs see it (``type`` of a problem document)."""
        return self.slug or type(self).__name__

    @property
    def members(self) -> dict[str, object]:
        """What a problem document says besides the usual."""
        return {}


class TransientError(EscherError):
    title = "Try again later"
    http_status = 503


class ServerUnreachable(TransientError):
    title = "Server unreachable"
    exit_code = 4


class ServerBusy(TransientError):
    title = "Server busy"
    exit_code = 4


class TransferInterrupted(TransientError):
    title = "Transfer interrupted"
    exit_code = 4


class UrlExpired(TransientError):
    title = "Pre-signed URL expired"
    exit_code = 4


class FilesMissing(TransientError):
    title = "Files have not arrived"
    exit_code = 4


class LeaseHeld(TransientError):
    title = "Being worked on"


class CacheFull(TransientError):
    title = "Script cache is full"


class JournalUnavailable(TransientError):
    title = "Journal unavailable"


class IndexBusy(TransientError):
    title = "Collection in use"


class BrokerUnreachable(TransientError):
    title = "Broker unreachable"


class PermanentError(EscherError):
    title = "Refused"
    http_status = 422


class UsageError(PermanentError):
    title = "Wrong usage"
    exit_code = 2
    http_status = 400


class NotFound(PermanentError):
    title = "Not found"
    exit_code = 3
    http_status = 404


class InvalidPlaybook(PermanentError):
    title = "Invalid playbook"


class UnsafePath(InvalidPlaybook):
    title = "Unsafe path"


class Unreadable(InvalidPlaybook):
    title = "Can't be read"


class Refused(PermanentError):
    title = "Refused"
    exit_code = 5
    http_status = 409


class AlreadyExists(Refused):
    title = "Already exists"


class Unchanged(AlreadyExists):
    title = "Is there already"


class HomeMismatch(Refused):
    title = "Home belongs to another tenant"


class NotRunnable(Refused):
    """What may not be run; ``versions`` says of each ``{version, status, …, reason}``."""

    title = "May not be run"
    slug = "not-runnable"

    def __init__(
        self,
        detail: str,
        remedy: str = "",
        retry_after: float | None = None,
        versions: list[dict[str, object]] | None = None,
    ) -> None:
        super().__init__(detail, remedy, retry_after)
        self.args = (detail, remedy, retry_after, versions)
        self.versions = versions or []

    @property
    def members(self) -> dict[str, object]:
        return {"versions": self.versions}


class StateBesideContent(Refused):
    title = "State beside the content"
    slug = "state-beside-content"


class Conflict(Refused):
    """The server holds something else; ``server`` is its ``{revision, content_digest, …}``."""

    title = "Conflict"

    def __init__(
        self,
        detail: str,
        remedy: str = "",
        retry_after: float | None = None,
        server: dict[str, object] | None = None,
    ) -> None:
        super().__init__(detail, remedy, retry_after)
        self.args = (detail, remedy, retry_after, server)
        self.server = server or {}


class ServerRejected(PermanentError):
    title = "Rejected by the server"
    http_status = 502


class NotEscherServer(ServerRejected):
    title = "Not an Escher server"


class ForbiddenUrl(ServerRejected):
    title = "URL not allowed"


class IntegrityError(PermanentError):
    title = "Content does not match"
    http_status = 500


class OtherContent(IntegrityError):
    title = "Other content under a known name"


class WrongKey(IntegrityError):
    title = "Wrong key"


class KeyUnavailable(PermanentError):
    title = "Key unavailable"
    http_status = 500


class StorageError(PermanentError):
    title = "Storage"
    http_status = 507


class HomeInUse(PermanentError):
    title = "Home in use"
    exit_code = 5
    http_status = 409


class ModelUnavailable(PermanentError):
    title = "Embedding model unavailable"
    http_status = 503


class ModelMismatch(ModelUnavailable):
    title = "Embedding model is not the pinned one"


class IndexCorrupt(PermanentError):
    title = "Collection does not open"
    http_status = 500


class SettingsError(PermanentError):
    title = "Setting"
    exit_code = 2
    http_status = 500


CONTENT_FAULTS: Final[tuple[type[Exception], ...]] = (
    RecursionError, MemoryError, ValueError, TypeError, LookupError, AttributeError,
    ArithmeticError, AssertionError, EOFError,
)  # fmt: skip
"""What code raises on content that nobody foresaw; never a failure of disk, network or journal."""


@contextmanager
def faults_of(what: str) -> Iterator[None]:
    """Name ``what`` in an `Unreadable` where its content makes the code inside raise."""
    try:
        yield
    except CONTENT_FAULTS as error:
        raise unreadable(what, error) from error


def unreadable(what: str, error: Exception) -> Unreadable:
    """The error of an item that made code raise; the exception's own text may hold content."""
    deep = isinstance(error, RecursionError)
    why = "is nested too deeply" if deep else f"can't be read ({type(error).__name__})"
    return Unreadable(f"{what} {why}.", "Look at its files; the others were gone on with.")


def storage_error(error: OSError, doing: str) -> StorageError:
    """Turn an ``OSError`` into words: what was being done, and the remedy for its errno."""
    name = error.filename if isinstance(error.filename, str) else ""
    where = f" ({name})" if name else ""
    remedies = {
        errno.ENOSPC: "The disk is full: free some space and try again; nothing was half-written.",
        errno.EDQUOT: "The disk quota is used up: free some space and try again.",
        errno.EROFS: "The file system is read-only: set ESCHER_HOME to a folder that can be written.",
        errno.EACCES: "Not permitted: check the folder's owner and mode, or set ESCHER_HOME elsewhere.",
        errno.EPERM: "Not permitted: check the folder's owner and mode, or set ESCHER_HOME elsewhere.",
        errno.EMFILE: "Too many open files: raise the limit (ulimit -n) and try again.",
    }
    otherwise = "Check that the path is right and its disk in order, then try again."
    remedy = remedies.get(error.errno or 0, otherwise)
    return StorageError(f"{doing} failed{where}: {error.strerror or error}.", remedy)
