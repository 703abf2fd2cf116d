"""Who runs a version that was handed out is let finish, and at most once so long."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.clock import Clock

from core.errors import LeaseHeld
from core.handed_out import HandedOut
from core.models import Ref
from core.settings import Settings

REF, LEASE = Ref("stop-rds", "1.0.0"), 300


@pytest.fixture
def handed_out(tmp_path: Path, clock: Clock) -> HandedOut:
    return HandedOut(Settings(home=tmp_path, cache_lease_seconds=LEASE), clock)


def test_nothing_waits_for_what_was_never_handed_out(handed_out):
    assert not handed_out.must_wait(REF)
    assert handed_out.warning(REF) is None


def test_it_waits_for_the_length_of_the_lease(handed_out, clock):
    handed_out.note(REF)
    clock.now += LEASE - 1
    assert handed_out.must_wait(REF)
    with pytest.raises(LeaseHeld, match="handed out"):
        handed_out.check(REF)
    assert "299 s ago" in handed_out.warning(REF)
    clock.now += 2
    assert not handed_out.must_wait(REF)
    assert handed_out.warning(REF) is None


def test_at_most_once_so_long_however_often_it_is_handed_out(handed_out, clock):
    for _ in range(LEASE):
        handed_out.note(REF)
        assert handed_out.must_wait(REF)
        clock.now += 1
    handed_out.note(REF)
    assert not handed_out.must_wait(REF)
    clock.now += 10 * LEASE  # a later change waits anew
    handed_out.note(REF)
    assert handed_out.must_wait(REF)


def test_another_process_sees_it_and_each_version_is_by_itself(handed_out, clock, tmp_path):
    other = HandedOut(Settings(home=tmp_path, cache_lease_seconds=LEASE), clock)
    handed_out.note(REF)
    assert other.must_wait(REF)
    assert not other.must_wait(Ref("stop-rds", "1.0.1"))


def test_a_hand_out_touches_the_disk_once_a_second_at_most(handed_out, clock, monkeypatch):
    handed_out.note(REF)
    touched = []
    monkeypatch.setattr(os, "utime", lambda *args: touched.append(args))
    for _ in range(100):
        handed_out.note(REF)
    assert touched == []
    clock.now += 1
    handed_out.note(REF)
    assert len(touched) == 1
