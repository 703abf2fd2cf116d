"""Import many playbooks from a folder, an archive or another tool's runbooks; claim versions as made here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from core.content import LEFT_OUT
from core.errors import EscherError, Unchanged, UsageError
from core.files import make_private_dir
from core.journal import Journal
from core.models import PlaybookDraft, Ref, Strategy
from core.playbooks.decisions import asks_for_upload
from core.playbooks.drafts import iter_drafts
from core.playbooks.runbooks.finding import Converted, iter_runbooks
from core.playbooks.store import PlaybookStore
from core.playbooks.validation import Limits
from core.reports import ImportReport
from core.service.catalog import Catalog

BATCH = 64

Progress = Callable[[int, str], None]
"""Called with the number done so far and the name of the last one."""


def import_path(
    store: PlaybookStore,
    path: Path,
    *,
    limits: Limits,
    source: str | None = None,
    strategy: Strategy | None = None,
    gate: str | None = None,
    on_progress: Progress | None = None,
) -> ImportReport:
    """Store every playbook found at ``path``, batch by batch; a bad one holds back no other.

    ``source``: the tool whose runbooks they are (`core.playbooks.runbooks`), None for playbooks.
    """
    if strategy is Strategy.TRUSTED:
        raise UsageError(
            "An import can only go to review.",
            "Import it, then publish each version that you trust: publish ID@VERSION --as trusted.",
        )
    report = ImportReport()
    batch: list[tuple[str, PlaybookDraft]] = []
    naming = store.naming()
    dropped: dict[str, tuple[str, ...]] = {}

    def flush() -> None:
        results = store.create_many(
            [draft for _, draft in batch],
            strategy=strategy,
            intake="import",
            gate=gate,
            naming=naming,
        )
        for (name, draft), result in zip(batch, results, strict=True):
            if result.error is None:
                report.imported.append(result.ref)
                if name in dropped:
                    report.dropped[result.ref] = dropped[name]
                report.warnings += len(result.warnings)
                if odd := tuple(w for w in result.warnings if not w.startswith(LEFT_OUT)):
                    report.warned[result.ref] = odd
                if draft.ignored:
                    report.left_out[result.ref] = draft.ignored
                report.notes += [f"{name}: {result.note}"] if result.note else []
                if result.findings:
                    report.findings[result.ref] = result.findings
                report.kept_private += strategy is None and asks_for_upload(result.asked)
            elif isinstance(result.error, Unchanged):
                report.existing.append(result.ref)
            else:
                report.failed.append((name, result.error))
            if on_progress is not None:
                on_progress(report.total, name)
        batch.clear()

    found: Iterator[tuple[str, PlaybookDraft | Converted | EscherError]]
    if source is None:
        staging = make_private_dir(store.layout.staging)
        found = iter_drafts(path, limits, temporary=staging, skipped=report.skipped)
    else:
        found = iter_runbooks(source, path, file_bytes=limits.file_bytes, skipped=report.skipped)
    for name, item in found:
        if isinstance(item, EscherError):
            report.failed.append((name, item))
            continue
        if isinstance(item, Converted):
            if item.dropped:
                dropped[name] = item.dropped
            item = item.draft  # noqa: PLW2901  what follows is the same for both
        batch.append((name, item))
        if len(batch) == BATCH:
            flush()
    if batch:
        flush()
    return report


def claim_origin(journal: Journal, catalog: Catalog, targets: Sequence[str] | None) -> list[Ref]:
    """Say of versions that they were made here; returns those that were not known to be.

    ``targets`` are ``id`` or ``id@version``. None: all whose origin is not known, as of a home from
    before or of a lost journal; what was pulled is claimed by its name alone.
    """
    if targets is None:
        unknown = {None, "adopt"}
        records = [row for row in journal.versions.select() if row.intake in unknown]
    else:
        records = list(journal.versions.get_many(catalog.expand(targets)).values())
    claimed = [record.ref for record in records if not record.made_here]
    journal.versions.set_many([(ref, None, {"made_here": True}) for ref in claimed])
    # edits of what one has published oneself go to review, as 0.1.0 had it
    published = {record.ref for record in records if record.is_published}
    journal.choices.claimed(ref for ref in claimed if ref in published)
    return claimed
