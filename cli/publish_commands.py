"""To the server: publish, and one sync now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options, output, progress
from cli.jobs_commands import finish
from cli.session import open_service

if TYPE_CHECKING:
    from core.publishing.policy import PublishPlan

SHOWN_ALIKE = 5


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(publish)
    app.command()(sync)


def publish(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="ID[@VERSION]...", show_default=False)
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Everything not yet published.")] = False,
    as_: Annotated[
        str | None,
        typer.Option("--as", help="review or trusted: your choice for what was kept private."),
    ] = None,
    wait: options.Wait = False,
    as_json: options.Json = False,
) -> None:
    """Send playbooks to the server.

    Scripts are uploaded, metadata is published, and the folder moves to synced/.
    """
    from core.errors import UsageError
    from tasks import jobs

    if bool(targets) == all_:
        raise UsageError(
            "publish takes playbooks or --all, one of them.",
            "Write `publish ID[@VERSION]…` or `publish --all`.",
        )
    with open_service() as service:
        # first the plan: it says what is left out and why, also where nothing is left to send
        plan = service.request_publish(targets or None, options.read_strategy(as_))
        accepted = [str(ref) for ref in plan.accepted]
        told = {"accepted": accepted, "left_out": dict(plan.left_out)}
        if targets and not plan.accepted:
            _refuse(plan)
        if not as_json:
            _say_left_out(plan.left_out)
        if targets and not plan.accepted:
            _say_nothing_to_do(told, as_json=as_json)
            return
        with progress.following("Publishing", quiet=as_json or not wait) as on_progress:
            job = jobs.submit(
                service,
                "publish",
                refs=accepted or None,
                all_=not accepted,
                as_=as_,
                wait=wait,
                on_progress=on_progress,
            )
        if not (as_json or job.total):
            _say_nothing_to_do(told, as_json=False)
            return
        if not (wait or as_json):
            output.say(f"accepted {len(plan.accepted)}")
        finish(service, job, waited=wait, as_json=as_json, done="published", more=told)


def _say_left_out(left_out: Mapping[str, str]) -> None:
    """One line a playbook, or one a reason where many share it."""
    by_reason: dict[str, list[str]] = {}
    for ref, reason in left_out.items():
        by_reason.setdefault(reason, []).append(ref)
    for reason, refs in by_reason.items():
        if len(refs) > SHOWN_ALIKE:
            output.note(f"left out {len(refs)}, such as {refs[0]}: {reason}")
        else:
            for ref in refs:
                output.note(f"left out {ref}: {reason}")


def _say_nothing_to_do(told: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.print_json({"job_id": None, "state": "succeeded", "total": 0, **told})
    else:
        output.say("nothing to publish")


def _refuse(plan: PublishPlan) -> None:
    """Raise when something asked for by name is left out for another reason than being done."""
    from core.errors import Refused
    from core.publishing.policy import ALREADY_PUBLISHED

    refused = {ref: why for ref, why in plan.left_out.items() if why != ALREADY_PUBLISHED}
    if refused:
        reasons = "; ".join(f"{ref}: {why}" for ref, why in refused.items())
        raise Refused(
            f"Nothing is published. {reasons}.",
            "Mend what each reason names, or leave it private; `escher-playbooks show ID` says more.",
        )


def sync(wait: options.Wait = False, as_json: options.Json = False) -> None:
    """Go on with whatever is still to be done, now."""
    from tasks import jobs

    with open_service() as service:
        with progress.following("Sync", quiet=as_json or not wait) as on_progress:
            job = jobs.submit(service, "sync", wait=wait, on_progress=on_progress)
        finish(service, job, waited=wait, as_json=as_json, done="synced")
