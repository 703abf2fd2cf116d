"""The user's decisions: on a playbook that an AI made, and that one is sensitive no more."""

from __future__ import annotations

from typing import Annotated

import typer

from escher_playbooks.cli import options, output
from escher_playbooks.cli.session import open_service


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(decide)
    app.command()(declassify)


def decide(
    target: Annotated[str, typer.Argument(metavar="ID@VERSION", show_default=False)],
    decision: Annotated[
        str, typer.Argument(metavar="keep|review|trusted|discard", show_default=False)
    ],
    as_json: options.Json = False,
) -> None:
    """Decide on an AI-generated playbook: keep it private, publish it, or discard it."""
    from core.models import Ref
    from core.playbooks.decisions import Decision
    from tasks import jobs

    ref, choice = Ref.parse(target), Decision.parse(decision)
    with open_service() as service:
        if not as_json and choice is not Decision.DISCARD:  # before anything is queued
            output.note_findings(service.findings(ref))
        playbook = service.decide(ref, choice)
        body = jobs.decided(service, ref, choice, playbook)
        warnings = jobs.hand_out_warnings(service, ref)
    if as_json:
        output.print_json(body)
        return
    done = {"keep": "kept private", "discard": "discarded"}.get(choice, f"accepted for {choice}")
    output.say(f"{ref} {done}")
    for words in warnings:
        output.note(f"warning: {words}")
    if choice in {Decision.REVIEW, Decision.TRUSTED}:
        output.note(f"queued: publishing (job {body['job_id']})")


def declassify(
    target: Annotated[str, typer.Argument(metavar="ID@VERSION", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: options.Json = False,
) -> None:
    """Make a sensitive version not sensitive.

    Its files lie in clear on this disk from then on, and it may be published. It is the only way.
    """
    from core.errors import UsageError
    from core.models import Ref
    from tasks import jobs

    ref = Ref.parse(target)
    with open_service() as service:
        if not yes:
            if as_json or not output.is_interactive():
                raise UsageError(
                    f"{ref} would lie in clear, and could be published.", "Say so with --yes."
                )
            output.say(f"{ref} will lie in clear on this disk, and may be published then.")
            if not output.confirm("Make it not sensitive"):
                raise typer.Exit(1)
        result = service.declassify(ref)
        job = jobs.changed(service, [ref])
    if as_json:
        output.print_json({
            "playbook_id": ref.playbook_id,
            "version": ref.version,
            "warnings": list(result.warnings),
            "job_id": job.job_id,
        })  # fmt: skip
        return
    output.say(f"{ref} is not sensitive any more; it stays on this machine until you publish it")
    for warning in result.warnings:
        output.note(f"warning: {warning}")
