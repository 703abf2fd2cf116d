"""The cache among people who meddle with its files, and clocks that are set back.

``test_cache_model.py`` says exactly what goes; here, where that can't be told, each step has to
obey what holds all the same: the limit on disk, no wrong byte, nothing that is in use goes, nothing
goes in vain or without need.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.script_cache import CacheUnderTest, key_of, listing_of

from core.errors import CacheFull, Refused
from core.models import ScriptKey
from core.scripts.entries import footprint

CAP_KIB, TTL, LEASE = 32, 300.0, 10.0
TOLERANCE = 300.0
KEYS = [key_of(f"{name}@1.{name == 'b'}.0".replace("True", "1").replace("False", "0"), format_)
        for name in "abcd" for format_ in ("shell", "terraform")]  # fmt: skip
keys = st.sampled_from(KEYS)
sizes = st.sampled_from([0, 1, 500, 3_000, 3_000, 9_000, 9_000, 15_000, 31_000, 40_000])


@dataclass
class Expected:
    files: dict[str, bytes]
    size: int
    fetched: float
    used: float
    sure: bool = True  # whether the order of its last use is known: the clock went back since
    damaged: bool = False  # its bytes: it must not be found
    doubtful: bool = False  # only its manifest: it may be found


class MeddledMachine(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="escher-cache-model-"))
        self.under = CacheUnderTest(self.base / "home", max_kib=CAP_KIB, ttl=TTL, lease=LEASE)
        self.under.cache.layout.prepare()  # ours from the start: what is written into it is meddling
        self.model: dict[ScriptKey, Expected] = {}
        self.foreign = 0  # bytes that somebody else wrote into the cache
        self.serial = 0

    def teardown(self) -> None:
        try:
            for key in KEYS:
                self._find(key)
            self.under.cache.evict()
            self._settle()
            assert self.under.cache.verify() == []
        finally:
            self.under.close()
            shutil.rmtree(self.base)

    # -- what the cache is for --------------------------------------------------------------
    @rule(key=keys, size=sizes, anew=st.booleans())
    def add(self, key: ScriptKey, size: int, anew: bool) -> None:
        files = self._files(key, size, anew)
        needed_bytes = footprint(listing_of(key, files))
        before = self._there()
        used_before = self.under.cache.usage()["used_bytes"]
        aside = self.under.cache.usage()["quarantined_bytes"]
        cap = self.under.cache.max_bytes
        try:
            self.under.add(key, files)
        except Refused:
            assert needed_bytes > cap
            return
        except CacheFull:
            after = self._there()
            held = sum(self.model[k].size for k in after if self._may_be_in_use(k))
            assert held + needed_bytes > cap, "there was room to be made"
            assert after == before, "nothing goes in vain"
            return
        assert needed_bytes <= cap
        after = self._there()
        gone = before - after - {key}
        self._check_evicted(gone, after - {key})
        if used_before + needed_bytes <= cap:
            # promoting over another entry asks for room for both
            assert not gone or key in before
        elif gone:
            # the last to go was used last: a small one before it may have been needed and not enough
            latest = max(self.model[k].used for k in gone)
            last = max(
                self.model[k].size
                for k in gone
                if self.model[k].used == latest or not self.model[k].sure
            )
            freed = aside + sum(self.model[k].size for k in gone)
            if not any(self._expired(k) for k in gone) and key not in before:
                assert used_before + needed_bytes - (freed - last) > cap or aside, (
                    "one too many went"
                )
        for k in gone:
            del self.model[k]
        self.model[key] = Expected(files, needed_bytes, self.under.now, self.under.now)

    @rule(key=keys)
    def find(self, key: ScriptKey) -> None:
        self._find(key)

    @rule(key=keys)
    def refresh(self, key: ScriptKey) -> None:
        done = self.under.cache.refresh(key)
        expected = self.model.get(key)
        if expected is None:
            assert not done
        elif not (expected.damaged or expected.doubtful):
            assert done
            expected.fetched = self.under.now

    @rule()
    def evict(self) -> None:
        before = self._there()
        self.under.cache.evict()
        after = self._there()
        for key in before - after:
            expected = self.model.pop(key)
            if not (expected.damaged or expected.doubtful):
                assert self._old(expected)
                assert self._may_have_ended(expected)
        for key in after:
            assert not self._expired(key) or self._may_be_in_use(key), "too old, and not in use"
            self._clamp(key)
        assert self.under.cache.usage()["used_bytes"] <= self.under.cache.max_bytes
        assert self.under.cache.usage()["entries"] == len(after)

    @rule()
    def clear(self) -> None:
        before = self._there()
        report = self.under.cache.clear()
        after = self._there()
        for key in before - after:
            expected = self.model.pop(key)
            assert expected.damaged or expected.doubtful or self._may_have_ended(expected)
        for key in after:
            assert self._may_be_in_use(key)
            self._clamp(key)
        assert report.in_use == len(after)
        assert self.under.cache.usage()["quarantined_bytes"] == 0

    @rule(key=keys)
    def quarantine(self, key: ScriptKey) -> None:
        self.under.cache.quarantine(key, "for a test")
        self.model.pop(key, None)

    # -- the world --------------------------------------------------------------------------
    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 11.0, 60.0, 301.0]))
    def wait(self, seconds: float) -> None:
        self.under.now += seconds

    @rule(seconds=st.sampled_from([2.0, 60.0, 400.0, 100_000.0]))
    def step_clock_back(self, seconds: float) -> None:
        self.under.now -= seconds
        for expected in self.model.values():
            expected.sure = False

    @rule(index_lost=st.booleans())
    def restart(self, index_lost: bool) -> None:
        self.under.close()
        if index_lost:
            for path in self.under.settings.home.glob("journal.db*"):
                path.unlink()
        self.under.open()
        self.under.cache.reconcile()
        self._settle()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), where=st.integers(0, 10**6))
    def change_a_byte(self, data: st.DataObject, where: int) -> None:
        key = self._pick(data)
        path = self.under.folder(key) / "a"
        content = bytearray(path.read_bytes()) if path.is_file() else bytearray()
        if content:
            at = where % len(content)
            content[at] = (content[at] + 1) % 256  # a bit flipped twice would be right again
            path.write_bytes(content)
            self._mark_damaged(key, where)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), kind=st.sampled_from(["extra", "missing", "no folder", "no manifest"]))
    def meddle(self, data: st.DataObject, kind: str) -> None:
        key = self._pick(data)
        place = self.under.cache.layout.place(key)
        if kind == "extra":
            (place.folder / "extra").write_bytes(b"x" * 100)
            self.foreign += 100
            self._mark_damaged(key, kind)
        elif kind == "missing":
            (place.folder / "a").unlink(missing_ok=True)
            self._mark_damaged(key, kind)
        elif kind == "no folder":
            shutil.rmtree(place.folder)
            del self.model[key]
        else:
            place.manifest.write_bytes(b"{}")
            self.model[key].doubtful = True

    @rule(name=st.sampled_from(["stray", "a-v1.0.0/go", "z-v1.0.0/shell/a"]))
    def drop_a_stray(self, name: str) -> None:
        path = self.under.cache.layout.scripts / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(b"s" * 100)
            self.foreign += 100

    # -- at all times -----------------------------------------------------------------------
    @invariant()
    def within_the_limit(self) -> None:
        assert self.under.disk_bytes() <= self.under.cache.max_bytes + self.foreign
        assert self.under.cache.usage()["used_bytes"] <= self.under.cache.max_bytes + self.foreign

    @invariant()
    def nothing_goes_by_itself(self) -> None:
        assert self._there() >= set(self.model)

    # -- help -------------------------------------------------------------------------------
    def _files(self, key: ScriptKey, size: int, anew: bool) -> dict[str, bytes]:
        self.serial += anew
        seed = f"{key} {self.serial if anew else 0} {size} ".encode()
        content = (seed * (size // len(seed) + 1))[:size]
        return {f"{key.format}/a": content, f"{key.format}/b/c": content[:7]}

    def _find(self, key: ScriptKey) -> None:
        expected = self.model.get(key)
        hit = self.under.cache.find(key)
        if expected is None or expected.damaged or (hit is None and expected.doubtful):
            assert hit is None
            self.model.pop(key, None)
            return
        assert hit is not None
        found = {f.path: (hit.folder / f.path).read_bytes() for f in hit.listing.files}
        assert found == expected.files
        assert hit.fresh == (not self._old(expected))
        expected.used, expected.sure = self.under.now, True

    def _there(self) -> set[ScriptKey]:
        return {key for key in KEYS if os.path.lexists(self.under.folder(key))}

    def _pick(self, data: st.DataObject) -> ScriptKey:
        return data.draw(st.sampled_from(sorted(self.model)))

    def _mark_damaged(self, key: ScriptKey, _: object) -> None:
        self.model[key].damaged = True
        used = self.model[key].used
        if self.under.folder(key).is_dir():  # meddling has changed the folder's mtime
            os.utime(self.under.folder(key), (used, used))

    def _settle(self) -> None:
        """What was put right at a start: a damaged entry may have gone, a manifest come back."""
        there = self._there()
        for key in list(self.model):
            expected = self.model[key]
            if key not in there:
                assert expected.damaged or expected.doubtful or self._old(expected)
                del self.model[key]

    def _old(self, expected: Expected) -> bool:
        return not -TOLERANCE <= self.under.now - expected.fetched < TTL

    def _expired(self, key: ScriptKey) -> bool:
        expected = self.model.get(key)
        return expected is not None and self._old(expected)

    def _may_be_in_use(self, key: ScriptKey) -> bool:
        """A use in the future counts as one of whenever it was looked at first."""
        expected = self.model[key]
        return not expected.sure or self.under.now - expected.used < LEASE

    def _may_have_ended(self, expected: Expected) -> bool:
        return not expected.sure or self.under.now - expected.used >= LEASE

    def _clamp(self, key: ScriptKey) -> None:
        expected = self.model[key]
        expected.used = min(expected.used, self.under.now)

    def _check_evicted(self, gone: set[ScriptKey], stayed: set[ScriptKey]) -> None:
        for key in gone:
            assert self._may_have_ended(self.model[key]), f"{key} was in use"
        young = [k for k in gone if not self._expired(k) and self.model[k].sure]
        for key in young:
            for other in stayed & set(self.model):
                rest = self.model[other]
                if not rest.sure:
                    continue
                assert rest.used >= self.model[key].used, f"{other} was used before {key}"
                assert not self._expired(other) or self._may_be_in_use(other), f"{other} is older"


MeddledMachine.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],  # add Phase.shrink to look closer: it takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestMeddledCache = MeddledMachine.TestCase
