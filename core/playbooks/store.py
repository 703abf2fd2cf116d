"""Create, update, move and delete playbooks on this machine, a batch at a time.

New folders are put together and synced in staging, side by side and outside the lock; a batch then
takes the lock once and writes the journal twice (`core.playbooks.writer` draws it).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from core.content import as_content
from core.encryption import Envelope
from core.errors import AlreadyExists, EscherError, LeaseHeld, Refused, Unchanged, faults_of
from core.handed_out import HandedOut
from core.journal import Intent, Journal, VersionRecord
from core.journal.findings import Scanned
from core.journal.leases import VERSION
from core.models import (
    METADATA_FILE,
    Area,
    Move,
    PlaybookDraft,
    Ref,
    Strategy,
    executables,
    parse_version,
)
from core.playbooks.decisions import new_requests, status_of_edit
from core.playbooks.entry_points import as_published, without_copied
from core.playbooks.folder_copies import carry_extras
from core.playbooks.naming import Named, Naming
from core.playbooks.reader import PlaybookReader
from core.playbooks.sealing import published_form
from core.playbooks.secrets_gate import SecretsGate, stricter
from core.playbooks.validation import normalise
from core.playbooks.versioning import (
    area_of_successor,
    check_pin,
    check_unchanged,
    first_made,
    id_of,
    inherited_metadata,
    intake_of,
    is_decision,
    label_of,
    next_version,
    plan_moves,
    refuse_clear,
    refuse_taken,
    strategy_of_successor,
    successor_metadata,
    waits_for_decision,
)
from core.playbooks.writer import Origin, Stager
from core.secrets import SecretFinding
from core.settings import Settings

BATCH = 64
STAGING_THREADS = 4
NAMING_ATTEMPTS = 20  # of other processes that take names at this very moment
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StoreResult:
    """What became of one draft; on failure ``ref`` is as far as the draft names itself."""

    ref: Ref
    warnings: tuple[str, ...] = ()
    error: EscherError | None = None
    findings: tuple[SecretFinding, ...] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)  # by its file, and not followed
    note: str | None = None  # on the id that was made for it


class PlaybookStore(PlaybookReader):
    """The versions under ``playbooks/``; safe for several threads and processes of one home."""

    def __init__(self, settings: Settings, journal: Journal, envelope: Envelope) -> None:
        super().__init__(settings, journal, envelope)
        self.handed_out = HandedOut(settings)
        self.stager = Stager(self.layout, envelope)
        self.secrets = SecretsGate(settings, journal)

    # -- new versions -----------------------------------------------------------------------
    def create(
        self,
        draft: PlaybookDraft,
        *,
        area: Area | None = None,
        playbook_id: str | None = None,
        version: str | None = None,
        strategy: Strategy | None = None,
        author: str | None = None,
        intake: str = "create",
        check_scripts: bool = True,
    ) -> StoreResult:
        """Store one new version, durably when this returns; raises what was wrong with it."""
        named = dict(draft.metadata)
        named |= {
            key: value
            for key, value in (("playbook_id", playbook_id), ("version", version))
            if value is not None
        }
        result = self.create_many(
            [replace(draft, metadata=named)],
            area=area,
            strategy=strategy,
            author=author,
            intake=intake,
            check_scripts=check_scripts,
        )[0]
        if isinstance(result.error, Unchanged):  # good news for an import, not for a create
            raise AlreadyExists(result.error.detail, "Give another version, or leave it at that.")
        if result.error is not None:
            raise result.error
        return result

    def create_many(
        self,
        drafts: Sequence[PlaybookDraft],
        *,
        area: Area | None = None,
        strategy: Strategy | None = None,
        author: str | None = None,
        intake: str = "create",
        check_scripts: bool = True,
        gate: str | None = None,
        naming: Naming | None = None,
    ) -> list[StoreResult]:
        """Store new versions; one result a draft, in order, and a bad one holds back no other.

        ``gate``: the ``secrets_gate`` of whoever asked; the stricter of it and our own counts.
        ``naming``: of a call that comes in several batches, see `naming`.
        ``area`` None: ``ai-generated/`` for that author, else ``local/``. ``intake``: how they
        came in (create, update, edit, import). Raises `StorageError`
        when the home can't be written at all.
        """
        self.writer.prepare()
        results: list[StoreResult] = []
        naming = naming or self.naming(author)
        named = naming.name(drafts)
        secret = {
            str(id_of(item.draft)) for item in named if item.draft.metadata.get("sensitive") is True
        }
        stage = partial(
            self._stage_new,
            area=area,
            strategy=strategy,
            author=author,
            intake=intake,
            check=check_scripts,
            gate=gate,
            secret=secret,
            pinned=self.journal.versions.pins.get_many([item.ref for item in named]),
        )
        with ThreadPoolExecutor(STAGING_THREADS, thread_name_prefix="staging") as pool:
            for batch in _batches(named):
                scans: list[Scanned] = []
                work = partial(stage, scans=scans)
                spread = pool.map(work, batch) if len(batch) > 1 else map(work, batch)
                results.extend(self._store_new(list(spread), scans))
        for number, item in enumerate(named):
            if item.made:
                result = results[number]
                results[number] = self._settled(naming, drafts[number], item, result, stage)
        if strategy is Strategy.REVIEW:
            stored = [result.ref for result in results if result.error is None]
            rows = self.journal.versions.get_many(stored)
            self.journal.choices.choose_review(  # what an AI wrote waits for a choice of its own
                ref.playbook_id for ref, row in rows.items() if row.area is not Area.AI_GENERATED
            )
        return results

    def naming(self, author: str | None = None) -> Naming:
        """What gives ids to the drafts of one call; ``author`` as they are created under."""
        return Naming(self.journal, self.limits, author)

    def _settled(
        self,
        naming: Naming,
        draft: PlaybookDraft,
        item: Named,
        result: StoreResult,
        stage: Callable[..., Intent | StoreResult],
    ) -> StoreResult:
        """The result under an id that no other process took first, with the note on it."""
        for _ in range(NAMING_ATTEMPTS):
            if not isinstance(result.error, AlreadyExists) or not naming.is_anothers(item):
                break
            item, scans = naming.name_again(draft), list[Scanned]()
            result = self._store_new([stage(item, scans=scans)], scans)[0]
        return replace(result, note=item.note) if result.error is None else result

    def _stage_new(
        self,
        named: Named,
        *,
        area: Area | None,
        strategy: Strategy | None,
        author: str | None,
        intake: str,
        check: bool,
        gate: str | None,
        scans: list[Scanned],
        secret: Collection[str],
        pinned: Mapping[Ref, str],
    ) -> Intent | StoreResult:
        now, draft = int(time.time()), named.draft
        try:
            with faults_of(str(label_of(draft))):
                draft, extra = self._kept_secret(as_content(draft), secret)
                extra += [named.note] if named.note else []
                known = self.journal.versions
                metadata = without_copied(draft.metadata, known, lost_from=draft.files)
                draft = replace(draft, metadata=metadata)
                ready = normalise(
                    draft, now=now, strategy=strategy, author=author, limits=self.limits
                )
                ready = as_published(ready, pinned.get(label_of(ready)))
                home = area or (
                    Area.AI_GENERATED if ready.metadata["author"] == "ai_generated" else Area.LOCAL
                )
                if intake in {"update", "edit"}:
                    of_id = self.journal.versions.of_playbook(ready.metadata["playbook_id"])
                    intake = intake_of(intake, of_id)
                scans.extend(self.secrets.scan_new(ready.metadata, published_form(ready.files)))
                origin = Origin(intake, check=check, choice=strategy, extra=extra)
                intent = self.stager.stage(ready, home, origin)
                return replace(intent, record=self.with_gate(intent.record, gate))
        except EscherError as error:
            return StoreResult(label_of(draft), error=error)

    def with_gate(self, record: VersionRecord | None, gate: str | None = None) -> VersionRecord:
        """A new row with the gate under which it is to be published: ``gate``, or a stricter one."""
        assert record is not None  # only of a deletion's intent is there none
        if record.publish_as is None:
            return record
        return replace(record, publish_gate=stricter(self.secrets.level, gate))

    def _kept_secret(
        self, draft: PlaybookDraft, secret: Collection[str]
    ) -> tuple[PlaybookDraft, list[str]]:
        """A new version of an id that has a sensitive one is sensitive, whatever its file says.

        ``secret``: ids that get a sensitive version by the same call.
        """
        playbook_id = id_of(draft)
        if draft.metadata.get("sensitive") is True or playbook_id is None:
            return draft, []
        if playbook_id not in secret and not self.journal.versions.sensitive_ids([playbook_id]):
            return draft, []
        return replace(draft, metadata=draft.metadata | {"sensitive": True}), [
            f"{playbook_id} has a sensitive version: this one is sealed and never uploaded, too"
        ]

    def _store_new(
        self, staged: list[Intent | StoreResult], scans: Sequence[Scanned]
    ) -> list[StoreResult]:
        """Take staged versions in: one lock, two journal transactions, and one for the scans."""
        intents = [item for item in staged if isinstance(item, Intent)]
        errors: dict[str, EscherError] = {}  # by staged name: a ref may be there twice
        with self.writer.discarding(*(intent.staged for intent in intents)):
            self.secrets.keep(scans)
            if intents:
                with self.writer.locked():
                    errors = refuse_taken(self.journal.versions, self.layout, intents)
                    errors |= refuse_clear(self.journal.versions, intents)
                    free = [intent for intent in intents if intent.staged not in errors]
                    failed = self.writer.apply(free)
                    errors |= {str(i.staged): failed[i.ref] for i in free if i.ref in failed}
        for name in errors:
            self.writer.discard(name)
        found = self._findings([i for i in intents if i.staged not in errors])
        return [
            _result(item, errors.get(str(item.staged)), found.get(item.ref, ()))
            if isinstance(item, Intent)
            else item
            for item in staged
        ]

    def _findings(self, intents: Sequence[Intent]) -> dict[Ref, tuple[SecretFinding, ...]]:
        """What the scans found in what was just stored."""
        return self.secrets.findings([(i.record, i.files) for i in intents if i.record is not None])

    # -- changed versions -------------------------------------------------------------------
    def update(
        self,
        playbook_id: str,
        draft: PlaybookDraft,
        version: str | None = None,
        *,
        strategy: Strategy | None = None,
        check_scripts: bool = True,
    ) -> StoreResult:
        """Replace the latest version's content in place, or make a new version of it.

        In place while it is unpublished and ``version`` is not another one; published, the new
        version is ``version``, else the metadata's if higher, else the next patch. A new version
        goes to review where its id was ever chosen for that, unless ``strategy`` says otherwise;
        else it stays here. What is sensitive stays sensitive. Raises
        `AlreadyExists`/`Refused` for a version that is not higher, `LeaseHeld` while the latest
        one is just being published.
        """
        previous = self.latest(playbook_id)
        raw = inherited_metadata(draft.metadata, previous)
        if version is not None:
            parse_version(version)
        published = previous.is_published or previous.area is Area.SYNCED
        if published or version not in {None, previous.ref.version}:
            target = next_version(self.journal.versions, previous.ref, raw.get("version"), version)
            area = area_of_successor(raw, previous)
            if draft.executable is None:
                draft = replace(draft, executable=frozenset(self._marked(previous.ref)))
            return self.create(
                replace(draft, metadata=successor_metadata(raw, target, area)),
                area=area,
                strategy=strategy or strategy_of_successor(self.journal, raw, previous),
                intake="update",
                check_scripts=check_scripts,
            )
        result = self._replace(
            previous, replace(draft, metadata=raw), strategy, check=check_scripts
        )
        if previous.sensitive and draft.metadata.get("sensitive") is False:
            stays = f"{result.ref} stays sensitive; only `escher-playbooks declassify` changes that"
            return replace(result, warnings=(stays, *result.warnings))
        return result

    def replace(self, ref: Ref, draft: PlaybookDraft, *, declassify: bool = False) -> StoreResult:
        """Replace the content of this unpublished version in place; see `update` for what it raises.

        ``declassify``: the user wants it not to be sensitive any more.
        """
        record = self.get(ref)
        if record.is_published:
            raise Refused(f"{ref} is published: it never changes.", "Make a new version of it.")
        raw = inherited_metadata(draft.metadata, record)
        draft = replace(draft, metadata=raw)
        return self._replace(record, draft, None, check=True, declassify=declassify)

    def _replace(
        self,
        old: VersionRecord,
        draft: PlaybookDraft,
        choice: Strategy | None,
        *,
        check: bool,
        declassify: bool = False,
    ) -> StoreResult:
        ref, now = old.ref, int(time.time())
        if old.deleting:
            raise Refused(f"{ref} is being deleted.", "Wait until it is gone and create it anew.")
        raw = draft.metadata | {"created_at": first_made(old), "updated_at": now}
        extra = []
        if raw.get("version") not in {None, ref.version}:
            extra.append(f"{METADATA_FILE} says version {raw['version']}: {ref} was replaced")
        raw["version"] = ref.version
        sensitive = (old.sensitive or raw.get("sensitive") is True) and not declassify
        raw = new_requests(raw, old)
        if sensitive or declassify:
            raw["sensitive"] = sensitive
        waits = waits_for_decision(raw, old)
        if waits:
            choice = Strategy.LOCAL_ONLY
            extra.append(
                f"an AI wrote it: it waits (escher-playbooks decide {ref} keep|review|trusted)"
            )
        ready = normalise(
            as_content(replace(draft, metadata=raw), marked=self._marked(ref)),
            now=now,
            strategy=choice or (Strategy.LOCAL_ONLY if sensitive else old.chosen_strategy),
            status=status_of_edit(raw, old),
            limits=self.limits,
        )
        ready = as_published(ready, self.journal.versions.pins.get(ref))
        self.writer.prepare()
        with self.leased([ref]):
            self.secrets.keep(self.secrets.scan_new(ready.metadata, published_form(ready.files)))
            origin = Origin("update", check=check, old=old, choice=choice, extra=extra)
            intent = self.stager.stage(ready, old.area, origin)
            intent = replace(intent, record=self.with_gate(intent.record, old.publish_gate))
            assert intent.record is not None
            with self.writer.discarding(intent.staged):
                check_pin(self.journal.versions, ref, intent.record.content_digest)
                with self.writer.locked():
                    check_unchanged(self.journal.versions, old)
                    content = {file.path for file in intent.files}
                    staged = self.layout.staged(str(intent.staged))
                    # the state of its runs, above all
                    carry_extras(self.layout.folder(old.area, ref), staged, content)
                    self.writer.apply_one(intent)
            if waits:
                self.move([Move(ref, Area.AI_GENERATED, {})])
        if choice is Strategy.REVIEW:
            self.journal.choices.choose_review([ref.playbook_id])
        if (told := self.handed_out.warning(ref)) and intent.record is not None:
            warnings = (*intent.record.warnings, told)
            intent = replace(intent, record=replace(intent.record, warnings=warnings))
        return _result(intent, None, self._findings([intent]).get(ref, ()))

    def _marked(self, ref: Ref) -> set[str]:
        """The executable files of a version, for content that comes without modes."""
        return executables(self.journal.versions.files(ref))

    def set_metadata(self, ref: Ref, changes: dict[str, Any]) -> None:
        """Change server-owned fields (status, strategy, deprecation); None takes a field away.

        `LeaseHeld` while a worker is at the version: it may be about to move the folder.
        """
        with self.leased([ref]):
            self.move([Move(ref, self.get(ref).area, changes)])

    def move(self, changes: Sequence[Move]) -> None:
        """Bring versions to their areas with new server-owned metadata; doing it twice is harmless.

        All that can be moved are; then the first error (`NotFound`, `StorageError`, …) is raised.
        """
        errors: list[EscherError] = []
        for batch in _batches(changes):
            with self.writer.locked():
                intents = [
                    replace(intent, record=self.with_gate(intent.record))
                    if is_decision(intent.from_area, intent.to_area)
                    else intent
                    for intent in plan_moves(self.journal.versions, self.layout, batch, errors)
                ]
                errors.extend(self.writer.apply(intents).values())
        if errors:
            raise errors[0]

    def delete(self, refs: Sequence[Ref], *, unless_busy: bool = False) -> None:
        """Remove folders and rows; refs that are gone already are fine.

        For what is not on the server, or confirmed gone there: this asks nobody. The caller holds
        the leases, or says ``unless_busy``: `LeaseHeld` when a worker is at one of them.
        """
        for batch in _batches(refs):
            guard = self.leased(batch) if unless_busy else nullcontext()
            with guard, self.writer.locked():
                rows = self.journal.versions.get_many(batch)
                failed = self.writer.apply([
                    Intent(ref, "delete", uuid.uuid4().hex, from_area=row.area)
                    for ref, row in rows.items()
                ])  # fmt: skip
            if failed:
                raise next(iter(failed.values()))

    @contextmanager
    def leased(self, refs: Sequence[Ref]) -> Iterator[None]:
        """Keep publishers off while versions change; `LeaseHeld` when one is at them."""
        rows = self.journal.versions.get_many(refs)
        with self.journal.leases.holding(VERSION, rows) as held:
            if busy := sorted(set(rows) - held.items):
                raise LeaseHeld(f"{busy[0]} is just being worked on.", "Try again in a moment.")
            yield


def _batches(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def _result(
    intent: Intent, error: EscherError | None, findings: tuple[SecretFinding, ...]
) -> StoreResult:
    if error is not None or intent.record is None:
        return StoreResult(intent.ref, error=error)
    record = intent.record
    return StoreResult(intent.ref, record.warnings, findings=findings, asked=record.asked)
