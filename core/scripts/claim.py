"""Scripts that one attempt has claimed, their folders in staging, and how they are given back."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection

from core.journal import Journal
from core.journal.downloads import DownloadKey, DownloadRow, DownloadState
from core.journal.leases import Held
from core.scripts.cached import CacheHit, Staged
from core.scripts.entries import Listing, ScriptKey
from core.scripts.layout import remove
from core.scripts.staging import TENANT, Result, row_key

INTERRUPTED = ("TransferInterrupted", "The attempt was interrupted. It is made again.")


class Claim:
    """Takes what is free of ``keys``; leaving the ``with`` gives back what was not settled.

    ``rows`` are the claimed ones as they stood before, ``others`` those that were not to be had.
    ``fresh`` and ``staged`` as in `core.journal.downloads.Downloads.claim`.
    """

    def __init__(
        self,
        journal: Journal,
        staging: Path,
        keys: Sequence[ScriptKey],
        *,
        fresh: bool = True,
        staged: bool = False,
    ) -> None:
        self.lease: Held[DownloadKey]
        self.rows: dict[ScriptKey, DownloadRow] = {}
        self.others: dict[ScriptKey, DownloadRow] = {}
        self.folders: dict[ScriptKey, Path] = {}
        self._journal = journal
        self._downloads = journal.downloads
        self._staging = staging
        self._keys = {row_key(key): key for key in keys}
        self._fresh = fresh
        self._staged = staged
        self._open: set[ScriptKey] = set()

    def __enter__(self) -> Self:
        names = {key: uuid.uuid4().hex for key in self._keys}
        claimed = self._downloads.claim(names, fresh=self._fresh, staged=self._staged)
        self.lease = claimed.lease
        self.others = {self._keys[key]: row for key, row in claimed.others.items()}
        for row_name, row in claimed.mine.items():
            key = self._keys[row_name]
            is_staged = row.state is DownloadState.STAGED
            name = row.staged if is_staged and row.staged else names[row_name]
            self.rows[key] = row
            self.folders[key] = self._staging / name
            self._open.add(key)
            if row.staged is not None and row.staged != name:
                remove(self._staging / row.staged)  # of an attempt that died
        return self

    def __exit__(self, *_: object) -> None:
        left: dict[ScriptKey, dict[str, Any]] = {}
        try:
            for key in self._open:
                if self.rows[key].state is DownloadState.STAGED:
                    left[key] = {}  # it waits to be verified, as before
                else:
                    remove(self.folders[key])
                    left[key] = self._downloads.failed(*INTERRUPTED)
            self._write(left)
        except BaseException:  # the journal is away: what can't be written is free all the same
            self._journal.leases.give_back(self.lease)
            raise

    def staged(self) -> dict[ScriptKey, Staged]:
        """Of the claimed ones, those whose bytes wait to be verified."""
        return {
            key: Staged(
                self.folders[key],
                Listing(key, row.files, row.entry_point or ""),
                row.source or TENANT,
            )
            for key, row in self.rows.items()
            if row.state is DownloadState.STAGED
        }

    def settle(self, results: Mapping[ScriptKey, Result]) -> None:
        """Write down what came of scripts, in one transaction; only what is staged keeps bytes."""
        open_ = {key: result for key, result in results.items() if key in self._open}
        for key, result in open_.items():
            if not isinstance(result, Staged):
                remove(self.folders[key])  # before its room is given to another
        written = self._write({key: self._ending(result) for key, result in open_.items()})
        for key, result in open_.items():
            if isinstance(result, Staged) and key not in written:
                remove(self.folders[key])  # another process took over: nobody knows this folder

    def put_back(self, key: ScriptKey) -> None:
        """Leave a failed one as it was found, its time included: nothing has been tried since."""
        row = self.rows[key]
        failed = self._downloads.failed(row.error_type or "", row.error or "")
        self._write({key: {**failed, "ended_at": row.ended_at}})

    def done(self, keys: Iterable[ScriptKey], connection: Connection) -> None:
        """Give the room of ``keys`` back in the transaction that makes them entries."""
        self._downloads.settle(dict.fromkeys(map(row_key, keys)), self.lease, connection)

    def close(self, keys: Iterable[ScriptKey]) -> None:
        """That transaction is through: nothing of them is left to settle."""
        self._open.difference_update(keys)

    def _ending(self, result: Result) -> dict[str, Any] | None:
        if isinstance(result, CacheHit):
            return None
        if isinstance(result, Staged):
            listing = result.listing
            return self._downloads.staged(listing.files, listing.entry_point, result.source)
        return self._downloads.failed(result.type, str(result))

    def _write(self, endings: Mapping[ScriptKey, dict[str, Any] | None]) -> set[ScriptKey]:
        if not endings:
            return set()
        rows = {row_key(key): ending for key, ending in endings.items()}
        written = self._downloads.settle(rows, self.lease)
        self._open.difference_update(endings)
        return {self._keys[key] for key in written}
