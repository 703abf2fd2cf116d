"""Decide which version may be run: the one decision behind every path that this service hands out.

::

    status of a version                                 latest          ID@VERSION
    1  approved or active, as the server says           candidate       yes
    2  deprecated, and was approved                     passed over     yes, with a warning
    3  made here, and nobody reviewed it                candidate only where nothing is of row 1
                                                                        yes, saying so
    4  another machine's, and not approved              passed over     allow_unreviewed, or
                                                                        allow_deprecated
    5  written by an AI and not decided, a draft        passed over     allow_unreviewed
    6  rejected, broken, archived, a wrong or a         passed over     never
       revoked signature

``run_policy``: ``approved`` takes rows 1 and 2 alone and nothing overrides it, ``own`` is the table,
``any`` makes row 4 a candidate. What an override allows is the latest only where nothing else is.
Nothing is looked up here: the `RunFacts` are made of what the journal knows or the server told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from core.errors import NotRunnable
from core.journal.script_lookup import ToldStatus, VersionFacts
from core.models import RESERVED_PREFIX, Area, Ref, Status, Strategy, parse_version, sorted_versions
from core.scripts.models import NO_OVERRIDES, Overrides, VersionInfo
from core.server.answers import Script

RunPolicy = Literal["approved", "own", "any"]
# What a version's signature may say; nothing is signed yet, so every answer says UNSIGNED.
UNSIGNED, SIGNATURE_WRONG, SIGNATURE_REVOKED = "unsigned", "wrong", "revoked"
_REVIEWED = frozenset({Status.APPROVED, Status.ACTIVE})
_REFUSED = frozenset({Status.REJECTED, Status.BROKEN, Status.ARCHIVED})
_BAD_SIGNATURES = frozenset({SIGNATURE_WRONG, SIGNATURE_REVOKED})


class Eligibility(StrEnum):
    """What a version is to who asks for it to be run."""

    CANDIDATE = "candidate"  # may be the latest, and may be asked for by its name
    OWN = "own"  # a candidate where the playbook has no reviewed version
    NAMED = "named"  # runs when it is asked for by its version, with a warning
    OVERRIDE = "override"  # runs with ``allow_unreviewed`` or ``allow_deprecated``
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the decision is made from.

    ``published``: the status is the server's word (also of a version that only the server knows).
    ``was_approved``: a reviewer's approval stands behind it, whatever its status is now.
    ``status`` None: nobody has told it.
    """

    ref: Ref
    status: str | None
    published: bool
    made_here: bool = False
    origin_known: bool = True  # False: published by a version that did not note who made it
    undecided: bool = False  # waits in ai-generated/
    was_approved: bool = False
    in_conflict: bool = False
    broke_here: bool = False  # three failures in a row were reported on this machine
    signature: str = UNSIGNED
    has_format: bool = True
    deprecated_by: str | None = None
    publisher: str | None = None
    status_at: int | None = None


def facts_here(playbook_id: str, known: VersionFacts) -> RunFacts:
    """Make the facts of a version that the journal knows."""
    return RunFacts(
        Ref(playbook_id, known.version),
        known.status,
        published=known.published,
        made_here=known.made_here,
        origin_known=known.origin_known,
        undecided=known.area is Area.AI_GENERATED,
        was_approved=was_approved(known.status, known.strategy, is_library=False),
        in_conflict=known.in_conflict,
        broke_here=known.health == "broken",
        has_format=known.has_format,
        deprecated_by=known.deprecated_by,
        publisher=known.published_by,
        status_at=known.status_at,
    )


def facts_there(ref: Ref, told: ToldStatus | None, *, in_conflict: bool = False) -> RunFacts:
    """Make the facts of a version that only the server knows, by what it ``told`` last, if anything.

    The Escher Library shows what was reviewed: approved, unless it says otherwise.
    """
    told = told or ToldStatus(None, None, None, None, 0)
    is_library = ref.playbook_id.startswith(RESERVED_PREFIX)
    status = told.status
    if status is None and is_library:
        status = Status.APPROVED.value
    return RunFacts(
        ref,
        status,
        published=True,
        was_approved=was_approved(status, told.strategy, is_library=is_library),
        in_conflict=in_conflict,
        deprecated_by=told.deprecated_by,
        publisher=told.published_by or ("escher-library" if is_library else None),
        status_at=told.told_at or None,
    )


def told_by(script: Script, now: float) -> ToldStatus:
    """Read what a script answer says of its version; a status that is none is not told.

    Of the Escher Library it is kept as it was said: what is not told there counts as approved.
    """
    metadata = script.metadata or {}
    said = script.status or metadata.get("status")
    status = None if said is None else _text(said, 24) or "unreadable"
    if status not in set(Status) and not script.playbook_id.startswith(RESERVED_PREFIX):
        status = None
    return ToldStatus(
        status,
        _text(metadata.get("storage_strategy"), 24),
        _text(script.published_by, 200),
        _text(metadata.get("deprecated_by"), 200),
        int(now),
    )


def _text(value: object, length: int) -> str | None:
    return value[:length] if isinstance(value, str) and value else None


@dataclass(frozen=True, slots=True)
class Decision:
    """What the table says of one version; ``needs``: which override would let it run."""

    eligibility: Eligibility
    reason: str
    needs: Literal["unreviewed", "deprecated"] | None = None
    warnings: tuple[str, ...] = field(default=())

    def runs(self, overrides: Overrides) -> bool:
        """Whether it may be run when it is asked for by its version."""
        if self.eligibility is Eligibility.OVERRIDE:
            return overrides.unreviewed if self.needs == "unreviewed" else overrides.deprecated
        return self.eligibility is not Eligibility.REFUSED


def was_approved(status: str | None, strategy: str | None, *, is_library: bool) -> bool:
    """Whether a reviewer's approval stands behind what the server has under that strategy."""
    return is_library or status == Status.APPROVED or strategy == Strategy.TRUSTED


def decide(facts: RunFacts, policy: RunPolicy = "own") -> Decision:
    """Find the row of the table that a version is in, as ``policy`` reads it."""
    found = _row(facts)
    if policy == "approved" and not _is_reviewed(facts):
        return Decision(
            Eligibility.REFUSED, f"{found.reason}, and run_policy = approved takes nothing else"
        )
    if policy == "any" and found.eligibility is Eligibility.OVERRIDE and not _is_undecided(facts):
        found = Decision(Eligibility.CANDIDATE, found.reason, None, (f"{found.reason}.",))
    return Decision(
        found.eligibility, found.reason, found.needs, (*found.warnings, *_more_warnings(facts))
    )


def _row(facts: RunFacts) -> Decision:
    status = facts.status
    if facts.signature in _BAD_SIGNATURES:
        return Decision(Eligibility.REFUSED, f"its signature is {facts.signature}")
    if status in _REFUSED:
        return Decision(Eligibility.REFUSED, f"it is {status}")
    if facts.undecided:
        reason = "it was written by an AI and waits for a decision"
        return _override(reason, "unreviewed")
    if status == Status.DRAFT:
        return _override("it is a draft", "unreviewed")
    if facts.published and status in _REVIEWED:
        return Decision(Eligibility.CANDIDATE, f"it is {status}")
    if status == Status.DEPRECATED:
        return _deprecated(facts)
    if facts.made_here:
        reason = f"nobody reviewed it (made here, {status})"
        return Decision(Eligibility.OWN, reason, None, (f"{facts.ref}: {reason}.",))
    told = f"it is {status}"
    if status is None:
        told = "its status is not known"
    elif not facts.published:
        told = f"only its own file says {status}"
    return _override(f"another machine's, and nobody approved it ({told})", "unreviewed")


def _deprecated(facts: RunFacts) -> Decision:
    reason = (
        f"it is deprecated by {facts.deprecated_by}" if facts.deprecated_by else "it is deprecated"
    )
    if facts.published and facts.was_approved:
        return Decision(Eligibility.NAMED, reason, None, (f"{facts.ref}: {reason}.",))
    if facts.made_here:
        reason = f"{reason}, and nobody reviewed it (made here)"
        return Decision(Eligibility.NAMED, reason, None, (f"{facts.ref}: {reason}.",))
    return _override(f"another machine's: {reason}, and nobody ever approved it", "deprecated")


def _override(reason: str, needs: Literal["unreviewed", "deprecated"]) -> Decision:
    return Decision(Eligibility.OVERRIDE, reason, needs, ())


def _is_reviewed(facts: RunFacts) -> bool:
    """Rows 1 and 2."""
    if facts.undecided or not facts.published or facts.signature in _BAD_SIGNATURES:
        return False
    return facts.status in _REVIEWED or (facts.status == Status.DEPRECATED and facts.was_approved)


def _is_undecided(facts: RunFacts) -> bool:
    """Row 5: no policy makes it a candidate."""
    return facts.undecided or facts.status == Status.DRAFT


def _more_warnings(facts: RunFacts) -> Iterable[str]:
    if facts.in_conflict:
        yield (
            f"{facts.ref}: the server says otherwise, and this machine's side is run;"
            " `escher-playbooks conflicts` shows it."
        )
    if facts.broke_here:
        yield f"{facts.ref}: it failed three times in a row on this machine."


# -- which one --------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Choice:
    """The version to run, and what the caller is to be told."""

    facts: RunFacts
    warnings: tuple[str, ...]

    @property
    def info(self) -> VersionInfo:
        """As an answer tells it."""
        facts = self.facts
        return VersionInfo(
            facts.status,
            facts.status_at,
            facts.made_here,
            facts.publisher,
            facts.signature,
            self.warnings,
        )


def check_named(facts: RunFacts, policy: RunPolicy, overrides: Overrides = NO_OVERRIDES) -> Choice:
    """Choose the version that was asked for by its name; `NotRunnable` says why it does not run."""
    decision = decide(facts, policy)
    if not decision.runs(overrides):
        raise not_runnable([facts], policy)
    return Choice(facts, _told(facts, decision))


def choose_latest(
    versions: Sequence[RunFacts], policy: RunPolicy, overrides: Overrides = NO_OVERRIDES
) -> Choice | None:
    """Choose the highest candidate that has the format asked for; None where no version has it.

    A pre-release only where no release is a candidate. Where nothing is one, what ``overrides``
    allows. Raises `NotRunnable`, with each version and its reason.
    """
    by_version = {facts.ref.version: facts for facts in versions}
    decisions = {version: decide(facts, policy) for version, facts in by_version.items()}
    reviewed = any(
        decision.eligibility is Eligibility.CANDIDATE and _is_reviewed(by_version[version])
        for version, decision in decisions.items()
    )
    wanted = {Eligibility.CANDIDATE} if reviewed else {Eligibility.CANDIDATE, Eligibility.OWN}
    having = [version for version, facts in by_version.items() if facts.has_format]
    found = [version for version in having if decisions[version].eligibility in wanted]
    if not found and overrides != NO_OVERRIDES:
        found = [version for version in having if decisions[version].runs(overrides)]
    if not found:
        if not having:
            return None
        raise not_runnable([by_version[version] for version in having], policy)
    version = _highest(found)
    chosen = by_version[version]
    return Choice(chosen, (*_passed_over(version, by_version, decisions),
                           *_told(chosen, decisions[version])))  # fmt: skip


def _highest(versions: Sequence[str]) -> str:
    ordered = sorted_versions(versions)
    releases = [version for version in ordered if not parse_version(version).prerelease]
    return (releases or ordered)[-1]


def _passed_over(
    version: str, by_version: dict[str, RunFacts], decisions: dict[str, Decision]
) -> Iterable[str]:
    """A word on the highest version above the chosen one."""
    if len(by_version) == 1:
        return
    highest = sorted_versions(by_version)[-1]
    if highest == version:
        return
    facts, decision = by_version[highest], decisions[highest]
    why = decision.reason
    if not facts.has_format:
        why = "it has no script of this format"
    elif decision.eligibility is Eligibility.CANDIDATE:
        why = "it is a pre-release"
    yield f"{facts.ref} was passed over: {why}."


def _told(facts: RunFacts, decision: Decision) -> tuple[str, ...]:
    if decision.eligibility is Eligibility.OVERRIDE:
        return (f"{facts.ref} is run all the same: {decision.reason}.", *decision.warnings)
    return decision.warnings


def not_runnable(versions: Sequence[RunFacts], policy: RunPolicy) -> NotRunnable:
    """Make the error that lists versions with their reasons, and says what would let one run."""
    by_version = {facts.ref.version: facts for facts in versions}
    listed: list[dict[str, object]] = []
    remedies: dict[str, None] = {}
    for version in reversed(sorted_versions(by_version)):
        facts = by_version[version]
        decision = decide(facts, policy)
        listed.append({
            "version": version, "status": facts.status, "status_as_of": facts.status_at,
            "made_here": facts.made_here, "publisher": facts.publisher, "reason": decision.reason,
        })  # fmt: skip
        remedies[_remedy(facts, decision)] = None
    playbook_id = versions[0].ref.playbook_id
    words = "; ".join(f"{item['version']}: {item['reason']}" for item in listed)
    return NotRunnable(
        f"No version of {playbook_id} may be run here: {words}."
        if len(listed) > 1
        else f"{versions[0].ref} may not be run here: {listed[0]['reason']}.",
        " ".join(remedy for remedy in remedies if remedy),
        versions=listed,
    )


def _remedy(facts: RunFacts, decision: Decision) -> str:
    if decision.eligibility is Eligibility.OVERRIDE:
        flag = f"--allow-{decision.needs}"
        if facts.undecided:
            return f"Decide on it (`escher-playbooks decide {facts.ref} keep`), or give {flag}."
        claim = (
            ""
            if facts.origin_known
            else f" If you made it: `escher-playbooks keys claim {facts.ref}`."
        )
        return f"Have it approved, or name the version and give {flag}.{claim}"
    if decision.eligibility in {Eligibility.NAMED, Eligibility.OWN}:
        return f"Name the version ({facts.ref}) to run it all the same."
    if facts.status == Status.REJECTED:
        return "Publish a new version for review."
    return ""
