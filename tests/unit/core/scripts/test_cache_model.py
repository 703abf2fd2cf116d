"""The cache against a plain model: what it lets go, and in which order, to the byte.

The model keeps what was put in and when it was used, in a dict. After every step, restarts with
another limit or without the index among them, disk and index hold exactly what the model says.
Damaged files and clocks that go back are in ``test_cache_meddling.py``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.script_cache import KIBIBYTE, CacheUnderTest, key_of, listing_of

from core.errors import CacheFull, Refused
from core.models import ScriptKey
from core.scripts.entries import footprint
from core.scripts.eviction import SHARE

CAP_KIB, TTL, LEASE = 32, 300.0, 10.0
KEYS = [key_of(f"{name}@1.0.0", form) for name in "abcd" for form in ("shell", "terraform")]
keys = st.sampled_from(KEYS)
sizes = st.sampled_from([0, 500, 3_000, 9_000, 9_000, 9_000, 15_000, 31_000, 40_000])
# before a use, so that uses have an order and most leases have ended
pauses = st.sampled_from([0.0, 3.0, 11.0, 11.0, 60.0])


@dataclass
class Entry:
    files: dict[str, bytes]
    needed_bytes: int
    fetched: float
    used: float


@dataclass
class Aside:
    size: int
    at: float


class Model:
    """What the cache promises, as plainly as it can be said."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.now = 0.0
        self.entries: dict[ScriptKey, Entry] = {}
        self.quarantined: list[Aside] = []

    @property
    def used_bytes(self) -> int:
        held = sum(entry.needed_bytes for entry in self.entries.values())
        return held + sum(aside.size for aside in self.quarantined)

    def is_old(self, key: ScriptKey) -> bool:
        return self.now - self.entries[key].fetched >= TTL

    def in_use(self, key: ScriptKey) -> bool:
        return self.now - self.entries[key].used < LEASE

    def may_go(self) -> list[ScriptKey]:
        """In the order in which they go."""
        free = [key for key in self.entries if not self.in_use(key)]
        return sorted(free, key=lambda k: (not self.is_old(k), self.entries[k].used, k))

    def make_room(self, needed: int, *, all_or_nothing: bool) -> bool:
        missing = self.used_bytes + needed - self.cap
        aside, gone = list(self.quarantined), []
        while missing > 0 and aside:
            missing -= aside.pop(0).size
        for key in self.may_go():
            if missing <= 0:
                break
            gone.append(key)
            missing -= self.entries[key].needed_bytes
        if missing > 0 and all_or_nothing:
            return False
        self.quarantined = aside
        for key in gone:
            del self.entries[key]
        return True

    def quarantine(self, key: ScriptKey) -> None:
        entry = self.entries.pop(key, None)
        if entry is not None:
            size = sum(map(len, entry.files.values()))
            self.quarantined.append(Aside(size, self.now))
        self.bound_quarantine()

    def bound_quarantine(self) -> None:
        while sum(aside.size for aside in self.quarantined) > int(self.cap * SHARE):
            del self.quarantined[0]


class CacheMachine(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="escher-cache-model-"))
        self.under = CacheUnderTest(self.base / "home", max_kib=CAP_KIB, ttl=TTL, lease=LEASE)
        self.model = Model(CAP_KIB * KIBIBYTE)
        self.model.now = self.under.now
        self.held_at_start = 0

    def teardown(self) -> None:
        try:
            self.wait(LEASE)  # a limit that was lowered holds once nothing is in use
            self.evict()
            self.disk_and_index_are_as_the_model_has_it()
            assert self.under.cache.verify() == []
        finally:
            self.under.close()
            shutil.rmtree(self.base)

    @rule(key=keys, size=sizes, edition=st.integers(0, 1), pause=pauses)
    def add(self, key: ScriptKey, size: int, edition: int, pause: float) -> None:
        self.wait(pause)
        body = (f"{key} {edition} {size} ".encode() * (size // 10 + 1))[:size]
        files = {f"{key.format}/a": body, f"{key.format}/b/c": body[:7]}
        needed_bytes = footprint(listing_of(key, files))
        if needed_bytes > self.model.cap:
            with pytest.raises(Refused):
                self.under.add(key, files)
        elif self.model.make_room(needed_bytes, all_or_nothing=True):
            self.under.add(key, files)
            self.model.entries[key] = Entry(files, needed_bytes, self.model.now, self.model.now)
        else:
            with pytest.raises(CacheFull):
                self.under.add(key, files)

    @rule(key=keys, pause=pauses)
    def find(self, key: ScriptKey, pause: float) -> None:
        self.wait(pause)
        hit = self.under.cache.find(key)
        entry = self.model.entries.get(key)
        assert (hit is None) == (entry is None)
        if hit is not None and entry is not None:
            found = {f.path: (hit.folder / f.path).read_bytes() for f in hit.listing.files}
            assert found == entry.files
            assert hit.fresh == (not self.model.is_old(key))
            entry.used = self.model.now

    @rule(key=keys)
    def refresh(self, key: ScriptKey) -> None:
        assert self.under.cache.refresh(key) == (key in self.model.entries)
        if key in self.model.entries:
            self.model.entries[key].fetched = self.model.now

    @rule(key=keys)
    def quarantine(self, key: ScriptKey) -> None:
        self.wait(0.001)  # what comes at one instant goes in no order
        self.under.cache.quarantine(key, "for a test")
        self.model.quarantine(key)

    @rule(uses=st.lists(st.tuples(keys, st.sampled_from([11.0, 60.0])), min_size=4, max_size=9))
    def busy_hour(self, uses: list[tuple[ScriptKey, float]]) -> None:
        """What is not there is fetched: a full cache, in which uses decide what stays."""
        for key, pause in uses:
            self.find(key, pause)
            if key not in self.model.entries:
                self.add(key, 9_000, 0, 0.0)
            self.disk_and_index_are_as_the_model_has_it()

    @rule(seconds=st.sampled_from([3.0, 11.0, 301.0]))
    def wait(self, seconds: float) -> None:
        self.under.now += seconds
        self.model.now += seconds

    @rule()
    def evict(self) -> None:
        before = self.model.used_bytes
        self.model.make_room(0, all_or_nothing=False)
        report = self.under.cache.evict()
        for key in [k for k in self.model.may_go() if self.model.is_old(k)]:
            del self.model.entries[key]
        self.model.quarantined = [
            aside for aside in self.model.quarantined if self.model.now - aside.at < TTL
        ]
        assert report.bytes_freed == before - self.model.used_bytes

    @rule()
    def clear(self) -> None:
        report = self.under.cache.clear()
        for key in self.model.may_go():
            del self.model.entries[key]
        self.model.quarantined.clear()
        assert report.in_use == len(self.model.entries)

    @rule(index_lost=st.booleans(), max_kib=st.sampled_from([20, 32, 32, 40]))
    def restart(self, index_lost: bool, max_kib: int) -> None:
        self.under.close()
        if index_lost:
            shutil.rmtree(self.under.cache.layout.quarantine, ignore_errors=True)
            self.model.quarantined.clear()
            for path in self.under.settings.home.glob("journal.db*"):
                path.unlink()
        self.under.settings.cache_max_size_mb = max_kib / KIBIBYTE
        self.model.cap = max_kib * KIBIBYTE
        self.under.open()
        self.under.cache.reconcile()
        self.model.bound_quarantine()
        self.model.make_room(0, all_or_nothing=False)
        self.held_at_start = self.model.used_bytes  # a lower limit takes nothing that is in use

    @invariant()
    def disk_and_index_are_as_the_model_has_it(self) -> None:
        there = {key for key in KEYS if os.path.lexists(self.under.folder(key))}
        assert there == set(self.model.entries)
        usage = self.under.cache.usage()
        assert usage["used_bytes"] == self.model.used_bytes
        assert usage["entries"] == len(there)
        assert self.under.disk_bytes() <= self.model.used_bytes

    @invariant()
    def never_above_the_limit(self) -> None:
        assert self.under.disk_bytes() <= max(self.model.cap, self.held_at_start)


CacheMachine.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],  # add Phase.shrink to look closer: it takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestCacheAgainstAModel = CacheMachine.TestCase
