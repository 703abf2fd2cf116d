from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr
from support.processes import dead_owner, downloads_of, far_owner, leave_dead
from support.scripts import ScriptDesk, entries

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
def desk(tenant_settings, clock):
    desk = ScriptDesk(tenant_settings, clock=clock)
    yield desk
    desk.close()


def states(outcomes):
    return {key: outcome.state.value for key, outcome in outcomes.items()}


def assert_nothing_left(desk):
    assert desk.staging == []
    assert desk.cache.usage()["reserved_bytes"] == 0
    assert desk.cache.verify() == []


# -- one script ------------------------------------------------------------------------------
def test_a_whole_format_folder_comes_with_its_entry_script(desk):
    files = {"terraform/main.tf": b"a", "terraform/modules/net/main.tf": b"b", "shell/x.sh": b"c"}
    desk.add("module", files)
    hit = desk.downloads.fetch(ScriptKey(Ref("module", "1.0.0"), "terraform"))
    assert desk.read(hit) == {path: files[path] for path in files if path.startswith("terraform/")}
    assert hit.listing.entry_point == "terraform/main.tf"
    assert (hit.source, hit.fresh) == ("tenant", True)
    assert_nothing_left(desk)
    assert desk.journal.downloads.all() == []


def test_an_empty_file_is_a_file(desk):
    key = desk.add("empty", {"python/main.py": b"x", "python/__init__.py": b""})
    assert desk.read(desk.downloads.fetch(key))["python/__init__.py"] == b""


def test_a_second_fetch_asks_nobody(desk):
    key = desk.add("once")
    desk.downloads.fetch(key)
    requests = desk.requests()
    assert desk.downloads.fetch(key).fresh
    assert desk.requests() == requests + 1  # the question itself


def test_a_stale_entry_that_the_server_confirms_costs_no_byte(desk, clock):
    key = desk.add("old")
    desk.downloads.fetch(key)
    sent = desk.bytes_sent()
    clock.now += 8 * DAY
    assert not desk.cache.find(key).fresh
    assert desk.downloads.fetch(key).fresh
    assert desk.bytes_sent() == sent
    assert_nothing_left(desk)


def test_the_right_files_are_those_of_the_journal(desk):
    key = desk.add("known", {"shell/run.sh": CANARY})
    good = entries({"shell/run.sh": CANARY})
    assert desk.downloads.fetch(key, good).listing.files == good


@pytest.mark.parametrize(
    "other",
    [{"shell/run.sh": b"other"}, {"shell/run.sh": CANARY, "shell/more.sh": b""}, {}],
)
def test_a_listing_other_than_published_is_refused_before_a_byte_comes(desk, other):
    key = desk.add("changed", {"shell/run.sh": CANARY})
    with pytest.raises(IntegrityError, match=r"shell/(run|more)\.sh of changed@1\.0\.0"):
        desk.downloads.fetch(key, entries(other))
    assert desk.bytes_sent() == 0
    assert_nothing_left(desk)


def test_a_checksum_that_changed_on_its_way_is_asked_for_again(desk, reference):
    key = desk.add("lied", {"shell/run.sh": CANARY})
    reference.faults({"action": "wrong_checksum", "path": LISTING, "count": 1})
    assert desk.downloads.fetch(key, entries({"shell/run.sh": CANARY})).fresh


def test_a_wrong_checksum_of_an_unknown_version_is_an_error_and_no_entry(desk, reference):
    key = desk.add("unknown")
    reference.faults({"action": "wrong_checksum", "path": LISTING, "count": None})
    with pytest.raises(IntegrityError):
        desk.downloads.fetch(key)
    assert desk.cache.entries() == []
    assert_nothing_left(desk)


@pytest.mark.parametrize("action", ["truncate_body", "wrong_byte", "longer_body", "expire_urls"])
def test_a_fault_on_the_way_ends_in_the_right_bytes(desk, reference, action):
    key = desk.add("faulty", {"shell/run.sh": CANARY * 100})
    reference.faults({"action": action, "path": OBJECTS})
    assert desk.read(desk.downloads.fetch(key)) == {"shell/run.sh": CANARY * 100}
    assert_nothing_left(desk)


def test_wrong_bytes_for_ever_are_an_error_and_no_entry(desk, reference):
    key = desk.add("wrong")
    reference.faults({"action": "wrong_byte", "path": OBJECTS, "count": None})
    with pytest.raises(IntegrityError):
        desk.downloads.fetch(key)
    assert desk.cache.entries() == []
    assert_nothing_left(desk)


def test_what_the_server_does_not_have_is_not_found(desk):
    with pytest.raises(NotFound):
        desk.downloads.fetch(ScriptKey(Ref("nobody", "1.0.0"), "shell"))
    desk.add("somebody")
    with pytest.raises(NotFound):
        desk.downloads.fetch(ScriptKey(Ref("somebody", "1.0.0"), "terraform"))
    assert_nothing_left(desk)


def test_names_that_are_none_never_reach_server_or_disk(desk):
    for key in (ScriptKey(Ref("a", "1.0.0"), "../x"), ScriptKey(Ref("a", "1.0.0"), "staging")):
        with pytest.raises(UsageError):
            desk.downloads.fetch(key)
        assert desk.downloads.download([key])[key].state is OutcomeState.FAILED


def test_what_does_not_fit_is_refused_before_a_byte_comes(desk):
    desk.settings.cache_max_size_mb = 0.001
    key = desk.add("large", {"shell/run.sh": b"x" * 2000})
    with pytest.raises(Refused, match="cache_max_size_mb"):
        desk.downloads.fetch(key)
    desk.settings.cache_max_size_mb, desk.settings.max_script_size_mb = 500, 0.001
    with pytest.raises(Refused, match="max_script_size_mb"):
        desk.downloads.fetch(key)
    assert desk.bytes_sent() == 0
    assert_nothing_left(desk)


def test_no_server_is_unreachable_and_the_next_fetch_tries_anew(desk, reference):
    key = desk.add("away")
    reference.faults({"action": "reset", "count": None})
    with pytest.raises(ServerUnreachable):
        desk.downloads.fetch(key)
    assert_nothing_left(desk)
    reference.faults()
    assert desk.downloads.fetch(key).fresh


# -- latest, formats -------------------------------------------------------------------------
def test_latest_and_formats_are_the_servers_word(desk, reference):
    desk.add("two", version="1.2.0")
    desk.add("two", {"shell/run.sh": b"1", "python/run.py": b"2"}, version="1.10.0")
    with pytest.raises(NotFound):  # nobody has approved any
        desk.downloads.latest("two", "shell")
    token = SecretStr(reference.reviewer(desk.settings.tenant_id))
    reviewer = EscherServer(desk.settings.model_copy(update={"server_token": token}))
    for version in ("1.2.0", "1.10.0"):
        reviewer.set_status(Ref("two", version), Status.ACTIVE)
    reviewer.close()
    ref, told = desk.downloads.latest("two", "shell")
    assert (ref, told.status) == (Ref("two", "1.10.0"), "active")
    assert desk.journal.script_rows.told(ref) == told == desk.downloads.tell(ref, "shell")
    assert desk.downloads.latest("two")[0] == Ref("two", "1.10.0")
    assert desk.downloads.formats_of(Ref("two", "1.10.0")) == ["shell", "python"]
    with pytest.raises(NotFound):
        desk.downloads.latest("three", "shell")


# -- batches ---------------------------------------------------------------------------------
def test_a_batch_is_downloaded_then_verified(desk):
    keys = [desk.add(f"p{number}") for number in range(20)]
    assert set(states(desk.downloads.download(keys)).values()) == {"done"}
    assert desk.cache.entries() == []
    rows = desk.journal.downloads.all()
    assert {row.state for row in rows} == {FolderState.STAGED}
    assert all(desk.journal.downloads.is_free(row.key) for row in rows)
    assert set(states(desk.downloads.verify(keys)).values()) == {"done"}
    assert len(desk.cache.entries()) == 20
    assert desk.journal.downloads.all() == []
    assert_nothing_left(desk)


def test_every_step_twice_downloads_once(desk):
    keys = [desk.add(f"t{number}") for number in range(3)]
    for step in (desk.downloads.download, desk.downloads.verify):
        step(keys)
        sent = desk.bytes_sent()
        assert set(states(step([*keys, *keys])).values()) == {"done"}
        assert desk.bytes_sent() == sent
    assert set(states(desk.downloads.download(keys)).values()) == {"done"}
    assert desk.bytes_sent() == sent


def test_one_bad_script_does_not_hold_back_its_batch(desk):
    keys = [desk.add(f"g{number}") for number in range(4)]
    gone, changed = ScriptKey(Ref("gone", "1.0.0"), "shell"), keys[2]
    outcomes = desk.downloads.download(
        [*keys, gone], {changed: entries({"shell/run.sh": b"otherwise"})}
    )
    assert outcomes[gone].error_type == "NotFound"
    assert outcomes[changed].error_type == "IntegrityError"
    good = [key for key in keys if key != changed]
    verified = desk.downloads.verify([*keys, gone])
    assert states(verified) == {
        **dict.fromkeys(good, "done"), changed: "failed", gone: "failed",
    }  # fmt: skip
    assert verified[gone].error_type == "NotFound"
    assert_nothing_left(desk)


def test_a_batch_without_a_server_is_deferred_and_asks_no_more_than_it_must(desk, reference):
    keys = [desk.add(f"u{number}") for number in range(12)]
    reference.faults({"action": "reset", "count": None})
    outcomes = desk.downloads.download(keys)
    assert {outcome.state for outcome in outcomes.values()} == {OutcomeState.DEFERRED}
    assert all(outcome.next_attempt_at >= desk.downloads._clock() for outcome in outcomes.values())
    # four threads begin with one each; once all four are silent, nobody asks any more
    assert len(desk.slept) < 12 * 3
    again = desk.downloads.verify(keys)
    assert {outcome.error_type for outcome in again.values()} == {"ServerUnreachable"}
    assert_nothing_left(desk)


def test_many_are_verified_while_others_are_downloaded(desk):
    keys = [desk.add(f"m{number}") for number in range(8)]
    gone = ScriptKey(Ref("gone", "1.0.0"), "shell")
    wanted = [*keys, gone]
    outcomes = {}
    with ThreadPoolExecutor(1) as pool:
        verified = []
        for start in range(0, len(wanted), 3):
            desk.downloads.download(wanted[start : start + 3])
            verified.append(pool.submit(desk.downloads.verify, wanted[start : start + 3]))
        for batch in verified:
            outcomes |= batch.result()
    assert states(outcomes) == {**dict.fromkeys(keys, "done"), gone: "failed"}
    assert len(desk.cache.entries()) == 8
    assert_nothing_left(desk)


def test_verify_before_download_waits(desk):
    key = desk.add("early")
    assert states(desk.downloads.verify([key])) == {key: "waiting"}
    assert desk.downloads.verify([]) == desk.downloads.download([]) == {}


def test_as_many_as_go_are_fetched_when_room_is_short(desk):
    desk.settings.cache_max_size_mb = 10_000 / (1 << 20)
    desk.cache = type(desk.cache)(desk.settings, desk.journal)
    desk.downloads = type(desk.downloads)(desk.settings, desk.journal, desk.server, desk.cache)
    keys = [desk.add(f"r{number}", {"shell/run.sh": b"%d" % number * 3000}) for number in range(5)]
    found = desk.downloads.download(keys)
    done = [key for key in keys if found[key].state is OutcomeState.DONE]
    assert len(done) == 2
    others = [found[key] for key in keys if key not in done]
    assert {outcome.state for outcome in others} == {OutcomeState.DEFERRED}
    assert {outcome.error_type for outcome in others} == {CacheFull.__name__}
    assert desk.cache.usage()["used_bytes"] <= 10_000
    desk.downloads.verify(done)
    assert desk.cache.usage()["used_bytes"] <= 10_000
    assert_nothing_left(desk)


# -- staged bytes that change, processes that die ----------------------------------------------
def test_staged_bytes_that_changed_are_set_aside_and_fetched_anew(desk):
    key = desk.add("flipped", {"shell/run.sh": CANARY})
    desk.downloads.download([key])
    [path] = [path for folder in desk.staging for path in folder.rglob("*.sh")]
    path.write_bytes(CANARY.replace(b"S", b"s", 1))
    outcome = desk.downloads.verify([key])[key]
    assert (outcome.state, outcome.error_type) == (OutcomeState.DEFERRED, "TransferInterrupted")
    assert desk.cache.entries() == []
    assert desk.cache.usage()["quarantined_bytes"] > 0
    assert states(desk.downloads.download([key])) == {key: "done"}
    assert states(desk.downloads.verify([key])) == {key: "done"}
    assert desk.read(desk.cache.find(key)) == {"shell/run.sh": CANARY}


def test_a_fetch_that_meets_changed_staged_bytes_fetches_them_anew_itself(desk):
    key = desk.add("met", {"shell/run.sh": CANARY})
    desk.downloads.download([key])
    [path] = [path for folder in desk.staging for path in folder.rglob("*.sh")]
    path.with_name("added.sh").write_bytes(b"rm -rf /\n")
    assert desk.read(desk.downloads.fetch(key)) == {"shell/run.sh": CANARY}
    assert_nothing_left(desk)


def test_a_fetch_takes_what_is_staged(desk):
    key = desk.add("staged")
    desk.downloads.download([key])
    sent = desk.bytes_sent()
    assert desk.downloads.fetch(key).fresh
    assert desk.bytes_sent() == sent
    assert_nothing_left(desk)


def test_a_fetch_never_takes_staged_bytes_of_other_content(desk):
    key = desk.add("other", {"shell/run.sh": CANARY})
    desk.downloads.download([key])
    with pytest.raises(IntegrityError):
        desk.downloads.fetch(key, entries({"shell/run.sh": b"as published"}))
    assert desk.cache.entries() == []
    assert_nothing_left(desk)


def claim_and_die(desk, key):
    """What a process leaves behind that was killed while bytes flowed."""
    downloads = downloads_of(desk.journal, dead_owner())
    claimed = downloads.claim({key: "staging/dead"})
    assert claimed.mine
    with desk.journal.database.write() as connection:
        downloads.reserve({key: 5000}, claimed.lease, connection)
    folder = desk.cache.layout.staging / "dead" / key.format
    folder.mkdir(parents=True)
    (folder / "run.sh").write_bytes(b"echo hal")


def test_a_dead_owner_is_taken_over_at_once(desk):
    key = desk.add("killed")
    claim_and_die(desk, key)
    began = time.monotonic()
    assert desk.downloads.fetch(key).fresh
    assert time.monotonic() - began < 2
    assert_nothing_left(desk)


def test_a_dead_owner_is_taken_over_by_a_batch(desk):
    key = desk.add("killed2")
    claim_and_die(desk, key)
    assert states(desk.downloads.download([key])) == {key: "done"}
    assert states(desk.downloads.verify([key])) == {key: "done"}
    assert_nothing_left(desk)


def test_recovery_removes_what_the_dead_left_and_nothing_else(desk):
    dead, staged = desk.add("dead"), desk.add("staged2")
    desk.downloads.download([staged])
    claim_and_die(desk, dead)
    (desk.cache.layout.staging / "nobodys").mkdir()
    assert len(desk.staging) == 3
    desk.cache.recover()
    assert len(desk.staging) == 1
    assert [row.key for row in desk.journal.downloads.all()] == [staged]
    assert states(desk.downloads.verify([staged])) == {staged: "done"}
    assert_nothing_left(desk)


def test_what_nobody_verified_for_an_hour_is_let_go(desk, clock):
    key = desk.add("forgotten")
    desk.downloads.download([key])
    desk.journal.downloads._clock = clock
    clock.now += 3700
    desk.cache.reconcile()
    assert_nothing_left(desk)
    assert states(desk.downloads.verify([key])) == {key: "waiting"}


def test_the_lease_of_another_process_holds_until_it_dies(desk):
    key = desk.add("elsewhere")
    downloads_of(desk.journal, far_owner()).claim({key: "staging/theirs"})
    assert states(desk.downloads.download([key])) == {key: "waiting"}
    assert states(desk.downloads.verify([key])) == {key: "waiting"}
    leave_dead(desk.journal)
    assert states(desk.downloads.download([key])) == {key: "done"}


def test_who_lost_his_lease_writes_nothing(desk, monkeypatch):
    """Another host took over while the bytes flowed: what stands in the row is its own."""
    key = desk.add("slow")
    fetch = desk.server.download

    def taken_over_meanwhile(file, target, **options):
        count = fetch(file, target, **options)
        leave_dead(desk.journal)
        downloads_of(desk.journal, far_owner()).claim({key: "staging/theirs"})
        return count

    monkeypatch.setattr(desk.server, "download", taken_over_meanwhile)
    desk.downloads.download([key])
    row = desk.journal.downloads.get(key)
    assert (row.name, row.state) == ("staging/theirs", FolderState.DOWNLOADING)
    assert desk.journal.leases.holder(DOWNLOAD, (*key.ref, key.format)) == far_owner()
    assert desk.staging == []


def test_an_interrupted_batch_gives_its_claims_back(desk, monkeypatch):
    key = desk.add("interrupted")
    monkeypatch.setattr(desk.server, "script", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        desk.downloads.download([key])
    monkeypatch.undo()
    row = desk.journal.downloads.get(key)
    assert (row.state.value, row.error_type) == ("failed", "TransferInterrupted")
    assert desk.journal.downloads.is_free(key)
    assert desk.downloads.fetch(key).fresh


def _interrupt(*_, **__):
    raise KeyboardInterrupt


def test_a_mistake_of_ours_is_told_by_its_place_and_never_by_its_text(desk, monkeypatch):
    key = desk.add("mistaken")

    def mistake(*_, **__):
        raise RuntimeError("CANARY-CONTENT")

    monkeypatch.setattr(desk.server, "script", mistake)
    outcome = desk.downloads.download([key])[key]
    assert outcome.state is OutcomeState.FAILED
    assert "RuntimeError" in outcome.error
    assert "CANARY" not in outcome.error


# -- a server that says what is not so ---------------------------------------------------------
def test_an_answer_about_something_else_is_no_escher_server(desk, monkeypatch):
    key = desk.add("asked")
    right = desk.server.script(key.ref, key.format)
    for wrong in (
        {"version": "9.9.9"}, {"playbook_id": "else"}, {"format": "python"},
        {"entry_point": "shell/none.sh"}, {"entry_point": None},
    ):  # fmt: skip
        answer = right.model_copy(update=wrong)
        monkeypatch.setattr(desk.server, "script", lambda *_, answer=answer, **__: answer)
        with pytest.raises(NotEscherServer):
            desk.downloads.fetch(key)
    assert desk.bytes_sent() == 0


def test_outcomes_and_rows_hold_no_signature(desk, reference, caplog):
    key = desk.add("silent", {"shell/run.sh": CANARY})
    reference.faults({"action": "status", "status": 404, "path": OBJECTS, "count": None})
    outcome = desk.downloads.download([key])[key]
    told = caplog.text + str(outcome) + str(dataclasses.asdict(desk.journal.downloads.all()[0]))
    for secret in ("ignature", "CANARY", "?"):
        assert secret not in told
