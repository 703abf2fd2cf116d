"""Pulls the server's changes: the feed page by page, and the content of what came in.

::

    feed after the cursor ──► each page: read, decide, apply ──► cursor ──► deletions ──► conflicts
    (one call when nothing        what fails waits by name,      kept       unless they    whose one
     is new)                      the cursor goes on                        are too many   side went

Daily, and when something asks for it, a *full pass* reads the feed from its beginning: what waited
is tried again, and what was published and is not there is noticed (`core.publishing.deletions`).

Safe to be killed anywhere and to run twice: the cursor is kept only after its page is applied, a
change that is applied again finds everything done, and a lost cursor begins at the beginning.

What comes is metadata alone; `PublishedContents` fetches the files when they are wanted.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from core.bounded_json import BadJson
from core.errors import (
    EscherError,
    IntegrityError,
    JournalUnavailable,
    LeaseHeld,
    NotFound,
    StorageError,
)
from core.files import make_private_dir, read_bytes
from core.journal import Journal
from core.journal.pulls import FAILED, MAX_FAILED, Name, WaitingChange
from core.models import Ref
from core.playbooks.remote_versions import RemoteVersions
from core.publishing.conflicts import WholeFeed, needs_full_pass, settle_what_is_over
from core.publishing.deletions import Deletions, note_absent, send_again
from core.publishing.feed import (
    Feed,
    FeedEnded,
    Item,
    Page,
    Theirs,
    failure,
    is_in_step,
    is_known_deletion,
    is_long_known,
    name_of,
    read_item,
    revision_of,
)
from core.publishing.reconcile import Changes, Reconciler
from core.server.answers import ScriptFile
from core.server.client import EscherServer
from core.settings import Settings

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PullReport(Changes):
    """The result of a pull; ``failed`` is ``{"id@version" as the server wrote it: reason}``.

    ``pulled`` came in (metadata alone: their content is to be fetched when wanted), ``updated``
    follow the server in status, strategy or revision, ``deleted`` are gone with the server's
    (``trashed``: the folders in the trash); ``deferred`` are just being worked on here, and are
    taken in with a later pull; ``sent_again``: the server had lost them.
    """

    deferred: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    passed_over: int = 0  # items without a name, or beyond what is kept of names
    deletions_waiting: int = 0
    absent: int = 0  # published versions that the server does not have
    sent_again: list[Ref] = field(default_factory=list)
    full: bool = False
    stopped: str | None = None  # why the feed was not read to its end
    cursor: str | None = None

    @property
    def is_partial(self) -> bool:
        """Whether something of the feed was passed over."""
        return bool(self.failed or self.passed_over or self.stopped)


@dataclass(slots=True)
class _Pass:
    """One reading of the feed; ``before``: what was published here when it began."""

    before: dict[Ref, int] | None = None  # of a full pass only
    seen: set[Name] = field(default_factory=set)
    unread: set[Name] = field(default_factory=set)  # of these, what could not be taken in
    private: dict[Ref, Theirs] = field(default_factory=dict)  # theirs of ids private here
    # The server's answers look like its beginning or an older copy, or all of an id is to be seen.
    begun_anew: bool = False
    holds_back: bool = False  # something is to be read again from here


class Puller:
    """Brings the server's changes here; ``clock`` gives Unix seconds.

    ``in_use`` tells of a version whose path was just handed out: its folder does not go yet.
    """

    def __init__(
        self,
        journal: Journal,
        server: EscherServer,
        folders: RemoteVersions,
        *,
        in_use: Callable[[Ref], bool] = lambda _ref: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal = journal
        self._server = server
        self._reconciler = Reconciler(journal, folders, in_use)
        self._deletions = Deletions(journal, self._reconciler, clock)
        self._clock = clock

    def pull(self, *, accept_deletions: bool = False) -> PullReport:
        """Pull once; raises when the server can't be read or the home can't be written.

        What was applied until then stays, and the next pull goes on after it. ``accept_deletions``:
        the user has seen how many deletions wait, and lets them be carried out.
        """
        state = self._journal.pull_state
        report = PullReport(cursor=state.cursor)
        feed = Feed(self._server)
        whole: WholeFeed | None = None
        wanted: str | None = None
        try:
            anew = state.full_pass_due(self._clock()) or needs_full_pass(self._journal)
            if anew or self._go_on(feed, report).begun_anew:
                wanted = state.wanted()
                whole = self._full_pass(feed, report)
            state.completed(self._clock(), full=report.full, wanted=wanted)
        except FeedEnded as error:
            report.stopped = f"{error} The rest comes with a later sync."
            log.warning("%s", error)
        carried_out = self._deletions.carry_out(accept=accept_deletions)
        report.add(carried_out)
        for ref, why in carried_out.failed.items():
            told = report.deferred if isinstance(why, LeaseHeld) else report.failed
            told[str(ref)] = f"deleted on the server, and not here yet: {failure(why)}"
        report.deletions_waiting = self._journal.waiting.counts()["deletions"]
        settle_what_is_over(self._journal, whole)
        self._journal.conflicts.prune(self._clock())
        return report

    # -- reading ----------------------------------------------------------------------------
    def _go_on(self, feed: Feed, report: PullReport) -> _Pass:
        """Read on after the cursor."""
        run = _Pass()
        for page in feed.pages(report.cursor):
            if page.anew and report.cursor is not None:
                run.begun_anew = True  # our cursor was refused
                return run
            self._apply(page.items, report, run)
            self._keep(page, report, run)
        return run

    def _full_pass(self, feed: Feed, report: PullReport) -> WholeFeed:
        """Read everything, and see what is not there; answers what is."""
        report.full = True
        run = _Pass(before=self._journal.versions.published_revisions())
        for page in feed.pages(None):
            if page.anew:  # also in the middle, where the server lost its cursor
                run.seen.clear()
                run.unread.clear()
                run.private.clear()
            self._apply(page.items, report, run)
            self._keep(page, report, run)
        self._forget_unseen(run)
        absent = note_absent(self._journal, self._clock(), run.before or {}, run.seen)
        report.absent = len(absent)
        report.sent_again = send_again(self._journal, self._clock(), absent)
        return WholeFeed(run.seen, run.unread, run.private)

    def _keep(self, page: Page, report: PullReport, run: _Pass) -> None:
        """Keep the cursor, unless something before it is to be read again soon."""
        if page.cursor != report.cursor and not run.holds_back:
            self._journal.pull_state.keep_cursor(page.cursor)
            report.cursor = page.cursor

    # -- applying ---------------------------------------------------------------------------
    def _apply(self, items: Sequence[Item], report: PullReport, run: _Pass) -> None:
        """Apply raw items; each that fails waits by its name afterwards, each other does not."""
        if not items:
            return
        raws: dict[Name, Item] = {}
        for item in items:
            name = name_of(item)
            if "?" in name:
                report.passed_over += 1
                log.warning("an item without a name in the changes feed is passed over")
            else:
                raws[name] = item
        run.seen.update(raws)
        waiting = self._journal.waiting.get_many(list(raws))
        failed: dict[Name, Exception] = {}
        readable: list[Theirs] = []
        for name, item in self._to_read(raws, waiting, run).items():
            try:
                readable.append(read_item(item))
            except EscherError as error:
                failed[name] = error
        done = self._reconciler.apply(readable, run.before)
        failed.update(done.failed.items())
        if done.unnamed and run.before is None:  # where this pull does not come to it, the next one
            self._journal.pull_state.want_full_pass("an id's conflict lost the version it named")
        run.begun_anew |= bool(done.older or done.unnamed) and run.before is None
        report.add(done)
        run.unread.update(failed)
        run.private.update(done.private)
        noted = self._deletions.note(done.to_delete)
        over = [name for name in waiting if name not in failed and name not in noted]
        self._journal.waiting.forget(over)
        self._note_failures(raws, failed, report, run)

    def _to_read(
        self, raws: Mapping[Name, Item], waiting: Mapping[Name, WaitingChange], run: _Pass
    ) -> dict[Name, Item]:
        """What may say something new: most of a full pass does not."""
        pulled_at = self._journal.pull_state.last_complete() or 0
        refs = [Ref(*name) for name in raws]
        rows = self._journal.versions.get_many(refs)
        absent = [ref for ref in refs if ref not in rows]
        pins = self._journal.pins.get_many(absent)
        told = self._journal.script_rows.told_among(absent)
        in_conflict = self._journal.conflicts.open_refs()
        wanted = {}
        for ref, (name, item) in zip(refs, raws.items(), strict=True):
            row = rows.get(ref)
            if name in waiting or ref in in_conflict or isinstance(item, BadJson):
                wanted[name] = item
            elif row is None:
                if ref in told or not is_known_deletion(item, pins.get(ref)):
                    wanted[name] = item
            elif not is_in_step(item, row):
                wanted[name] = item
            elif is_long_known(item, row, pulled_at):  # a server that was restored begins anew
                run.begun_anew |= run.before is None
        return wanted

    def _note_failures(
        self,
        raws: Mapping[Name, Item],
        failed: Mapping[Name, Exception],
        report: PullReport,
        run: _Pass,
    ) -> None:
        kept = []
        for name, error in failed.items():
            words = failure(error)
            if len(report.failed) < MAX_FAILED:  # whoever writes the feed must not fill the log
                log.warning("%s@%s of the changes feed is not taken in: %s", *name, words)
            # of this moment: read again soon
            if isinstance(error, LeaseHeld | JournalUnavailable | StorageError):
                told = report.failed if isinstance(error, StorageError) else report.deferred
                told["@".join(name)] = words
                run.holds_back = True
                continue
            if len(report.failed) < MAX_FAILED:
                report.failed["@".join(name)] = words
            revision = revision_of(raws[name])
            kept.append(WaitingChange(name, FAILED, words, int(self._clock()), revision))
        report.passed_over += self._journal.waiting.put(kept)

    def _forget_unseen(self, run: _Pass) -> None:
        """What waits and is not on the server any more, waits no more."""
        waiting = [*self._journal.waiting.failed(), *self._journal.waiting.deletions()]
        self._journal.waiting.forget([item.name for item in waiting if item.name not in run.seen])


class PublishedContents:
    """Fetches the published bytes of a version, for a folder that lost or never had them."""

    def __init__(self, settings: Settings, journal: Journal, server: EscherServer) -> None:
        self._journal = journal
        self._server = server
        self._run_path = settings.run_path
        self._threads = settings.transfer_concurrency

    def fetch(self, ref: Ref) -> Mapping[str, bytes]:
        """Fetch ``{path: bytes}`` of a version in its published form, as the journal's checksums say.

        Raises `NotFound`, `IntegrityError` when the server has other files than were published,
        and `core.errors.TransientError` when it can't be reached.
        """
        make_private_dir(self._run_path)
        listed = self._listed(ref)
        once = {
            file.checksum: file for _, file in sorted(listed.items())
        }  # of files that are alike
        with (
            tempfile.TemporaryDirectory(prefix="fetch-", dir=self._run_path) as folder,
            ThreadPoolExecutor(min(self._threads, len(once) or 1), "contents") as pool,
        ):
            try:
                get = partial(self._get, ref, Path(folder))
                fetched = dict(zip(once, pool.map(get, once.values()), strict=True))
            except BaseException:  # the others are not asked for any more
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return {path: fetched[file.checksum] for path, file in listed.items()}

    def _get(self, ref: Ref, folder: Path, file: ScriptFile) -> bytes:
        if not file.size_bytes:
            return b""
        target = folder / file.checksum.removeprefix("sha256:")
        self._server.download(file, target, renew=partial(self._renewed, ref, file.path))
        content = read_bytes(target)
        target.unlink()
        return content

    def _renewed(self, ref: Ref, path: str) -> ScriptFile:
        return self._listed(ref)[path]

    def _listed(self, ref: Ref) -> dict[str, ScriptFile]:
        """The server's files by path, when they are those that were published."""
        wanted = {row.path: row for row in self._journal.versions.files(ref)}
        script = self._server.script(ref)
        listed = {file.path: file for file in script.files if file.path in wanted}
        for path, entry in wanted.items():
            file = listed.get(path)
            if file is None:
                raise NotFound(f"The server has no {path} of {ref}.", "Tell the server's operator.")
            if (file.checksum, file.size_bytes) != (entry.checksum, entry.size_bytes):
                raise IntegrityError(
                    f"The server lists other bytes for {path} of {ref} than were published.",
                    "Sync again; if it stays, tell the server's operator.",
                )
        return listed
