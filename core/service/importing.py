"""Many playbooks at once, from a folder or an archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from core.errors import EscherError, Unchanged, UsageError
from core.models import PlaybookDraft, Strategy
from core.playbooks.drafts import iter_drafts
from core.playbooks.file_requests import asks_to_leave
from core.playbooks.store import PlaybookStore
from core.playbooks.validation import Limits
from core.reports import ImportReport

BATCH = 64

Progress = Callable[[int, str], None]
"""Called with the number done so far and the name of the last one."""


def import_path(
    store: PlaybookStore,
    path: Path,
    *,
    limits: Limits,
    strategy: Strategy | None = None,
    gate: str | None = None,
    on_progress: Progress | None = None,
) -> ImportReport:
    """Store every playbook found at ``path``, batch by batch; a bad one holds back no other."""
    if strategy is Strategy.TRUSTED:
        raise UsageError(
            "An import can only go to review.",
            "Import it, then publish each version that you trust: publish ID@VERSION --as trusted.",
        )
    report = ImportReport()
    batch: list[tuple[str, PlaybookDraft]] = []

    def flush() -> None:
        results = store.create_many(
            [draft for _, draft in batch], strategy=strategy, intake="import", gate=gate
        )
        for (name, _), result in zip(batch, results, strict=True):
            if result.error is None:
                report.imported.append(result.ref)
                report.warnings += len(result.warnings)
                if result.findings:
                    report.findings[result.ref] = result.findings
                report.kept_private += strategy is None and asks_to_leave(result.asked)
            elif isinstance(result.error, Unchanged):
                report.existing.append(result.ref)
            else:
                report.failed.append((name, result.error))
            if on_progress is not None:
                on_progress(report.total, name)
        batch.clear()

    for name, item in iter_drafts(path, limits):
        if isinstance(item, EscherError):
            report.failed.append((name, item))
            continue
        batch.append((name, item))
        if len(batch) == BATCH:
            flush()
    if batch:
        flush()
    return report
