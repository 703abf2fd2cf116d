"""Playbooks of the home: take in, change, remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from escher_playbooks.cli import options, output, progress
from escher_playbooks.cli.session import open_service

if TYPE_CHECKING:
    from core.models import PlaybookDraft, Strategy
    from core.playbooks.store import StoreResult
    from core.reports import ImportReport
    from core.service import PlaybookService

MAX_SKIPPED_NAMES = 10
MAX_WARNINGS = 20
ANSWERS = (("Keep private", "keep"), ("Upload for review", "review"), ("Upload trusted", "trusted"))


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(create)
    app.command("import")(import_)
    app.command()(update)
    app.command()(delete)
    app.command("status-set")(status_set)


def create(
    folder: options.Folder,
    playbook_id: Annotated[
        str | None, typer.Option("--id", help="Else the metadata's, else made from the name.")
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="Else the metadata's, else 1.0.0.")
    ] = None,
    strategy: options.StrategyChoice = None,
    author: Annotated[
        str | None, typer.Option("--author", help="user_custom or ai_generated.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check a playbook's folder and store it.

    Indexing for search, and publishing where the strategy asks for it, are queued.
    """
    from core.playbooks.drafts import draft_from_folder
    from core.playbooks.validation import Limits

    choice = options.read_strategy(strategy)
    with open_service() as service:
        draft = draft_from_folder(folder, Limits.of(service.settings))
        if choice is None and not as_json and output.is_interactive():
            choice = _ask_strategy(draft, author)
        result = service.create(
            draft, playbook_id=playbook_id, version=version, strategy=choice, author=author
        )
        _report_stored(service, result, as_json=as_json)


def update(
    playbook_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)],
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]", help="Folder that holds metadata.json; without it, the held edit."
        ),
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="The new version of a published playbook.")
    ] = None,
    discard: Annotated[
        bool, typer.Option("--discard", help="Drop the held edit of sensitive content.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Replace the content of the latest version.

    A published version never changes: its playbook gets a new version instead. Without DIR, an edit
    of sensitive content that is held becomes the content (ID or ID@VERSION), or is dropped.
    """
    from core.errors import UsageError
    from core.playbooks.drafts import draft_from_folder
    from core.playbooks.validation import Limits

    if folder is not None and discard:
        raise UsageError("--discard drops a held edit, and takes no folder.", "Give one of both.")
    with open_service() as service:
        if folder is None:
            _settle_held(service, playbook_id, version, discard=discard, as_json=as_json)
            return
        draft = draft_from_folder(folder, Limits.of(service.settings))
        result = service.update(playbook_id, draft, version)
        _report_stored(service, result, as_json=as_json)


def _settle_held(
    service: PlaybookService, target: str, version: str | None, *, discard: bool, as_json: bool
) -> None:
    """Take or drop the held edit of a sensitive version."""
    from core.errors import UsageError

    if version is not None:
        raise UsageError("A held edit stays in its version.", "Leave --version out, or give DIR.")
    if not discard:
        _report_stored(service, service.held.accept(service.held.of(target)), as_json=as_json)
        return
    edit = service.held.of(target)
    service.held.discard(edit)
    ref = edit.ref
    if as_json:
        output.print_json({"playbook_id": ref.playbook_id, "version": ref.version, "held": None})
    else:
        output.say(f"{ref}: the held edit is dropped")


def _ask_strategy(draft: PlaybookDraft, author: str | None) -> Strategy | None:
    """The user's choice; None where there is none to make."""
    made_by = author or draft.metadata.get("author")
    if made_by == "ai_generated":
        return None  # an AI-generated playbook waits for `decide`
    if draft.metadata.get("sensitive"):
        return None  # never uploaded
    for number, (label, _) in enumerate(ANSWERS, start=1):
        output.say(f"  {number}  {label}")
    return options.read_strategy(output.prompt("Where may it go", "1", _read_answer))


def _read_answer(text: str) -> str:
    """The strategy that a number or a name stands for; a wrong one is asked again."""
    names = [name for _, name in ANSWERS]
    if text in names:
        return text
    if text not in {str(number) for number in range(1, len(names) + 1)}:
        raise typer.BadParameter(f"Type a number from 1 to {len(names)}.")
    return names[int(text) - 1]


def _report_stored(service: PlaybookService, result: StoreResult, *, as_json: bool) -> None:
    from core.models import SyncState
    from tasks import jobs

    if not as_json:  # before anything is queued
        output.note_findings(result.findings)
    job = jobs.changed(service, [result.ref])
    if as_json:
        output.print_json({
            "playbook_id": result.ref.playbook_id,
            "version": result.ref.version,
            "warnings": list(result.warnings),
            "findings": [finding.as_json() for finding in result.findings],
            "job_id": job.job_id,
        })  # fmt: skip
        return
    output.say(str(result.ref))
    for warning in result.warnings:
        output.note(f"warning: {warning}")
    if not job.is_finished:
        state = service.catalog.show(str(result.ref)).sync.state
        what = "publishing" if state is SyncState.PENDING else "indexing for search"
        output.note(f"queued: {what} (job {job.job_id})")
        if state is SyncState.PENDING and service.settings.secrets_gate == "block":
            refusal = service.store.secrets.refusal(result.ref, result.findings)
            if refusal is not None:
                output.note(f"warning: it is not going to be published: {refusal}")


def import_(
    path: Annotated[
        Path, typer.Argument(help="A folder of playbooks, or a .zip, .tar.gz, … of one.")
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TOOL",
            help="Make playbooks of another tool's runbooks:"
            " ssm, rundeck, stackstorm, ansible or azure-runbook.",
        ),
    ] = None,
    strategy: options.StrategyChoice = None,
    as_json: options.Json = False,
) -> None:
    """Take in many playbooks; a bad one is reported, the rest go in."""
    from core.content import names_left_out
    from tasks import jobs

    choice = options.read_strategy(strategy)
    with open_service() as service:
        with progress.counting("Importing", _how_many(path), quiet=as_json) as on_progress:
            report = service.import_path(
                path, source=source, strategy=choice, on_progress=on_progress
            )
        if not as_json:  # before anything is queued
            for ref, findings in report.findings.items():
                output.note_findings(findings, of=ref)
        job = jobs.changed(service, report.imported)
        if as_json:
            output.print_json({**report.as_json(), "job_id": job.job_id})
        else:
            for words in report.notes:
                output.note(words)
            _note_left_behind(report)
            for name, error in report.failed:
                output.note(f"{name}: {error}")
            for ref, names in report.left_out.items():
                output.note(f"{ref}: {names_left_out(names)}")
            _note_warnings(report)
            output.say(
                f"imported {len(report.imported)}, already there {len(report.existing)}, "
                f"failed {len(report.failed)}, warnings {report.warnings}"
            )
            if report.kept_private:
                output.note(
                    f"kept private: {report.kept_private} that ask to be uploaded"
                    " (choose with `import --strategy review`, or `publish --as`)"
                )
            if not job.is_finished:
                output.note(f"queued: {job.total} versions (job {job.job_id})")
    if report.failed:
        raise typer.Exit(1)


def _note_warnings(report: ImportReport) -> None:
    """Say what is odd about what was taken in, as `create` does, but not of thousands."""
    told = [f"{ref}: {words}" for ref, warned in report.warned.items() for words in warned]
    for words in told[:MAX_WARNINGS]:
        output.note(words)
    if len(told) > MAX_WARNINGS:
        more = len(told) - MAX_WARNINGS
        output.note(f"and {more} more warnings: `escher-playbooks show` tells those of each")


def _note_left_behind(report: ImportReport) -> None:
    """Say what of runbooks is not carried, and which files are none."""
    for ref, dropped in report.dropped.items():
        for what in dropped:
            output.note(f"{ref}: dropped: {what}")
    if report.skipped:
        more = len(report.skipped) - MAX_SKIPPED_NAMES
        names = ", ".join(report.skipped[:MAX_SKIPPED_NAMES])
        output.note(f"skipped: {names}{f' and {more} more' if more > 0 else ''}")


def _how_many(path: Path) -> int | None:
    """Roughly how many playbooks a folder holds, for the bar; None for an archive."""
    if not path.is_dir():
        return None
    return sum(1 for entry in path.iterdir() if entry.is_dir()) or None


def delete(target: options.Target, as_json: options.Json = False) -> None:
    """Delete a version, or all versions of a playbook.

    A published version goes once the server has confirmed.
    """
    from tasks import jobs

    with open_service() as service:
        found = service.catalog.expand([target])
        for words in filter(None, map(service.handed_out.warning, found)):
            output.note(f"warning: {words}")
        refs = [str(ref) for ref in found]
        job_id = jobs.submit(service, "delete", refs=refs).job_id
        waiting = {
            item.ref for item in service.journal.jobs.get(job_id).items if item.state != "succeeded"
        }
    if as_json:
        deleted = [ref for ref in refs if ref not in waiting]
        output.print_json({"job_id": job_id, "deleted": deleted, "waiting": sorted(waiting)})
        return
    for ref in refs:
        if ref in waiting:
            output.say(f"queued {ref}: it is published, and goes once the server has confirmed")
        else:
            output.say(f"deleted {ref}")


def status_set(
    target: Annotated[str, typer.Argument(metavar="ID@VERSION", show_default=False)],
    status: Annotated[str, typer.Argument(metavar="STATUS", show_default=False)],
    reason: Annotated[str | None, typer.Option("--reason", help="Kept with the change.")] = None,
    as_json: options.Json = False,
) -> None:
    """Change the status of a version."""
    from core.models import Ref

    with open_service() as service:
        ref = Ref.parse(target)
        playbook = service.set_status(ref, status, reason)
    if as_json:
        output.print_json(playbook.as_json())
    else:
        output.say(f"{ref} {playbook.metadata.status}")
