"""To the server: publish, and one sync now."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from escher_playbooks.cli import options, output, progress
from escher_playbooks.cli.jobs_commands import finish
from escher_playbooks.cli.session import open_service

if TYPE_CHECKING:
    from core.journal import Job
    from core.models import Ref
    from core.publishing.publisher import PublishPlan
    from core.secrets import SecretFinding
    from core.service import PlaybookService

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
    accept_finding: Annotated[
        list[str] | None,
        typer.Option(
            "--accept-finding", metavar="KEY", help="Let this finding of the secrets scan pass."
        ),
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Why it may pass; kept with it.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Accept the finding without asking.")] = False,
    wait: options.Wait = False,
    as_json: options.Json = False,
) -> None:
    """Send playbooks to the server.

    Scripts are uploaded, metadata is published, and the folder moves to synced/.
    """
    from core.errors import UsageError
    from core.secrets import findings_json
    from tasks import jobs

    if bool(targets) == all_:
        raise UsageError(
            "publish takes playbooks or --all, one of them.",
            "Write `publish ID[@VERSION]…` or `publish --all`.",
        )
    found: dict[Ref, Sequence[SecretFinding]] = {}

    def on_findings(findings: Mapping[Ref, Sequence[SecretFinding]]) -> None:
        found.update(findings)
        if not as_json:  # before anything is queued
            for ref, every in findings.items():
                output.note_findings(every, of=ref)

    with open_service() as service:
        if accept_finding or reason is not None:
            _accept(service, targets or [], accept_finding or [], reason, yes=yes)
        # first the plan: it says what is left out and why, also where nothing is left to send
        plan = service.request_publish(
            targets or None, options.read_strategy(as_), on_findings=on_findings
        )
        accepted = [str(ref) for ref in plan.accepted]
        told: dict[str, Any] = {"accepted": accepted, "left_out": dict(plan.left_out)}
        told["findings"] = findings_json(found)
        refused = _refused(plan) if targets else {}
        if refused and not plan.accepted:
            _refuse(refused)
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
        if refused:  # partly failed; of --all it is no failure that some may not leave
            raise typer.Exit(1)


def _accept(
    service: PlaybookService, targets: list[str], keys: list[str], reason: str | None, *, yes: bool
) -> None:
    """Let findings of the one version pass, after asking; the answer is for good."""
    from core.errors import Refused, UsageError

    if not keys or not (reason or "").strip() or len(targets) != 1 or "@" not in targets[0]:
        raise UsageError(
            "A finding is accepted by its key, with a reason, in one version.",
            "Write `publish ID@VERSION --accept-finding KEY --reason TEXT`; `show` prints the keys.",
        )
    ref = service.store.resolve(targets[0])
    known = {finding.key: finding for finding in service.findings(ref)}
    if not yes:
        if not output.is_interactive():
            raise UsageError(
                "Whether a finding may pass is asked on a terminal, and this is none.",
                "Look at it, and add --yes.",
            )
        for key in keys:
            output.say(known[key].as_text() if key in known else f"{key}: no finding of {ref}")
        if not output.confirm(f"Let this pass in {ref}, and in every file that is just the same?"):
            raise Refused("Nothing was accepted, and nothing is published.", "")
    service.accept_findings([str(ref)], [(key, str(reason)) for key in keys], _user())


def _user() -> str:
    """Who runs this command, as the machine knows them."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such entry in the machine's list of users
        return f"user {os.getuid()}"


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


def _refused(plan: PublishPlan) -> dict[str, str]:
    """What is left out for another reason than being published already, and why."""
    from core.publishing.publisher import ALREADY_PUBLISHED

    return {ref: why for ref, why in plan.left_out.items() if why != ALREADY_PUBLISHED}


def _refuse(refused: Mapping[str, str]) -> None:
    """Raise `Refused`: nothing that was asked for by name may be published."""
    from core.errors import Refused

    reasons = "; ".join(f"{ref}: {why}" for ref, why in refused.items())
    raise Refused(
        f"Nothing is published. {reasons.rstrip('.')}.",
        "Mend what each reason names, or leave it private; `escher-playbooks show ID` says more.",
    )


def sync(
    wait: options.Wait = False,
    accept_deletions: Annotated[
        bool,
        typer.Option("--accept-deletions", help="Carry out the server's deletions that wait."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Go on with whatever is still to be done, now."""
    from tasks import jobs

    with open_service() as service:
        told = _EditFindings(quiet=as_json)
        service.sync.on_findings = told.from_here
        with progress.following("Sync", quiet=as_json or not wait) as on_progress:

            def follow(job: Job) -> None:
                told.from_job(job)
                on_progress(job)

            job = jobs.submit(
                service,
                "sync",
                secrets_gate=service.settings.secrets_gate,
                accept_deletions=accept_deletions,
                wait=wait,
                on_progress=follow,
            )
        waiting = service.journal.waiting.counts()["deletions"]
        if waiting and not as_json:
            output.note(
                f"{waiting} deletions of the server wait: they are many at once."
                " `sync --accept-deletions` carries them out, into the trash."
            )
        finish(service, job, waited=wait, as_json=as_json, done="synced")


class _EditFindings:
    """Says once what looks like a secret in edits that a sync took in, before they are uploaded.

    The sync runs in this process, or in a worker that writes it into the job.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._said = quiet

    def from_here(self, found: Mapping[Ref, Sequence[SecretFinding]]) -> None:
        if not self._said:
            self._said = True
            for ref, findings in found.items():
                output.note_findings(findings, of=ref)

    def from_job(self, job: Job) -> None:
        listed = (job.result or {}).get("findings")
        if listed and not self._said:
            self._said = True
            for item in listed:
                where = f"{item['path']}:{item['line']}" if item["line"] else item["path"]
                output.note(
                    f"may be a secret: {item['playbook_id']}@{item['version']} {where}: "
                    f"{item['kind']} ({item['degree']}, key {item['key']})"
                )
