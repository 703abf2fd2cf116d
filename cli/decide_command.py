"""The user's decision on a playbook that an AI made."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import options, output
from cli.session import open_service


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(decide)


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
    from tasks import follow_ups

    ref, choice = Ref.parse(target), Decision.parse(decision)
    with open_service() as service:
        if not as_json and choice is not Decision.DISCARD:  # before anything is queued
            output.note_findings(service.findings(ref))
        playbook = service.decide(ref, choice)
        body = follow_ups.decided(service, ref, choice, playbook)
    if as_json:
        output.print_json(body)
        return
    done = {"keep": "kept private", "discard": "discarded"}.get(choice, f"accepted for {choice}")
    output.say(f"{ref} {done}")
    if choice in {Decision.REVIEW, Decision.TRUSTED}:
        output.note(f"queued: publishing (job {body['job_id']})")
