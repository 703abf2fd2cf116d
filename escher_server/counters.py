"""What each tenant's traffic came to, for ``GET /api/reference/stats``.

Counts gather in memory and are added to the ``tenants`` rows when they are read, every second,
and at the end: a killed server forgets the last second of them, an ordinary stop nothing.
"""

from __future__ import annotations

import threading
from collections import defaultdict

from escher_server.database import Database

_FLUSH_SECONDS = 1.0


class Counters:
    """Per tenant: requests answered, object bytes received and sent."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._pending: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        self._stop = threading.Event()
        self._flusher: threading.Thread | None = None

    def add(self, tenant_id: str, *, requests: int = 0, received: int = 0, sent: int = 0) -> None:
        """Count; bytes are those of objects, not of JSON bodies."""
        with self._lock:
            pending = self._pending[tenant_id]
            pending[0] += requests
            pending[1] += received
            pending[2] += sent

    def flush(self) -> None:
        """Add what has gathered to the database."""
        with self._lock:
            pending, self._pending = self._pending, defaultdict(lambda: [0, 0, 0])
        if not pending:
            return
        with self._database.write(durable=False) as connection:
            connection.executemany(
                "UPDATE tenants SET requests = requests + ?, bytes_received = bytes_received + ?, "
                "bytes_sent = bytes_sent + ? WHERE tenant_id = ?",
                [(*counts, tenant_id) for tenant_id, counts in pending.items()],
            )

    def start(self) -> None:
        """Flush every second from a thread of its own, until `stop`."""

        def run() -> None:
            while not self._stop.wait(_FLUSH_SECONDS):
                self.flush()

        self._flusher = threading.Thread(target=run, name="escher-counters", daemon=True)
        self._flusher.start()

    def stop(self) -> None:
        """End the thread and flush once more."""
        self._stop.set()
        if self._flusher is not None:
            self._flusher.join()
        self.flush()

    def stats(self, tenant_id: str) -> dict[str, int]:
        """Everything counted for one tenant; ``revisions`` includes those of deleted versions."""
        self.flush()
        row = (
            self._database.read()
            .execute(
                """
                SELECT
                  (SELECT count(DISTINCT playbook_id) FROM versions
                    WHERE tenant_id = t.tenant_id AND NOT deleted) AS playbooks,
                  (SELECT count(*) FROM versions
                    WHERE tenant_id = t.tenant_id AND NOT deleted) AS versions,
                  (SELECT coalesce(sum(revision), 0) FROM versions
                    WHERE tenant_id = t.tenant_id) AS revisions,
                  (SELECT count(*) FROM objects WHERE tenant_id = t.tenant_id) AS objects,
                  bytes_received, bytes_sent, requests
                FROM tenants t WHERE tenant_id = ?
                """,
                (tenant_id,),
            )
            .fetchone()
        )
        return dict(row)
