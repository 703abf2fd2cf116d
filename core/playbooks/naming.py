"""Gives ids to drafts that have none: made from the name, and never that of another playbook.

::

    name ──► base ──► base, base-2, base-3, …      (and what version 0.1.0 would have made of it)
      1. of a playbook of this very name, with this very content        it is there already
      2. of a playbook of this very name that lacks this version        a version of it
      3. of a playbook of this very name                                the same, changed: the caller
                                                                        is told, nothing is replaced
      4. the first that nobody has                                      said where it is not base

So a folder that is imported again finds what it brought before. Two drafts of one call with one name
and version, and other content, are two playbooks: 3 passes over what this call has given away.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from core.content import as_content
from core.errors import EscherError
from core.journal import Journal
from core.journal.versions import NamedVersion
from core.models import PlaybookDraft, Ref
from core.playbooks.entry_points import draft_makes
from core.playbooks.ids_from_names import former_id, id_from_name, plain_name, with_suffix
from core.playbooks.validation import FIRST_VERSION, Limits, normalise
from core.playbooks.writer import draft_digest

BLOCK = 16  # numbered ids that are looked through at least: one of them may have been deleted


@dataclass(frozen=True, slots=True)
class Named:
    """A draft with its id; ``made``: from the name, and ``note`` says why it is not the plain one."""

    draft: PlaybookDraft
    made: bool = False
    note: str | None = None

    @property
    def ref(self) -> Ref:
        """The version that it is to be, as far as it says so itself."""
        return Ref(str(self.draft.metadata.get("playbook_id")), _version(self.draft))


class Naming:
    """Names the drafts of one call, which may come in batches; for one thread."""

    def __init__(self, journal: Journal, limits: Limits, author: str | None) -> None:
        self._versions = journal.versions
        self._limits = limits
        self._author = author
        self._given: dict[str, dict[str, str]] = {}  # names by id and version, of this call
        self._batch: dict[Ref, PlaybookDraft] = {}
        self._known: dict[str, list[NamedVersion]] = {}

    def name(self, drafts: Sequence[PlaybookDraft]) -> list[Named]:
        """Return the drafts in their order, each with an id unless it has no name to make it from."""
        self._batch.clear()
        self._known.clear()  # others write, too
        for draft in drafts:
            own, name = draft.metadata.get("playbook_id"), draft.metadata.get("name")
            if isinstance(own, str) and isinstance(name, str):
                self._note(own, draft, name)
        names = {name for draft in drafts if (name := _name_without_id(draft)) is not None}
        if names:
            self._look_up([id_ for name in names for id_ in (former_id(name), *_first_block(name))])
        return [self._named(draft) for draft in drafts]

    def name_again(self, draft: PlaybookDraft) -> Named:
        """Name a draft once more: another process was first to take the id that it was given."""
        name = str(_name_without_id(draft))
        for versions in self._given.values():  # it never got that one
            if plain_name(versions.get(_version(draft), "")) == plain_name(name):
                del versions[_version(draft)]
        return self.name([draft])[0]

    def is_anothers(self, named: Named) -> bool:
        """Whether the id that was given to a draft, just now, is of a playbook of another name."""
        self._known.clear()
        name = plain_name(str(named.draft.metadata["name"]))
        rows = self._rows(str(named.draft.metadata["playbook_id"]))
        return bool(rows) and all(plain_name(row.name) not in {"", name} for row in rows)

    # -- parts ------------------------------------------------------------------------------
    def _named(self, draft: PlaybookDraft) -> Named:
        name = _name_without_id(draft)
        if name is None:
            return Named(draft)
        base = id_from_name(name)
        chosen = self._of_this_name(draft, name) or self._free(base)
        ready = _with_id(draft, chosen)
        self._note(chosen, ready, name)
        note = None if chosen in {base, former_id(name)} else _taken_words(base, chosen)
        return Named(ready, made=True, note=note)

    def _of_this_name(self, draft: PlaybookDraft, name: str) -> str | None:
        """The id of a playbook of this name that the draft is, or is a version of."""
        version = _version(draft)
        ids = [id_ for id_ in self._ids(name) if self._may_be(id_, plain_name(name))]
        for id_ in ids:
            if self._is_there(_with_id(draft, id_), Ref(id_, version)):
                return id_
        changed = None
        for id_ in ids:
            rows = self._rows(id_)
            # whose it was nobody knows; of the plain id it is taken to be this one, deleted
            is_gone = any(row.name == "" for row in rows) and id_ != id_from_name(name)
            if version in self._given.get(id_, ()) or is_gone:
                continue
            if all(row.ref.version != version for row in rows):
                return id_
            changed = changed or id_
        return changed

    def _ids(self, name: str) -> Iterator[str]:
        """The ids that a playbook of this name may have here."""
        yield former_id(name)
        for number, id_ in enumerate(_numbered(id_from_name(name))):
            if number >= BLOCK and not self._is_taken(id_):
                return
            yield id_

    def _may_be(self, id_: str, plain: str) -> bool:
        """Whether an id is of a playbook of that name; of one that is gone nobody knows the name."""
        names = {*(row.name for row in self._rows(id_)), *self._given.get(id_, {}).values()}
        return any(name == "" or plain_name(name) == plain for name in names)

    def _is_there(self, draft: PlaybookDraft, ref: Ref) -> bool:
        """Whether ``ref`` is this very content, here or among the drafts of this batch."""
        try:
            digests = [row.content_digest for row in self._rows(ref.playbook_id) if row.ref == ref]
            if (other := self._batch.get(ref)) is not None:
                other = self._ready(other)
                digests.append(draft_digest(other, other.metadata))
            if not digests:
                return False
            ready = self._ready(draft)
            return any(
                draft_makes(ready, ready.metadata, digest, marked)
                for digest in digests
                for marked in (None, ())  # a version from before tells no modes
            )
        except EscherError:  # it can't be taken in: whoever tries says why
            return False

    def _ready(self, draft: PlaybookDraft) -> PlaybookDraft:
        """The draft as it is to be stored."""
        return normalise(
            as_content(draft), now=int(time.time()), author=self._author, limits=self._limits
        )

    def _free(self, base: str) -> str:
        return next(
            id_ for id_ in _numbered(base) if id_ not in self._given and not self._is_taken(id_)
        )

    def _is_taken(self, id_: str) -> bool:
        return bool(self._rows(id_))

    def _rows(self, id_: str) -> list[NamedVersion]:
        if id_ not in self._known:
            self._look_up([id_])
        return self._known[id_]

    def _look_up(self, ids: Sequence[str]) -> None:
        """Look up the versions of ids; those that are gone and taken for ever have no name."""
        wanted = list(dict.fromkeys(ids))
        found = self._versions.names_of(wanted)
        pins = self._versions.pins
        for id_ in pins.pinned_ids([id_ for id_ in wanted if id_ not in found]):
            digests = pins.get_many([Ref(id_, version) for version in pins.versions_of(id_)])
            found[id_] = [NamedVersion(ref, "", digest) for ref, digest in digests.items()]
        self._known.update((id_, found.get(id_, [])) for id_ in wanted)

    def _note(self, id_: str, draft: PlaybookDraft, name: str) -> None:
        self._given.setdefault(id_, {}).setdefault(_version(draft), name)
        self._batch.setdefault(Ref(id_, _version(draft)), draft)


def _taken_words(base: str, chosen: str) -> str:
    return f"another playbook has the id {base}, which its name makes, too: this one is {chosen}"


def _name_without_id(draft: PlaybookDraft) -> str | None:
    name = draft.metadata.get("name")
    has_id = draft.metadata.get("playbook_id") is not None
    return name if isinstance(name, str) and not has_id else None


def _version(draft: PlaybookDraft) -> str:
    version = draft.metadata.get("version")
    return FIRST_VERSION if version is None else str(version)


def _with_id(draft: PlaybookDraft, id_: str) -> PlaybookDraft:
    return replace(draft, metadata=draft.metadata | {"playbook_id": id_})


def _numbered(base: str) -> Iterator[str]:
    yield base
    for number in count(2):
        yield with_suffix(base, f"-{number}")


def _first_block(name: str) -> list[str]:
    ids = _numbered(id_from_name(name))
    return [next(ids) for _ in range(BLOCK)]
