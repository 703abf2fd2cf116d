"""The methods of `PlaybookService` about scripts: Flow 3, and the cache."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.models import Ref
from core.scripts.entries import ResolvedScript, ScriptKey
from core.scripts.eviction import EvictReport
from core.scripts.resolver import Asking
from core.scripts.run_policy import Allow
from core.service_parts import ServiceParts
from core.status import pull_warnings


class ScriptMethods(ServiceParts):
    """What `PlaybookService` hands on to its script manager."""

    # -- the mission's methods --------------------------------------------------------------
    def resolve_script(
        self,
        playbook_id: str,
        format: str,  # noqa: A002  the contract's name
        version: str = "latest",
        *,
        allow_unreviewed: bool = False,
        allow_deprecated: bool = False,
        copy: bool = False,
    ) -> Path:
        """The path of the entry script of a version that may be run, every byte just proven.

        `NotRunnable` where none may; see `core.scripts.run_policy` for who may be run.
        """
        return self.locate_script(
            f"{playbook_id}@{version}",
            format,
            allow_unreviewed=allow_unreviewed,
            allow_deprecated=allow_deprecated,
            copy=copy,
        ).path

    def download_script(
        self, s3_path: str, *, allow_unreviewed: bool = False, allow_deprecated: bool = False
    ) -> Path:
        """The file at ``s3_path``, in the cache with all of its format folder; as `resolve_script`."""
        return self.script_manager.download(s3_path, Allow(allow_unreviewed, allow_deprecated))

    def cache_script(
        self,
        playbook_id: str,
        version: str,
        format: str,  # noqa: A002  the contract's name
        path: str,
        content: bytes,
    ) -> Path:
        """Keep ``content``, bytes that the version is known to have, in the cache; where it stands."""
        return self.script_manager.put(ScriptKey(Ref(playbook_id, version), format), path, content)

    def evict_old_cache(self) -> int:
        """Evict what is over the cache's age or size; the bytes freed."""
        return self.evict_cache().bytes_freed

    # -- with more of an answer ---------------------------------------------------------------
    def locate_script(
        self,
        target: str,
        format: str,  # noqa: A002  the contract's name
        *,
        allow_unreviewed: bool = False,
        allow_deprecated: bool = False,
        copy: bool = False,
        ignore_state: bool = False,
    ) -> ResolvedScript:
        """`resolve_script` with the whole answer: files, status, publisher, warnings.

        ``copy``: of a read-only copy that nothing changes while it is run.
        """
        asking = Asking(Allow(allow_unreviewed, allow_deprecated), copy, ignore_state)
        found = self.script_manager.resolver.resolve(target, format, asking)
        more = pull_warnings(self.journal, found.ref)
        if not more:
            return found
        told = replace(found.standing, warnings=(*found.standing.warnings, *more))
        return replace(found, standing=told)

    def lease_script(
        self,
        target: str,
        format: str,  # noqa: A002  the contract's name
        seconds: float | None = None,
        *,
        allow_unreviewed: bool = False,
        allow_deprecated: bool = False,
    ) -> AbstractContextManager[ResolvedScript]:
        """`locate_script` for a ``with``: a sensitive playbook's clear text goes at its end."""
        asking = Asking(Allow(allow_unreviewed, allow_deprecated))
        return self.script_manager.resolver.lease(target, format, seconds, asking)

    def evict_cache(self) -> EvictReport:
        """`evict_old_cache`, and all that it did."""
        return self.script_manager.evict()

    def clear_cache(self) -> EvictReport:
        """Evict everything that is not in use."""
        return self.script_manager.clear_cache()

    def cache_usage(self, limit: int | None = None) -> dict[str, Any]:
        """Use of the cache, its counters and entries, see `ScriptManager.usage`."""
        return self.script_manager.usage(limit)
