from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from support.scripts import DownloadsUnderTest, fetch_all
from support.service import eventually

from core.errors import IntegrityError, NotFound, TransferInterrupted
from core.files import sha256_bytes
from core.journal.scripts import FolderState
from core.models import Ref, ScriptKey
from core.scripts.downloads import SingleFlight, pauses


@pytest.fixture
def under(tenant_settings):
    under = DownloadsUnderTest(tenant_settings)
    yield under
    under.close()


class Stage:
    """A call that begins when it likes and ends when the test says so."""

    def __init__(self):
        self.calls = 0
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self):
        self.calls += 1
        self.begun.set()
        assert self.may_end.wait(20)
        return object()


# -- threads -----------------------------------------------------------------------------------
def test_calls_that_overlap_are_one_and_later_ones_are_not():
    flights, stage = SingleFlight(), Stage()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(flights.run, "key", stage)
        assert stage.begun.wait(20)
        others = [pool.submit(flights.run, "key", stage) for _ in range(7)]
        assert flights.run("other key", lambda: 5) == 5
        stage.may_end.set()
        answers = {first.result(20), *(other.result(20) for other in others)}
    assert len(answers) == 1
    flights.run("key", stage)
    assert stage.calls == 2


def test_a_failure_reaches_those_who_waited_each_with_an_exception_of_its_own():
    flights, stage = SingleFlight(), Stage()

    def fail():
        stage()
        raise IntegrityError("wrong bytes", "ask again", 3.0)

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(flights.run, "key", fail) for _ in range(4)]
        assert stage.begun.wait(20)
        stage.may_end.set()
        errors = [call.exception(20) for call in calls]
    assert stage.calls < 5
    assert {str(error) for error in errors} == {"wrong bytes ask again"}
    assert {error.retry_after for error in errors} == {3.0}
    assert len({id(error) for error in errors}) == 4


def test_those_who_waited_for_an_interrupted_call_are_told_to_ask_again():
    flights, stage = SingleFlight(), Stage()

    def interrupted():
        stage()
        raise KeyboardInterrupt

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(flights.run, "key", interrupted)
        assert stage.begun.wait(20)
        second = pool.submit(flights.run, "key", stage)
        stage.may_end.set()
        assert isinstance(first.exception(20), KeyboardInterrupt)
        assert second.exception(20) is None or isinstance(second.exception(), TransferInterrupted)


def test_pauses_grow_from_20_to_200_ms():
    found = pauses()
    first = [next(found) for _ in range(10)]
    assert (first[0], first[-1]) == (0.02, 0.2)
    assert first == sorted(first)


def test_32_threads_ask_for_10_scripts_and_10_are_downloaded(under):
    keys = [
        under.add(f"t{number}", {"shell/run.sh": b"%d\n" % number * 99}) for number in range(10)
    ]
    start = threading.Barrier(32)

    def ask(number):
        start.wait(20)
        mine = keys[number % 10 :] + keys[: number % 10]
        return [(key, under.downloads.fetch(key)) for key in mine]

    with ThreadPoolExecutor(32) as pool:
        answers = [answer for found in pool.map(ask, range(32)) for answer in found]
    assert len(answers) == 320
    for key, hit in answers:
        number = int(key.ref.playbook_id[1:])
        assert under.read(hit) == {"shell/run.sh": b"%d\n" % number * 99}
    assert under.bytes_sent() == sum(hit.listing.size_bytes for _, hit in answers) / 32
    assert under.journal.downloads.all() == []
    assert under.staging == []


# -- processes ---------------------------------------------------------------------------------
def settings_of(under):
    settings = under.settings
    assert settings.server_token is not None
    return {
        "home": str(settings.home),
        "server_url": settings.server_url,
        "tenant_id": settings.tenant_id,
        "server_token": settings.server_token.get_secret_value(),
    }


def test_8_processes_ask_for_10_scripts_and_10_are_downloaded(under):
    contents = {f"p{number}": b"%d\n" % number * 77 for number in range(10)}
    keys = [under.add(name, {"shell/run.sh": content}) for name, content in contents.items()]
    names = [(key.ref.playbook_id, key.ref.version, key.format) for key in keys]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(8, mp_context=spawn) as pool:
        start = time.time() + 4  # time for all of them to have imported what they need
        calls = [pool.submit(fetch_all, settings_of(under), names, start) for _ in range(8)]
        answers = [call.result(120) for call in calls]
    assert answers == [[sha256_bytes(content) for content in contents.values()]] * 8
    assert under.bytes_sent() == sum(map(len, contents.values()))
    assert under.journal.downloads.all() == []


class Watched:
    """The pauses of one who waits for another process."""

    def __init__(self, under):
        self.begun = threading.Event()
        under.downloads._sleep = self

    def __call__(self, seconds):
        self.begun.set()
        time.sleep(seconds)


def test_a_failure_reaches_those_who_waited_in_other_processes(under, monkeypatch):
    """A second client in this process stands for another one: they share the journal alone."""
    key = under.add("refused")
    other, stage = DownloadsUnderTest(under.settings), Stage()
    waits = Watched(other)

    def fail(*_, **__):
        stage()
        raise IntegrityError("wrong bytes, twice")

    monkeypatch.setattr(under.server, "download", fail)
    monkeypatch.setattr(other.server, "script", None)  # it is not to ask
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(under.downloads.fetch, key)
        assert stage.begun.wait(20)
        second = pool.submit(other.downloads.fetch, key)
        assert waits.begun.wait(20)
        stage.may_end.set()
        for call in (first, second):
            with pytest.raises(IntegrityError, match="wrong bytes, twice"):
                call.result(20)
    other.close()
    row = under.journal.downloads.get(key)
    assert row.state is FolderState.FAILED
    assert under.journal.downloads.is_free(key)


def test_a_killed_owner_is_taken_over_at_once_by_who_waits(under, reference):
    key = under.add("killed", {"shell/run.sh": b"echo one\n"})
    reference.faults({"action": "stall", "latency_seconds": 60, "path": "^/objects/", "count": 1})
    code = (
        "import json, sys; from support.scripts import fetch_all;"
        "fetch_all(json.loads(sys.argv[1]), [('killed', '1.0.0', 'shell')], 0.0)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(settings_of(under))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["tests", "."])},
    )
    waits = Watched(under)
    with ThreadPoolExecutor(1) as pool:
        try:
            eventually(
                lambda: (row := under.journal.downloads.get(key)) and row.size_bytes,
                30,
                "a download under way",
            )
            waiting = pool.submit(under.downloads.fetch, key)
            assert waits.begun.wait(20)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(20)
        began = time.monotonic()
        assert under.read(waiting.result(30)) == {"shell/run.sh": b"echo one\n"}
    assert time.monotonic() - began < 3
    assert under.staging == []
    assert under.cache.verify() == []


def test_who_comes_just_after_a_failure_that_began_before_shares_it(under, monkeypatch):
    """No stampede: one that was getting ready while the attempt failed does not make another."""
    key = ScriptKey(Ref("late", "1.0.0"), "shell")
    downloads = under.journal.downloads
    find = under.cache.find

    def fails_meanwhile(asked):
        found = find(asked)
        if downloads.get(key) is None:
            lease = downloads.claim({key: "staging/x"}).lease
            downloads.settle({key: downloads.failed("IntegrityError", "wrong twice")}, lease)
        return found

    monkeypatch.setattr(under.cache, "find", fails_meanwhile)
    requests = under.requests()
    with pytest.raises(IntegrityError, match="wrong twice"):
        under.downloads.fetch(key)
    assert under.requests() == requests + 1


def test_a_failure_that_is_shared_grows_no_younger(under):
    """Else those who keep coming would hand it on for ever, and nobody would try again."""
    key = ScriptKey(Ref("late", "1.0.0"), "shell")
    downloads = under.journal.downloads
    with pytest.raises(NotFound):
        under.downloads.fetch(key)
    failed = downloads.get(key)
    with under.downloads._claim([key], staged=True) as claim, pytest.raises(NotFound):
        under.downloads._attempt(claim, key, None, failed.since - 1)
    after = downloads.get(key)
    assert (after.since, after.reason) == (failed.since, failed.reason)
    assert downloads.is_free(key)
    assert under.staging == []
