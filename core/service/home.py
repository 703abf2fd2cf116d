"""Home: puts the parts of one home together, each made when it is first needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property

from core.encryption import Envelope, MasterKey, load_master_key
from core.errors import WrongKey
from core.handed_out import HandedOut
from core.journal import Journal
from core.models import Ref
from core.permissions import take_home
from core.playbooks.edits import Edits
from core.playbooks.folder_copies import Trash
from core.playbooks.held import HeldEdits
from core.playbooks.remote_versions import RemoteVersions
from core.playbooks.scan import Scan
from core.playbooks.store import PlaybookStore
from core.publishing.conflicts import ConflictResolver
from core.publishing.publisher import Publisher
from core.publishing.pull import PublishedContents, Puller
from core.rag.embedding import Embedder
from core.rag.indexing import Indexing
from core.rag.points import Collection, seal_with
from core.scripts.cache import ScriptCache
from core.scripts.downloads import ScriptDownloads
from core.server.client import EscherServer
from core.service.catalog import Catalog
from core.service.executions import Executions
from core.service.scripts import ScriptBatches, ScriptManager
from core.service.sync import Sync
from core.settings import Settings


class Home:
    """The parts of one home; `PlaybookService` is a home with the mission's methods.

    ``embedder``, ``server`` and ``collection`` stand in for the settings' own: another model, a
    client that is open already, a collection that another process serves. ``clock`` gives Unix
    seconds to what is timed here: cache, downloads, publishing, pulling, reported runs.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        embedder: Embedder | None = None,
        server: EscherServer | None = None,
        collection: Collection | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._embedder = embedder
        self._server = server
        self._collection = collection
        self._clock = clock
        take_home(settings)
        self.journal = Journal(settings.effective_journal_url)
        self._check_binding()

    def close(self) -> None:
        """Give back the collection, the connections and the journal; in a forked child nothing."""
        if not self.journal.database.opened.is_so:
            return
        if "indexing" in self.__dict__:
            self.indexing.close()
        if "script_manager" in self.__dict__:
            self.script_manager.close()
        self.journal.close()

    # -- the parts --------------------------------------------------------------------------
    @cached_property
    def envelope(self) -> Envelope:
        return Envelope(self._load_key)

    @cached_property
    def store(self) -> PlaybookStore:
        return PlaybookStore(self.settings, self.journal, self.envelope)

    @cached_property
    def server(self) -> EscherServer:
        return self._server or EscherServer(self.settings, on_contact=self.bind)

    @cached_property
    def indexing(self) -> Indexing:
        return Indexing(
            self.settings,
            self.journal,
            self.store,
            seal_with(self.envelope),
            self.script_manager.library,
            embedder=self._embedder,
            collection=self._collection,
        )

    @cached_property
    def publisher(self) -> Publisher:
        return Publisher(
            self.journal,
            self.server,
            store=self.store,
            vectors=self.indexing,
            settings=self.settings,
            folders=self.pulled_folders,
            clock=self._clock,
        )

    @cached_property
    def executions(self) -> Executions:
        return Executions(
            self.journal, is_library=self.script_manager.library.has, clock=self._clock
        )

    def _load_key(self) -> MasterKey:
        """The home's key; once it has one, another is neither made nor taken."""
        known = self.journal.facts.get("key_id")
        key = load_master_key(self.settings, create=known is None)
        if self.journal.facts.set_once("key_id", key.key_id) != key.key_id:
            raise WrongKey(
                f"The key at hand is {key.key_id}, this home's is {known}.",
                "Give the home its own key (see encryption_key_source); nothing was changed.",
            )
        return key

    # -- scripts ----------------------------------------------------------------------------
    @cached_property
    def script_manager(self) -> ScriptManager:
        return ScriptManager(
            self.settings,
            self.journal,
            self.store,
            lambda: self.server,
            self._take_edit,
            clock=self._clock,
        )

    @property
    def cache(self) -> ScriptCache:
        return self.script_manager.cache

    @property
    def downloads(self) -> ScriptDownloads:
        return self.script_manager.downloads

    @cached_property
    def scripts(self) -> ScriptBatches:
        return ScriptBatches(self.journal, self.store, self.downloads)

    # -- the sync ---------------------------------------------------------------------------
    @cached_property
    def handed_out(self) -> HandedOut:
        return HandedOut(self.settings)

    @cached_property
    def pulled_folders(self) -> RemoteVersions:
        return RemoteVersions(self.store, self.settings)

    @cached_property
    def puller(self) -> Puller:
        return Puller(
            self.journal,
            self.server,
            self.pulled_folders,
            in_use=self.handed_out.must_wait,
            clock=self._clock,
        )

    @cached_property
    def conflict_resolver(self) -> ConflictResolver:
        return ConflictResolver(self.journal, self.pulled_folders, self.server)

    @cached_property
    def contents(self) -> PublishedContents:
        return PublishedContents(self.settings, self.journal, self.server)

    @cached_property
    def trash(self) -> Trash:
        return Trash(self.settings.trash_path)

    @cached_property
    def edits(self) -> Edits:
        return Edits(self.store, self.settings)

    @cached_property
    def held(self) -> HeldEdits:
        return HeldEdits(self.store, self.settings.conflicts_path)

    @cached_property
    def scan(self) -> Scan:
        return Scan(self.store, self.settings)

    @cached_property
    def sync(self) -> Sync:
        return Sync(
            self.settings,
            self.journal,
            scan=self.scan,
            edits=self.edits,
            puller=self.puller,
            folders=self.pulled_folders,
            contents=self.contents,
            server=self.server,
            publisher=self.publisher,
            indexing=self.indexing,
            executions=self.executions,
            library=self.script_manager.library,
        )

    def _take_edit(self, ref: Ref) -> bool:
        """Take in an edit of one unpublished version, when it is quiet; whether it was."""
        found = self.scan.run_one(ref)
        report = self.edits.take(found, self.contents.fetch)
        return ref in report.updated or str(ref) in report.held

    # -- the catalog ------------------------------------------------------------------------
    @cached_property
    def catalog(self) -> Catalog:
        return Catalog(self.journal, self.store)

    # -- the home's server ------------------------------------------------------------------
    def bind(self) -> None:
        """Tie the home to the settings' server and tenant, at the first contact."""
        self.journal.bind(self.settings.server_url, self.settings.tenant_id)

    def _check_binding(self) -> None:
        if self.journal.facts.get("server_url") is not None:
            self.bind()
