"""Jobs: look them up, follow them, stop them, try them again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from escher_playbooks.cli import options, output, progress
from escher_playbooks.cli.session import open_service

if TYPE_CHECKING:
    from core.journal import Job
    from core.service import PlaybookService

SHOWN_REASONS = 20
SYNC_HIDDEN = frozenset({"at", "format_version"})
jobs_app = typer.Typer(help="What was asked for, and how far it is.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group of this file."""
    app.add_typer(jobs_app, name="jobs")


@jobs_app.command("ls")
def list_jobs(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 50,
    as_json: options.Json = False,
) -> None:
    """The newest jobs first."""
    with open_service() as service:
        recent = service.journal.jobs.recent(limit)
    if as_json:
        output.print_json({"items": [job.as_json(with_items=False) for job in recent]})
        return
    output.table(
        ("JOB", "KIND", "STATE", "DONE", "DEFERRED", "FAILED", "CREATED"),
        (
            (
                job.job_id,
                job.kind,
                job.state,
                f"{job.succeeded}/{job.total}" if job.total else "",
                job.deferred or "",
                job.failed or "",
                output.moment(job.created_at),
            )
            for job in recent
        ),
    )


@jobs_app.command("show")
def show_job(job_id: options.JobId, as_json: options.Json = False) -> None:
    """One job with each of its items."""
    with open_service() as service:
        job = service.journal.jobs.get(job_id)
    if as_json:
        output.print_json(job.as_json())
        return
    output.say(f"{job.job_id}  {job.kind} {job.state}")
    output.say(_counts(job))
    for name, value in (
        ("created", output.moment(job.created_at)),
        ("started", output.moment(job.started_at)),
        ("finished", output.moment(job.finished_at)),
        ("error", job.error),
    ):
        if value:
            output.say(f"{name:<10}{value}")
    if job.items:
        output.say()
        output.table(
            ("PLAYBOOK", "STATE", "STEP", "TRIES", "NEXT ATTEMPT", "REASON"),
            (
                (
                    item.ref,
                    item.state,
                    item.step,
                    item.attempts or "",
                    output.moment(item.next_attempt_at),
                    item.error,
                )
                for item in job.items
            ),
        )


@jobs_app.command("watch")
def watch_job(
    job_id: options.JobId,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, help="Seconds; else until it has ended.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Follow a job until nothing is left to do for it now."""
    from tasks import jobs

    with open_service() as service:
        with progress.following("Job", quiet=as_json) as on_progress:
            job = jobs.wait_for(service, job_id, timeout=timeout, on_progress=on_progress)
        finish(service, job, waited=True, as_json=as_json, done="done")


@jobs_app.command("cancel")
def cancel_job(job_id: options.JobId, as_json: options.Json = False) -> None:
    """Stop what has not been done; what is published stays published."""
    from tasks import jobs

    with open_service() as service:
        job = jobs.cancel(service, job_id)
    if as_json:
        output.print_json(job.as_json())
    else:
        output.say(f"{job.job_id} {job.state}: {_counts(job)}")


@jobs_app.command("retry")
def retry_job(
    job_id: options.JobId, wait: options.Wait = False, as_json: options.Json = False
) -> None:
    """Queue a job's failed, deferred and cancelled items again."""
    from tasks import jobs

    with open_service() as service:
        with progress.following("Job", quiet=as_json or not wait) as on_progress:
            job = jobs.retry(service, job_id, wait=wait, on_progress=on_progress)
        finish(service, job, waited=wait, as_json=as_json, done="done")


def finish(
    service: PlaybookService,
    job: Job,
    *,
    waited: bool,
    as_json: bool,
    done: str,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Print how a job stands and leave with the exit code that says so.

    ``done`` is the word for what succeeded (``published``). JSON: the job when it was waited
    for, else ``{job_id}``, and the fields of ``more``.
    """
    if waited:
        job = service.journal.jobs.get(job.job_id)
    if as_json:
        body = job.as_json() if waited else {"job_id": job.job_id}
        output.print_json({**body, **(more or {})})
    elif waited:
        _report(job, done)
    elif job.is_finished:
        output.say(f"{job.state}: {_counts(job, done)}")
    else:
        output.say(f"queued: job {job.job_id}")
    code = exit_code(job) if waited else 0
    if code:
        raise typer.Exit(code)


def exit_code(job: Job) -> int:
    """0 done or queued, 1 failed or partly failed, 4 left for when the server answers.

    Where everything failed for reasons of one kind, it is that kind's code: 5 for what was refused.
    """
    from core import errors

    if job.failed:
        kinds = {item.error_type or "" for item in job.items if item.state == "failed"}
        codes = {getattr(errors, kind, errors.EscherError).exit_code for kind in kinds}
        alone = job.failed == job.total and len(codes) == 1
        return int(codes.pop()) if alone else 1
    if job.state == "failed" or (job.state == "partial" and not job.total):
        return 1
    result = job.result or {}  # a sync has no items
    waits = job.deferred or result.get("deferred") or result.get("offline")
    return errors.ServerUnreachable.exit_code if waits else 0


def _report(job: Job, done: str) -> None:
    reasons = [item for item in job.items if item.error]
    for item in reasons[:SHOWN_REASONS]:
        output.note(f"{item.ref}: {item.state} at {item.step}: {item.error}")
    if len(reasons) > SHOWN_REASONS:
        output.note(f"and {len(reasons) - SHOWN_REASONS} more: jobs show {job.job_id}")
    if job.error:
        output.note(job.error)
    if job.kind == "sync" and job.result:
        told = _told(job.result)
        for words in told[:SHOWN_REASONS]:
            output.note(words)
        if len(told) > SHOWN_REASONS:
            more = len(told) - SHOWN_REASONS
            output.note(f"and {more} more: jobs show {job.job_id} --json")
        if job.result.get("offline"):
            output.note(job.result["offline"])
        facts = {k: v for k, v in job.result.items() if isinstance(v, int) and k not in SYNC_HIDDEN}
        output.say(", ".join(f"{name} {value}" for name, value in facts.items()))
    output.say(_counts(job, done) if job.total else f"{job.kind} {job.state}")
    if job.deferred or not job.is_finished:
        output.note(f"queued: job {job.job_id} goes on with the next sync")


def _told(report: Mapping[str, Any]) -> list[str]:
    """What of a SyncReport is told in words: edits kept as versions, conflicts, what did not go."""
    from core.content import names_left_out

    kept = report.get("edits", {}).get("kept_as", {})
    reasons = {**report.get("deferrals", {}), **report.get("failures", {})}
    return [
        *(f"the edit of {ref} is {version} now" for ref, version in kept.items()),
        *report.get("edits", {}).get("waiting", {}).values(),
        *report.get("edits", {}).get("held", {}).values(),
        *(f"{ref}: {names_left_out(names)}" for ref, names in report.get("left_out", {}).items()),
        *(decided["reason"] for decided in report.get("conflicts", [])),
        *(f"{what}: {reason}" for what, reason in reasons.items()),
    ]


def _counts(job: Job, done: str = "done") -> str:
    if not job.total:
        return "no playbooks of its own"
    waiting = job.total - job.succeeded - job.failed - job.deferred - job.cancelled
    parts = [(done, job.succeeded), ("deferred", job.deferred), ("failed", job.failed)]
    parts += [(word, n) for word, n in (("cancelled", job.cancelled), ("waiting", waiting)) if n]
    return ", ".join(f"{word} {count}" for word, count in parts)
