"""The methods of `PlaybookService` about syncing, and the interval for users of the library."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from typing import Any

from core.errors import EscherError
from core.models import Ref, SyncState
from core.secret_methods import SecretMethods
from core.sync import SyncPlan
from core.sync_report import read_report, write_report

_log = logging.getLogger(__name__)


class BackgroundSync:
    """A thread that syncs at an interval until `stop`."""

    def __init__(self, sync: Callable[[], object], interval_seconds: float) -> None:
        self._sync = sync
        self._interval = interval_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="escher-sync", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._sync()
            except EscherError as error:  # the next one finds what this one left
                _log.warning("the background sync failed: %s", error)
            except Exception:  # noqa: BLE001 — a mistake of ours must not end syncing for good
                _log.exception("the background sync failed unexpectedly")
            self._stopping.wait(self._interval)

    def stop(self, timeout: float | None = None) -> None:
        """End it after the sync that may be running; waits for that, ``timeout`` seconds at most."""
        self._stopping.set()
        self._thread.join(timeout)


class SyncMethods(SecretMethods):
    """What `PlaybookService` hands on to the sync."""

    # -- its parts --------------------------------------------------------------------------
    def look_at_both_sides(
        self, under_way: Collection[Ref] = (), *, accept_deletions: bool = False
    ) -> SyncPlan:
        """What changed here and there, taken in, and what is to be done now, see `core.sync`."""
        return self.sync.run(
            under_way, on_findings=self.tell_edit_findings, accept_deletions=accept_deletions
        )

    def plan_sync(self, under_way: Collection[Ref] = ()) -> SyncPlan:
        """What is to be done by what the journal knows, without looking at disk or server."""
        return self.sync.difference(under_way=under_way)

    def retry_set_aside(self) -> None:
        """Make due, now, what failed or was put off: versions, the server's changes, reported runs."""
        versions = self.journal.versions
        rows = [
            *versions.select(sync=SyncState.FAILED.value),
            *versions.select(sync=SyncState.DEFERRED.value),
        ]
        self.publisher.request([row.ref for row in rows if row.publish_as is not None])
        versions.set_many(
            [(row.ref, None, {"next_attempt_at": None}) for row in rows if row.deleting]
        )
        self.journal.pull_state.want_full_pass("what was set aside is to be tried again")
        self.executions.retry()

    def finish_sync(self, plan: SyncPlan) -> dict[str, Any]:
        """Write and return the report of a sync (``cache/metadata/last_sync.json``)."""
        self.script_manager.cache.layout.check()  # the report goes there, too
        return write_report(self.settings, self.journal, plan)

    def last_sync(self) -> dict[str, Any] | None:
        """The last report, None before the first sync."""
        return read_report(self.settings)
