from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr
from support.processes import dead_owner, downloads_of, far_owner, leave_dead
from support.scripts import DownloadsUnderTest, entries

from core.errors import (
    CacheFull,
    IntegrityError,
    NotEscherServer,
    NotFound,
    Refused,
    ServerUnreachable,
    UsageError,
)
from core.journal.leases import DOWNLOAD
from core.journal.scripts import FolderState
from core.models import OutcomeState, Ref, ScriptKey, Status
from core.server.client import EscherServer

CANARY = b"echo CANARY-SCRIPT\n"
OBJECTS = "^/objects/"
LISTING = "script/download"
DAY = 86_400


@pytest.fixture
def under(tenant_settings, clock):
    under = DownloadsUnderTest(tenant_settings, clock=clock)
    yield under
    under.close()


def states(outcomes):
    return {key: outcome.state.value for key, outcome in outcomes.items()}


def assert_nothing_left(under):
    assert under.staging == []
    assert under.cache.usage()["reserved_bytes"] == 0
    assert under.cache.verify() == []


# -- one script ------------------------------------------------------------------------------
def test_a_whole_format_folder_comes_with_its_entry_script(under):
    files = {"terraform/main.tf": b"a", "terraform/modules/net/main.tf": b"b", "shell/x.sh": b"c"}
    under.add("module", files)
    hit = under.downloads.fetch(ScriptKey(Ref("module", "1.0.0"), "terraform"))
    assert under.read(hit) == {path: files[path] for path in files if path.startswith("terraform/")}
    assert hit.listing.entry_point == "terraform/main.tf"
    assert (hit.source, hit.fresh) == ("tenant", True)
    assert_nothing_left(under)
    assert under.journal.downloads.all() == []


def test_an_empty_file_is_a_file(under):
    key = under.add("empty", {"python/main.py": b"x", "python/__init__.py": b""})
    assert under.read(under.downloads.fetch(key))["python/__init__.py"] == b""


def test_a_second_fetch_asks_nobody(under):
    key = under.add("once")
    under.downloads.fetch(key)
    requests = under.requests()
    assert under.downloads.fetch(key).fresh
    assert under.requests() == requests + 1  # the question itself


def test_a_stale_entry_that_the_server_confirms_costs_no_byte(under, clock):
    key = under.add("old")
    under.downloads.fetch(key)
    sent = under.bytes_sent()
    clock.now += 8 * DAY
    assert not under.cache.find(key).fresh
    assert under.downloads.fetch(key).fresh
    assert under.bytes_sent() == sent
    assert_nothing_left(under)


def test_the_right_files_are_those_of_the_journal(under):
    key = under.add("known", {"shell/run.sh": CANARY})
    good = entries({"shell/run.sh": CANARY})
    assert under.downloads.fetch(key, good).listing.files == good


@pytest.mark.parametrize(
    "other",
    [{"shell/run.sh": b"other"}, {"shell/run.sh": CANARY, "shell/more.sh": b""}, {}],
)
def test_a_listing_other_than_published_is_refused_before_a_byte_comes(under, other):
    key = under.add("changed", {"shell/run.sh": CANARY})
    with pytest.raises(IntegrityError, match=r"shell/(run|more)\.sh of changed@1\.0\.0"):
        under.downloads.fetch(key, entries(other))
    assert under.bytes_sent() == 0
    assert_nothing_left(under)


def test_a_checksum_that_changed_on_its_way_is_asked_for_again(under, reference):
    key = under.add("lied", {"shell/run.sh": CANARY})
    reference.faults({"action": "wrong_checksum", "path": LISTING, "count": 1})
    assert under.downloads.fetch(key, entries({"shell/run.sh": CANARY})).fresh


def test_a_wrong_checksum_of_an_unknown_version_is_an_error_and_no_entry(under, reference):
    key = under.add("unknown")
    reference.faults({"action": "wrong_checksum", "path": LISTING, "count": None})
    with pytest.raises(IntegrityError):
        under.downloads.fetch(key)
    assert under.cache.entries() == []
    assert_nothing_left(under)


@pytest.mark.parametrize("action", ["truncate_body", "wrong_byte", "longer_body", "expire_urls"])
def test_a_fault_on_the_way_ends_in_the_right_bytes(under, reference, action):
    key = under.add("faulty", {"shell/run.sh": CANARY * 100})
    reference.faults({"action": action, "path": OBJECTS})
    assert under.read(under.downloads.fetch(key)) == {"shell/run.sh": CANARY * 100}
    assert_nothing_left(under)


def test_wrong_bytes_for_ever_are_an_error_and_no_entry(under, reference):
    key = under.add("wrong")
    reference.faults({"action": "wrong_byte", "path": OBJECTS, "count": None})
    with pytest.raises(IntegrityError):
        under.downloads.fetch(key)
    assert under.cache.entries() == []
    assert_nothing_left(under)


def test_what_the_server_does_not_have_is_not_found(under):
    with pytest.raises(NotFound):
        under.downloads.fetch(ScriptKey(Ref("nobody", "1.0.0"), "shell"))
    under.add("somebody")
    with pytest.raises(NotFound):
        under.downloads.fetch(ScriptKey(Ref("somebody", "1.0.0"), "terraform"))
    assert_nothing_left(under)


def test_names_that_are_none_never_reach_server_or_disk(under):
    for key in (ScriptKey(Ref("a", "1.0.0"), "../x"), ScriptKey(Ref("a", "1.0.0"), "staging")):
        with pytest.raises(UsageError):
            under.downloads.fetch(key)
        assert under.downloads.download([key])[key].state is OutcomeState.FAILED


def test_what_does_not_fit_is_refused_before_a_byte_comes(under):
    under.settings.cache_max_size_mb = 0.001
    key = under.add("large", {"shell/run.sh": b"x" * 2000})
    with pytest.raises(Refused, match="cache_max_size_mb"):
        under.downloads.fetch(key)
    under.settings.cache_max_size_mb, under.settings.max_script_size_mb = 500, 0.001
    with pytest.raises(Refused, match="max_script_size_mb"):
        under.downloads.fetch(key)
    assert under.bytes_sent() == 0
    assert_nothing_left(under)


def test_no_server_is_unreachable_and_the_next_fetch_tries_anew(under, reference):
    key = under.add("away")
    reference.faults({"action": "reset", "count": None})
    with pytest.raises(ServerUnreachable):
        under.downloads.fetch(key)
    assert_nothing_left(under)
    reference.faults()
    assert under.downloads.fetch(key).fresh


# -- latest, formats -------------------------------------------------------------------------
def test_latest_and_formats_are_the_servers_word(under, reference):
    under.add("two", version="1.2.0")
    under.add("two", {"shell/run.sh": b"1", "python/run.py": b"2"}, version="1.10.0")
    with pytest.raises(NotFound):  # nobody has approved any
        under.downloads.latest("two", "shell")
    token = SecretStr(reference.reviewer(under.settings.tenant_id))
    reviewer = EscherServer(under.settings.model_copy(update={"server_token": token}))
    for version in ("1.2.0", "1.10.0"):
        reviewer.set_status(Ref("two", version), Status.ACTIVE)
    reviewer.close()
    ref, told = under.downloads.latest("two", "shell")
    assert (ref, told.status) == (Ref("two", "1.10.0"), "active")
    assert under.journal.script_rows.told(ref) == told == under.downloads.tell(ref, "shell")
    assert under.downloads.latest("two")[0] == Ref("two", "1.10.0")
    assert under.downloads.formats_of(Ref("two", "1.10.0")) == ["shell", "python"]
    with pytest.raises(NotFound):
        under.downloads.latest("three", "shell")


# -- batches ---------------------------------------------------------------------------------
def test_a_batch_is_downloaded_then_verified(under):
    keys = [under.add(f"p{number}") for number in range(20)]
    assert set(states(under.downloads.download(keys)).values()) == {"done"}
    assert under.cache.entries() == []
    rows = under.journal.downloads.all()
    assert {row.state for row in rows} == {FolderState.STAGED}
    assert all(under.journal.downloads.is_free(row.key) for row in rows)
    assert set(states(under.downloads.verify(keys)).values()) == {"done"}
    assert len(under.cache.entries()) == 20
    assert under.journal.downloads.all() == []
    assert_nothing_left(under)


def test_every_step_twice_downloads_once(under):
    keys = [under.add(f"t{number}") for number in range(3)]
    for step in (under.downloads.download, under.downloads.verify):
        step(keys)
        sent = under.bytes_sent()
        assert set(states(step([*keys, *keys])).values()) == {"done"}
        assert under.bytes_sent() == sent
    assert set(states(under.downloads.download(keys)).values()) == {"done"}
    assert under.bytes_sent() == sent


def test_one_bad_script_does_not_hold_back_its_batch(under):
    keys = [under.add(f"g{number}") for number in range(4)]
    gone, changed = ScriptKey(Ref("gone", "1.0.0"), "shell"), keys[2]
    outcomes = under.downloads.download(
        [*keys, gone], {changed: entries({"shell/run.sh": b"otherwise"})}
    )
    assert outcomes[gone].error_type == "NotFound"
    assert outcomes[changed].error_type == "IntegrityError"
    good = [key for key in keys if key != changed]
    verified = under.downloads.verify([*keys, gone])
    assert states(verified) == {
        **dict.fromkeys(good, "done"), changed: "failed", gone: "failed",
    }  # fmt: skip
    assert verified[gone].error_type == "NotFound"
    assert_nothing_left(under)


def test_a_batch_without_a_server_is_deferred_and_asks_no_more_than_it_must(under, reference):
    keys = [under.add(f"u{number}") for number in range(12)]
    reference.faults({"action": "reset", "count": None})
    outcomes = under.downloads.download(keys)
    assert {outcome.state for outcome in outcomes.values()} == {OutcomeState.DEFERRED}
    assert all(outcome.next_attempt_at >= under.downloads._clock() for outcome in outcomes.values())
    # four threads begin with one each; once all four are silent, nobody asks any more
    assert len(under.slept) < 12 * 3
    again = under.downloads.verify(keys)
    assert {outcome.error_type for outcome in again.values()} == {"ServerUnreachable"}
    assert_nothing_left(under)


def test_many_are_verified_while_others_are_downloaded(under):
    keys = [under.add(f"m{number}") for number in range(8)]
    gone = ScriptKey(Ref("gone", "1.0.0"), "shell")
    wanted = [*keys, gone]
    outcomes = {}
    with ThreadPoolExecutor(1) as pool:
        verified = []
        for start in range(0, len(wanted), 3):
            under.downloads.download(wanted[start : start + 3])
            verified.append(pool.submit(under.downloads.verify, wanted[start : start + 3]))
        for batch in verified:
            outcomes |= batch.result()
    assert states(outcomes) == {**dict.fromkeys(keys, "done"), gone: "failed"}
    assert len(under.cache.entries()) == 8
    assert_nothing_left(under)


def test_verify_before_download_waits(under):
    key = under.add("early")
    assert states(under.downloads.verify([key])) == {key: "waiting"}
    assert under.downloads.verify([]) == under.downloads.download([]) == {}


def test_as_many_as_go_are_fetched_when_room_is_short(under):
    under.settings.cache_max_size_mb = 10_000 / (1 << 20)
    under.cache = type(under.cache)(under.settings, under.journal)
    under.downloads = type(under.downloads)(
        under.settings, under.journal, under.server, under.cache, under.library
    )
    keys = [under.add(f"r{number}", {"shell/run.sh": b"%d" % number * 3000}) for number in range(5)]
    found = under.downloads.download(keys)
    done = [key for key in keys if found[key].state is OutcomeState.DONE]
    assert len(done) == 2
    others = [found[key] for key in keys if key not in done]
    assert {outcome.state for outcome in others} == {OutcomeState.DEFERRED}
    assert {outcome.error_type for outcome in others} == {CacheFull.__name__}
    assert under.cache.usage()["used_bytes"] <= 10_000
    under.downloads.verify(done)
    assert under.cache.usage()["used_bytes"] <= 10_000
    assert_nothing_left(under)


# -- staged bytes that change, processes that die ----------------------------------------------
def test_staged_bytes_that_changed_are_set_aside_and_fetched_anew(under):
    key = under.add("flipped", {"shell/run.sh": CANARY})
    under.downloads.download([key])
    [path] = [path for folder in under.staging for path in folder.rglob("*.sh")]
    path.write_bytes(CANARY.replace(b"S", b"s", 1))
    outcome = under.downloads.verify([key])[key]
    assert (outcome.state, outcome.error_type) == (OutcomeState.DEFERRED, "TransferInterrupted")
    assert under.cache.entries() == []
    assert under.cache.usage()["quarantined_bytes"] > 0
    assert states(under.downloads.download([key])) == {key: "done"}
    assert states(under.downloads.verify([key])) == {key: "done"}
    assert under.read(under.cache.find(key)) == {"shell/run.sh": CANARY}


def test_a_fetch_that_meets_changed_staged_bytes_fetches_them_anew_itself(under):
    key = under.add("met", {"shell/run.sh": CANARY})
    under.downloads.download([key])
    [path] = [path for folder in under.staging for path in folder.rglob("*.sh")]
    path.with_name("added.sh").write_bytes(b"rm -rf /\n")
    assert under.read(under.downloads.fetch(key)) == {"shell/run.sh": CANARY}
    assert_nothing_left(under)


def test_a_fetch_takes_what_is_staged(under):
    key = under.add("staged")
    under.downloads.download([key])
    sent = under.bytes_sent()
    assert under.downloads.fetch(key).fresh
    assert under.bytes_sent() == sent
    assert_nothing_left(under)


def test_a_fetch_never_takes_staged_bytes_of_other_content(under):
    key = under.add("other", {"shell/run.sh": CANARY})
    under.downloads.download([key])
    with pytest.raises(IntegrityError):
        under.downloads.fetch(key, entries({"shell/run.sh": b"as published"}))
    assert under.cache.entries() == []
    assert_nothing_left(under)


def claim_and_die(under, key):
    """What a process leaves behind that was killed while bytes flowed."""
    downloads = downloads_of(under.journal, dead_owner())
    claimed = downloads.claim({key: "staging/dead"})
    assert claimed.mine
    with under.journal.database.write() as connection:
        downloads.reserve({key: 5000}, claimed.lease, connection)
    folder = under.cache.layout.staging / "dead" / key.format
    folder.mkdir(parents=True)
    (folder / "run.sh").write_bytes(b"echo hal")


def test_a_dead_owner_is_taken_over_at_once(under):
    key = under.add("killed")
    claim_and_die(under, key)
    began = time.monotonic()
    assert under.downloads.fetch(key).fresh
    assert time.monotonic() - began < 2
    assert_nothing_left(under)


def test_a_dead_owner_is_taken_over_by_a_batch(under):
    key = under.add("killed2")
    claim_and_die(under, key)
    assert states(under.downloads.download([key])) == {key: "done"}
    assert states(under.downloads.verify([key])) == {key: "done"}
    assert_nothing_left(under)


def test_recovery_removes_what_the_dead_left_and_nothing_else(under):
    dead, staged = under.add("dead"), under.add("staged2")
    under.downloads.download([staged])
    claim_and_die(under, dead)
    (under.cache.layout.staging / "nobodys").mkdir()
    assert len(under.staging) == 3
    under.cache.recover()
    assert len(under.staging) == 1
    assert [row.key for row in under.journal.downloads.all()] == [staged]
    assert states(under.downloads.verify([staged])) == {staged: "done"}
    assert_nothing_left(under)


def test_what_nobody_verified_for_an_hour_is_let_go(under, clock):
    key = under.add("forgotten")
    under.downloads.download([key])
    under.journal.downloads._clock = clock
    clock.now += 3700
    under.cache.reconcile()
    assert_nothing_left(under)
    assert states(under.downloads.verify([key])) == {key: "waiting"}


def test_the_lease_of_another_process_holds_until_it_dies(under):
    key = under.add("elsewhere")
    downloads_of(under.journal, far_owner()).claim({key: "staging/theirs"})
    assert states(under.downloads.download([key])) == {key: "waiting"}
    assert states(under.downloads.verify([key])) == {key: "waiting"}
    leave_dead(under.journal)
    assert states(under.downloads.download([key])) == {key: "done"}


def test_who_lost_his_lease_writes_nothing(under, monkeypatch):
    """Another host took over while the bytes flowed: what stands in the row is its own."""
    key = under.add("slow")
    fetch = under.server.download

    def taken_over_meanwhile(file, target, **options):
        count = fetch(file, target, **options)
        leave_dead(under.journal)
        downloads_of(under.journal, far_owner()).claim({key: "staging/theirs"})
        return count

    monkeypatch.setattr(under.server, "download", taken_over_meanwhile)
    under.downloads.download([key])
    row = under.journal.downloads.get(key)
    assert (row.name, row.state) == ("staging/theirs", FolderState.DOWNLOADING)
    assert under.journal.leases.holder(DOWNLOAD, (*key.ref, key.format)) == far_owner()
    assert under.staging == []


def test_an_interrupted_batch_gives_its_claims_back(under, monkeypatch):
    key = under.add("interrupted")
    monkeypatch.setattr(under.server, "script", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        under.downloads.download([key])
    monkeypatch.undo()
    row = under.journal.downloads.get(key)
    assert (row.state.value, row.error_type) == ("failed", "TransferInterrupted")
    assert under.journal.downloads.is_free(key)
    assert under.downloads.fetch(key).fresh


def _interrupt(*_, **__):
    raise KeyboardInterrupt


def test_a_mistake_of_ours_is_told_by_its_place_and_never_by_its_text(under, monkeypatch):
    key = under.add("mistaken")

    def mistake(*_, **__):
        raise RuntimeError("CANARY-CONTENT")

    monkeypatch.setattr(under.server, "script", mistake)
    outcome = under.downloads.download([key])[key]
    assert outcome.state is OutcomeState.FAILED
    assert "RuntimeError" in outcome.error
    assert "CANARY" not in outcome.error


# -- a server that says what is not so ---------------------------------------------------------
def test_an_answer_about_something_else_is_no_escher_server(under, monkeypatch):
    key = under.add("asked")
    right = under.server.script(key.ref, key.format)
    for wrong in (
        {"version": "9.9.9"}, {"playbook_id": "else"}, {"format": "python"},
        {"entry_point": "shell/none.sh"}, {"entry_point": None},
    ):  # fmt: skip
        answer = right.model_copy(update=wrong)
        monkeypatch.setattr(under.server, "script", lambda *_, answer=answer, **__: answer)
        with pytest.raises(NotEscherServer):
            under.downloads.fetch(key)
    assert under.bytes_sent() == 0


def test_outcomes_and_rows_hold_no_signature(under, reference, caplog):
    key = under.add("silent", {"shell/run.sh": CANARY})
    reference.faults({"action": "status", "status": 404, "path": OBJECTS, "count": None})
    outcome = under.downloads.download([key])[key]
    told = caplog.text + str(outcome) + str(dataclasses.asdict(under.journal.downloads.all()[0]))
    for secret in ("ignature", "CANARY", "?"):
        assert secret not in told
