"""Search, and the collection it looks in."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from escher_playbooks.cli import options, output, progress
from escher_playbooks.cli.jobs_commands import finish
from escher_playbooks.cli.session import open_service


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(search)
    app.command()(reindex)
    app.command()(verify)


def search(
    query: Annotated[str, typer.Argument(help="What you want to do, in plain words.")],
    cloud: Annotated[str | None, typer.Option("--cloud", help="aws, azure or gcp.")] = None,
    resource_type: Annotated[
        list[str] | None,
        typer.Option("--resource-type", help="Such as rds::instance; may be repeated."),
    ] = None,
    status: Annotated[str | None, typer.Option("--status")] = None,
    author: Annotated[str | None, typer.Option("--author")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100)] = 10,
    as_json: options.Json = False,
) -> None:
    """Find playbooks by meaning, best first."""
    from tasks import jobs

    filters: dict[str, Any] = {
        "cloud_provider": cloud,
        "resource_types": resource_type,
        "status": status,
        "author": author,
    }
    wanted = {name: value for name, value in filters.items() if value}
    with open_service() as service:
        answer = jobs.search(service, query, wanted, limit)
    if as_json:
        output.print_json(answer.as_json())
        return
    if answer.degraded:
        output.note("degraded: found by words only, as the model or the collection is out of reach")
    if not answer.results:
        output.note("nothing found")
        return
    output.table(
        ("#", "PLAYBOOK", "NAME", "SCORE", "RUNS", "STATUS"),
        (
            (
                rank,
                f"{result.playbook_id}@{result.version}",
                result.name,
                f"{result.score:.3f}",
                f"{result.success_count}/{result.execution_count}"
                if result.execution_count
                else "",
                f"{result.status}: {result.warning}" if result.warning else result.status,
            )
            for rank, result in enumerate(answer.results, start=1)
        ),
        whole=2,
    )


def reindex(wait: options.Wait = False, as_json: options.Json = False) -> None:
    """Build the collection again from the folders."""
    from tasks import jobs

    with open_service() as service:
        with progress.following("Indexing", quiet=as_json or not wait) as on_progress:
            job = jobs.submit(service, "reindex", wait=wait, on_progress=on_progress)
        finish(service, job, waited=wait, as_json=as_json, done="indexed")


def verify(deep: options.Deep = False, as_json: options.Json = False) -> None:
    """Check every file, row and point against each other.

    What --deep says of scripts is advice: it changes no exit code.
    """
    from core.errors import StorageError
    from tasks import jobs

    with open_service() as service:
        if jobs.is_running(service.settings):  # the worker holds the collection
            job = jobs.submit(service, "verify", wait=True)
            if job.result is None:
                raise StorageError(
                    f"The job {job.job_id} ended without a report: {job.error or job.state}.",
                    "`escher-playbooks status` says what runs.",
                )
            report = job.result
        else:
            report = service.verify().as_json()
        if deep:  # needs no collection, and what it says is kept nowhere
            report["scripts"] = [
                {"ref": str(ref), **warning.as_json()}
                for ref, found in service.catalog.all_script_warnings()
                for warning in found
            ]
    if as_json:
        output.print_json(report)
    else:
        for problem in report["problems"]:
            where = " ".join(str(problem[key]) for key in ("ref", "path") if problem.get(key))
            output.say(f"{where}: {problem['what']}")
            output.say(f"  {problem['remedy']}")
        for warning in report.get("scripts", ()):
            where = ":".join(str(warning[key]) for key in ("path", "line") if warning[key])
            output.say(f"{warning['ref']} {where}: {warning['message']}")
        if deep:
            output.note_missing_linters()
        output.say(f"checked {report['checked']}, problems {len(report['problems'])}")
    if report["problems"]:
        raise typer.Exit(1)
