"""Playbooks of the home: look at them, find their scripts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from escher_playbooks.cli import options, output
from escher_playbooks.cli.session import open_service

if TYPE_CHECKING:
    from core.models import Playbook

PAGE_SIZE = 500


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("list")(list_)
    app.command()(show)
    app.command()(versions)
    app.command()(resolve)
    app.command()(export)


def list_(
    status: Annotated[str | None, typer.Option("--status")] = None,
    strategy: Annotated[str | None, typer.Option("--strategy")] = None,
    cloud: Annotated[str | None, typer.Option("--cloud", help="aws, azure or gcp.")] = None,
    author: Annotated[str | None, typer.Option("--author")] = None,
    sync: Annotated[
        str | None,
        typer.Option("--sync", help="local, pending, published, deferred, failed or conflict."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, max=1000, help="One page; else all.")
    ] = None,
    cursor: Annotated[
        str | None, typer.Option("--cursor", help="Go on where a page with --limit ended.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """The playbooks of this home, by their latest versions."""
    items: list[Playbook] = []
    with open_service() as service:
        while True:
            page, cursor = service.catalog.list_page(
                status=status,
                strategy=str(options.read_strategy(strategy)) if strategy else None,
                cloud=cloud,
                author=author,
                sync=sync,
                limit=limit or PAGE_SIZE,
                cursor=cursor,
            )
            items += page
            if cursor is None or limit is not None:
                break
    if as_json:
        bodies = [playbook.as_json(with_files=False) for playbook in items]
        output.print_json({"items": bodies, "next_cursor": cursor})
        return
    _print_playbooks(items)
    if cursor is not None:
        output.note(f"more: --cursor {cursor}")


def versions(playbook_id: options.PlaybookId, as_json: options.Json = False) -> None:
    """Every version of a playbook, the lowest first."""
    with open_service() as service:
        items = service.catalog.versions_of(playbook_id)
    if as_json:
        output.print_json({"items": [playbook.as_json(with_files=False) for playbook in items]})
        return
    _print_playbooks(items)


def _print_playbooks(items: list[Playbook]) -> None:
    output.table(
        ("PLAYBOOK", "NAME", "STATUS", "STRATEGY", "SYNC", "UPDATED"),
        (
            (
                item.ref,
                item.metadata.name,
                item.metadata.status if item.health == "ok" else item.health,
                item.metadata.storage_strategy,
                item.sync.state,
                output.moment(item.metadata.updated_at),
            )
            for item in items
        ),
    )


def show(target: options.Target, deep: options.Deep = False, as_json: options.Json = False) -> None:
    """One version, its files, and where it stands."""
    with open_service() as service:
        playbook = service.catalog.show(target)
        folder = service.store.folder(playbook.ref)
        last_error = service.journal.executions.last_error(playbook.ref)
        scripts = service.catalog.script_warnings(str(playbook.ref)) if deep else []
    if as_json:
        found = {"scripts": [warning.as_json() for warning in scripts]} if deep else {}
        output.print_json(playbook.as_json() | found)
        return
    metadata, sync = playbook.metadata, playbook.sync
    output.say(f"{playbook.ref}  {metadata.name}")
    output.say_block(metadata.description)
    output.say()
    facts: list[tuple[str, object]] = [
        ("cloud", ", ".join(metadata.cloud_provider)),
        ("resources", ", ".join(metadata.resource_types)),
        ("author", metadata.author),
        ("status", metadata.status),
        ("reason", metadata.deprecation_reason),
        ("deprecated by", metadata.deprecated_by),
        ("strategy", metadata.storage_strategy),
        *(
            ("asked for", f"{name} {value} (by its file; not followed)")
            for name, value in playbook.asked.items()
        ),
        ("health", playbook.health),
        ("executions", _executions(playbook)),
        ("last failure", last_error),
        ("sync", sync.state),
        ("revision", sync.revision),
        ("error", sync.error),
        ("next attempt", output.moment(sync.next_attempt_at)),
        ("content", playbook.content_digest),
        ("folder", folder),
        *(("warning", warning) for warning in playbook.warnings),
        *(("secret?", finding.as_text()) for finding in playbook.findings),
    ]
    for name, value in facts:
        if value not in (None, ""):
            output.say(f"{name:<14}{value}")
    output.say()
    output.table(
        ("FILE", "BYTES", "CHECKSUM"),
        ((file.path, file.size_bytes, file.checksum) for file in playbook.files),
    )
    if deep:
        output.say()
        for warning in scripts:
            output.say(warning.as_text())
        output.note_missing_linters()


def _executions(playbook: Playbook) -> str | None:
    if not playbook.execution_count:
        return None
    last = output.moment(playbook.last_executed)
    return f"{playbook.execution_count}, {playbook.success_count} of them well, last {last}"


def resolve(
    target: options.Target,
    format_: Annotated[
        str,
        typer.Option("--format", help="shell, cloudformation, arm, terraform or python."),
    ],
    allow_unreviewed: Annotated[
        bool, typer.Option("--allow-unreviewed", help="Run what nobody reviewed, too.")
    ] = False,
    allow_deprecated: Annotated[
        bool, typer.Option("--allow-deprecated", help="Run what is deprecated, too.")
    ] = False,
    copy: Annotated[
        bool, typer.Option("--copy", help="A read-only copy that nothing changes.")
    ] = False,
    ignore_state: Annotated[
        bool, typer.Option("--ignore-state", help="Also where a run's state lies beside it.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """The path of the verified entry script of a version that may be run.

    Without a version it is the highest that was approved; `run_policy` says what else may be run.
    Warnings go to standard error.
    """
    with open_service() as service:
        script = service.locate_script(
            target,
            format_,
            allow_unreviewed=allow_unreviewed,
            allow_deprecated=allow_deprecated,
            copy=copy,
            ignore_state=ignore_state,
        )
        if script.listing.key.is_library:  # others have nothing to follow up, and Celery is slow
            from tasks import jobs

            jobs.script_resolved(service, script)
    if as_json:
        output.print_json(script.as_json())
        return
    for warning in script.info.warnings:
        output.note(f"warning: {warning}")
    output.say(str(script.path))


def export(
    target: options.Target,
    path: Annotated[Path, typer.Argument(metavar="DIR|FILE.tar.gz", show_default=False)],
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Write what is sensitive in clear.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Write a version to a folder of your own to work in, or to a .tar.gz.

    It holds exactly the content. What happens there changes nothing in the home.
    """
    with open_service() as service:
        done = service.export(target, path, reveal=reveal)
    if as_json:
        output.print_json(done.as_json())
        return
    for words in done.left_out:
        output.note(f"warning: {words}")
    output.say(f"exported {done.ref} to {done.path}")
