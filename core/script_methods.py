"""The methods of `PlaybookService` about scripts: Flow 3, and the cache."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from core.models import Ref
from core.scripts.entries import ResolvedScript, ScriptKey
from core.scripts.eviction import EvictReport
from core.service_parts import ServiceParts


class ScriptMethods(ServiceParts):
    """What `PlaybookService` hands on to its script manager."""

    # -- the mission's methods --------------------------------------------------------------
    def resolve_script(self, playbook_id: str, format: str, version: str = "latest") -> Path:  # noqa: A002  the contract's name
        """The path of the entry script, from disk, cache or server, every byte just proven."""
        return self.locate_script(f"{playbook_id}@{version}", format).path

    def download_script(self, s3_path: str) -> Path:
        """The file at ``s3_path``, in the cache with all of its format folder."""
        return self.script_manager.download(s3_path)

    def cache_script(
        self,
        playbook_id: str,
        version: str,
        format: str,  # noqa: A002  the contract's name
        path: str,
        content: bytes,
    ) -> Path:
        """Keep ``content`` as a file of a cached format folder; where it stands now."""
        return self.script_manager.put(ScriptKey(Ref(playbook_id, version), format), path, content)

    def evict_old_cache(self) -> int:
        """Evict what is over the cache's age or size; the bytes freed."""
        return self.evict_cache().bytes_freed

    # -- with more of an answer ---------------------------------------------------------------
    def locate_script(self, target: str, format: str) -> ResolvedScript:  # noqa: A002  the contract's name
        """`resolve_script` with all files, their checksums, and where they came from."""
        return self.script_manager.resolver.resolve(target, format)

    def lease_script(
        self,
        target: str,
        format: str,  # noqa: A002  the contract's name
        seconds: float | None = None,
    ) -> AbstractContextManager[ResolvedScript]:
        """`locate_script` for a ``with``: a sensitive playbook's clear text goes at its end."""
        return self.script_manager.resolver.lease(target, format, seconds)

    def evict_cache(self) -> EvictReport:
        """`evict_old_cache`, and all that it did."""
        return self.script_manager.evict()

    def clear_cache(self) -> EvictReport:
        """Evict everything that is not in use."""
        return self.script_manager.clear_cache()

    def cache_usage(self, limit: int | None = None) -> dict[str, Any]:
        """Use of the cache, its counters and entries, see `ScriptManager.usage`."""
        return self.script_manager.usage(limit)
