"""Decides who wins, server or here: one pure function of what each side holds of a version.

::

                          here: nothing   unpublished        published            being deleted
                                                         untouched   edited
    there: same content   TAKE_IN         SAME_CONTENT   SAME_CONTENT  —          CHANGE_BEATS_DELETION
                                                                                  or DELETION_GOES_ON
           the pinned one TAKE_IN         OPEN_CONFLICT  —           EDIT_BE-     —
                                                                     COMES_
                                                                     SUCCESSOR
           other than     IMMUTABLE       OPEN_CONFLICT  IMMUTABLE   IMMUTABLE    IMMUTABLE
           pinned
           deleted        NOTHING         NOTHING,       DELETED_    EDIT_        DELETED_THERE
                                          NAME_IS_TAKEN  THERE       BEATS_
                                          or THEIRS_IS_              DELETION
                                          GONE

Pinned is the one content that a name stands for (`core.journal.pins`). Of an id that is private
here nothing but the same content is taken: `PRIVATE_ID`.

What the server owns (status, strategy after approval, deprecation, statistics, revision) is no part
of the content: it is the server's in every case. A change older than what is known here is `STALE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Rule(StrEnum):
    """What is to be done; the names are those of ``conflicts.kind``."""

    NOTHING = "nothing"
    STALE = "stale"
    TAKE_IN = "take_in"  # another machine's version: metadata now, content when wanted
    SAME_CONTENT = "same_content"  # no conflict, whatever the history: the server's fields count
    DELETION_GOES_ON = "deletion_goes_on"  # asked for here, and nothing is new there
    CHANGE_BEATS_DELETION = "change_beats_deletion"  # a deletion can't be undone
    DELETED_THERE = "deleted_there"  # and untouched here: into the trash, unless too many are
    EDIT_BEATS_DELETION = "edit_beats_deletion"  # deleted there, edited here: the next free patch
    IMMUTABLE = "immutable"  # other content under a name that stands for this: the user chooses
    EDIT_BECOMES_SUCCESSOR = "edit_becomes_successor"  # the next free patch, for review
    OPEN_CONFLICT = "open_conflict"  # no guess: the user chooses
    PRIVATE_ID = "private_id"  # an id of ours that somebody else uses, too: the user chooses
    NAME_IS_TAKEN = "name_is_taken"  # by what was deleted there: ours needs another name
    THEIRS_IS_GONE = "theirs_is_gone"  # an open conflict that has lost its other side


# To be looked at on disk before they are carried out: decide again with ``edited``.
LOOK_AT_DISK = frozenset({Rule.DELETED_THERE})


@dataclass(frozen=True, slots=True)
class Here:
    """A version on this machine; ``updated_at`` is what its metadata says, in Unix seconds.

    ``published_digest`` is the content that the server has committed, as far as is known;
    ``synced``: it stands in ``synced/``, so it was published even where the journal was lost.
    """

    digest: str
    published_digest: str | None = None
    revision: int | None = None
    updated_at: int = 0
    synced: bool = False
    deleting: bool = False
    in_conflict: bool = False
    edited: bool = False  # its files on disk are not those of ``digest``


@dataclass(frozen=True, slots=True)
class There:
    """The same version on the server; a tombstone keeps the digest of what was deleted."""

    digest: str
    revision: int
    updated_at: int = 0
    deleted: bool = False


def decide(
    here: Here | None,
    there: There,
    *,
    pinned: str | None = None,
    private: bool = False,
    fresh: bool = False,
) -> Rule:
    """Return the rule for one version; ``here`` is None when this machine has no such version.

    ``pinned`` is the content that its name stands for; ``private``: the id is ours alone, so far;
    ``fresh``: nothing happened here since the server was asked, so its answer can't be overtaken.
    """
    if here is None:
        if there.deleted:
            return Rule.NOTHING
        if private:
            return Rule.PRIVATE_ID
        return Rule.TAKE_IN if pinned in {None, there.digest} else Rule.IMMUTABLE
    if not fresh and _is_overtaken(here, there):
        return Rule.STALE
    if there.deleted:
        return _deleted_there(here, there)
    if here.digest == there.digest:
        if not here.deleting:
            return Rule.SAME_CONTENT
        moved = here.revision is not None and there.revision > here.revision
        return Rule.CHANGE_BEATS_DELETION if moved else Rule.DELETION_GOES_ON
    if not _was_published(here):
        return Rule.PRIVATE_ID if private else Rule.OPEN_CONFLICT
    # where the journal was lost, only the server knows what was published
    if there.digest != (pinned or here.published_digest or there.digest):
        return Rule.IMMUTABLE
    return Rule.EDIT_BECOMES_SUCCESSOR


def _deleted_there(here: Here, there: There) -> Rule:
    if not _was_published(here):
        if here.digest != there.digest and here.in_conflict:
            return Rule.NAME_IS_TAKEN
        return Rule.THEIRS_IS_GONE if here.in_conflict else Rule.NOTHING
    if _is_edited(here, there) and not here.deleting:
        return Rule.EDIT_BEATS_DELETION
    return Rule.DELETED_THERE


def _is_overtaken(here: Here, there: There) -> bool:
    """Whether the answer may be older than what this machine has done since.

    A lower revision with a later time is a server that was set up anew: it counts.
    """
    if here.revision is None:
        return False
    if there.deleted and there.revision == here.revision:
        return True
    return there.revision < here.revision and there.updated_at <= here.updated_at


def _was_published(here: Here) -> bool:
    return here.revision is not None or here.synced


def _is_edited(here: Here, there: There) -> bool:
    return here.edited or here.digest != (here.published_digest or there.digest)
