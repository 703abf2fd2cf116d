"""Helpers look up the same stats as this process would, and may die without anything being lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.playbooks import parallel_stat
from core.playbooks.compare import stat_folder
from core.playbooks.parallel_stat import Item

COUNT = 40


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    found = []
    for number in range(COUNT):
        folder = tmp_path / f"p{number}" / "v1.0.0"
        (folder / "shell").mkdir(parents=True)
        (folder / "shell" / "stöp ü.sh").write_text(str(number))
        (folder / "metadata.json").write_text("{}")
        seen = stat_folder(folder, 0, with_parent=True)
        found.append((f"p{number}/v1.0.0", seen.paths, seen.fingerprint))
    return found


@pytest.fixture(params=[0, 1, 3])
def helpers(monkeypatch, request) -> int:
    monkeypatch.setattr(parallel_stat, "PAGE", 3)
    monkeypatch.setattr(parallel_stat, "FEW", 6)
    monkeypatch.setattr(parallel_stat, "_helpers_wanted", lambda: request.param)
    return request.param


@pytest.mark.usefixtures("helpers")
def test_what_changed_is_told_in_order(tmp_path, items):
    (tmp_path / "p7/v1.0.0/shell/stöp ü.sh").write_text("x")
    (tmp_path / "p11/v1.0.0/metadata.json").unlink()
    (tmp_path / "p13/v1.0.0/shell/new.sh").write_text("x")
    (tmp_path / "p17/v2.0.0").mkdir()
    items[19] = ("gone/v1.0.0", *items[19][1:])
    found = list(parallel_stat.check(tmp_path, iter(items)))
    assert [number for number, same in enumerate(found) if not same] == [7, 11, 13, 17, 19]
    assert len(found) == COUNT


@pytest.mark.usefixtures("helpers")
def test_nothing_is_nothing(tmp_path):
    assert list(parallel_stat.check(tmp_path, iter([]))) == []
    assert list(parallel_stat.check(tmp_path / "gone", iter([("a", "", b"")]))) == [False]


def test_a_helper_that_dies_costs_time_only(tmp_path, items, helpers, monkeypatch):
    real = parallel_stat._start
    started = []

    def start(count: int):
        started.extend(real(count))
        return started

    monkeypatch.setattr(parallel_stat, "_start", start)
    found = []
    for number, same in enumerate(parallel_stat.check(tmp_path, iter(items))):
        found.append(same)
        if number == 5 and started:
            started[0].kill()
    assert found == [True] * COUNT
    assert all(helper.poll() is not None for helper in started)


def test_without_processes_to_be_had_this_one_does_it(tmp_path, items, helpers, monkeypatch):
    def refused(*_: object, **__: object):
        raise BlockingIOError(11, os.strerror(11))

    monkeypatch.setattr(parallel_stat.subprocess, "Popen", refused)
    assert all(parallel_stat.check(tmp_path, iter(items)))


@pytest.mark.usefixtures("helpers")
def test_helpers_end_with_who_asked(tmp_path, items, monkeypatch):
    started = []
    real = parallel_stat._start
    monkeypatch.setattr(
        parallel_stat, "_start", lambda count: started.extend(real(count)) or started
    )
    answers = parallel_stat.check(tmp_path, iter(items))
    next(answers)
    answers.close()
    assert all(helper.poll() is not None for helper in started)
