"""Fills in the ``entry_points`` of what comes in, and tells what was given from what was filled in.

::

    draft ──► given paths in one form, or refused ──► absent ones by the rule ──► stored, in the digest
                                                      (their formats go into the journal: `filled`)
    edit  ──► what the rule filled in and nobody changed is taken out again, and filled in anew

A version from before has what it has. Where new content is compared with it, what the rule filled
in does not count (`makes`, `plain_digest`): the same content is the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from core.entry_scripts import Entry, begins_as_script, entry_script, given_entry
from core.errors import InvalidPlaybook
from core.journal import VersionRecord
from core.journal.versions import Versions
from core.models import (
    FORMATS,
    METADATA_FILE,
    FileEntry,
    PlaybookDraft,
    content_digest,
    file_entries,
)
from core.playbooks.sealing import published_form

FIELD = "entry_points"


class EntryPoints(NamedTuple):
    """What stands in a version's metadata, and the formats of which the rule has filled it in."""

    paths: dict[str, str]
    filled: tuple[str, ...]


def fill_in(given: Mapping[str, str] | None, files: Mapping[str, bytes]) -> EntryPoints:
    """Bring given entry points into one form and fill in the absent ones, from clear content.

    Raises `InvalidPlaybook` for one whose file is not there, or that is no path below its format.
    """
    paths = {format_: _given(format_, path, files) for format_, path in (given or {}).items()}
    filled = []
    for format_ in formats_of(files):
        if format_ not in paths and (path := entry_by_rule(format_, files).path) is not None:
            paths[format_] = path
            filled.append(format_)
    return EntryPoints(paths, tuple(filled))


def entry_by_rule(format_: str, files: Mapping[str, bytes]) -> Entry:
    """Find the entry script of a format in clear content."""
    return entry_script(format_, files, lambda path: begins_as_script(files[path][:8]))


def formats_of(paths: Iterable[str]) -> list[str]:
    """List the formats that have files."""
    heads = {path.partition("/")[0] for path in paths}
    return [format_ for format_ in FORMATS if format_ in heads]


def entry_warnings(draft: PlaybookDraft) -> list[str]:
    """Say what is odd about the entry scripts that the rule found, or did not find."""
    given = draft.metadata.get(FIELD) or {}
    by_rule = [
        entry_by_rule(format_, draft.files)
        for format_ in formats_of(draft.files)
        if format_ not in given or format_ in draft.filled
    ]
    return [entry.warning for entry in by_rule if entry.warning is not None]


def without_filled(metadata: Mapping[str, Any], formats: Collection[str]) -> dict[str, Any]:
    """Return metadata without the entry points of these formats."""
    entries = metadata.get(FIELD)
    if not formats or not isinstance(entries, Mapping):
        return dict(metadata)
    kept = {format_: path for format_, path in entries.items() if format_ not in formats}
    rest = {name: value for name, value in metadata.items() if name != FIELD}
    return rest | ({FIELD: kept} if kept else {})


def only_given(metadata: Mapping[str, Any], before: VersionRecord) -> dict[str, Any]:
    """Return an edit's metadata without what the rule had filled in and the edit left as it was."""
    entries, stored = metadata.get(FIELD), before.metadata.get(FIELD)
    if not isinstance(entries, Mapping) or not isinstance(stored, Mapping):
        return dict(metadata)
    same = [name for name in before.filled if entries.get(name) == stored.get(name)]
    return without_filled(metadata, same)


def without_copied(
    metadata: dict[str, Any], versions: Versions, *, lost_from: Collection[str] | None = None
) -> dict[str, Any]:
    """Return metadata of a new version without what the rule had filled in for a version of its name.

    Who copies a stored version's folder brings along entry points that nobody gave.
    ``lost_from``: take out those alone whose file is not among these paths.
    """
    entries = metadata.get(FIELD)
    if not isinstance(entries, Mapping):
        return metadata
    looked_at = {
        format_: path
        for format_, path in entries.items()
        if isinstance(path, str)
        and (lost_from is None or given_entry(format_, path, lost_from) is None)
    }
    if not looked_at:
        return metadata
    copied = {
        format_
        for row in versions.called(str(metadata.get("name")))
        for format_ in looked_at.keys() & set(row.filled)
        if row.metadata.get(FIELD, {}).get(format_) == looked_at[format_]
    }
    return without_filled(metadata, copied)


def makes(
    digest: str, metadata: Mapping[str, Any], filled: Collection[str], files: Sequence[FileEntry]
) -> bool:
    """Whether this content makes ``digest``, as it is or without what the rule filled in."""
    if content_digest(metadata, files) == digest:
        return True
    return bool(filled) and content_digest(without_filled(metadata, filled), files) == digest


def draft_makes(
    draft: PlaybookDraft,
    metadata: Mapping[str, Any],
    digest: str,
    executable: Collection[str] | None = None,
) -> bool:
    """Whether a draft under ``metadata`` makes ``digest``, as `makes`; ``executable``: else its own."""
    return makes(digest, metadata, draft.filled, _published(draft, executable))


def as_published(draft: PlaybookDraft, digest: str | None) -> PlaybookDraft:
    """Return a normalised draft as it was published under its name, before the rule or before modes.

    ``digest`` is what that name stands for, None while it stands for nothing.
    """
    if digest is None:
        return draft
    bare = replace(draft, metadata=without_filled(draft.metadata, draft.filled), filled=())
    unmarked = [replace(one, executable=frozenset()) for one in (draft, bare)]
    return next(
        (
            one
            for one in (draft, bare, *unmarked)
            if content_digest(one.metadata, _published(one)) == digest
        ),
        draft,
    )


def plain_digest(record: VersionRecord, files: Sequence[FileEntry]) -> str:
    """Compute a version's digest without what the rule filled in; its own where that is nothing."""
    if not record.filled:
        return record.content_digest
    return content_digest(without_filled(record.metadata, record.filled), files)


def _published(
    draft: PlaybookDraft, executable: Collection[str] | None = None
) -> tuple[FileEntry, ...]:
    marked = executable if executable is not None else draft.executable or ()
    return file_entries(published_form(draft.files), marked)


def _given(format_: str, path: str, files: Mapping[str, bytes]) -> str:
    found = given_entry(format_, path, files)
    if found is None:
        raise InvalidPlaybook(
            f"{METADATA_FILE}: entry_points names {path[:200]!r} for {format_[:40]}, and there is no such"
            " file.",
            f"Give a file of {format_[:40]}/ such as {format_[:40]}/run.sh, or leave it out: then the"
            " rule finds one.",
        )
    return found
