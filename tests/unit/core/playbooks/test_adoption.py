from __future__ import annotations

from pathlib import Path

from core.encryption import Envelope
from core.journal import Journal
from core.models import Area, Move, Strategy, SyncState
from core.playbooks.store import PlaybookStore
from core.playbooks.verify import adopt, verify


def test_a_lost_journal_is_rebuilt_from_disk(settings, store, make_draft, tmp_path: Path):
    secret = [{"name": "password", "sensitive": True, "default": "x"}]
    refs = [
        store.create(make_draft(playbook_id="plain", parameters=secret)).ref,
        store.create(make_draft(playbook_id="sealed", sensitive=True)).ref,
        store.create(make_draft(playbook_id="wanted"), strategy=Strategy.REVIEW).ref,
        store.create(make_draft(playbook_id="made"), author="ai_generated").ref,
        store.create(make_draft(playbook_id="sent")).ref,
    ]
    for name, fields in (("plain", {"parameters": secret}), ("sealed", {})):
        store.update(name, make_draft(playbook_id=name, **fields))
    store.move([Move(refs[4], Area.SYNCED, {"status": "approved"})])
    before = {ref: (store.get(ref).content_digest, store.read(ref)) for ref in refs}

    journal = Journal(f"sqlite:///{tmp_path}/new.db")
    again = PlaybookStore(settings, journal, Envelope(store.envelope._master))
    assert len(verify(again)) == 5
    adopted, failed = adopt(again)
    assert (sorted(adopted), failed) == (sorted(refs), {})
    assert {ref: (again.get(ref).content_digest, again.read(ref)) for ref in refs} == before
    wanted, sent = again.get(refs[2]), again.get(refs[4])
    # what the user chose went with the journal: the folder only asks
    assert (wanted.sync_state, wanted.strategy) == (SyncState.LOCAL, Strategy.LOCAL_ONLY)
    assert wanted.asked == {"storage_strategy": "uploaded_for_review"}
    assert (sent.sync_state, sent.status, sent.asked) == (
        SyncState.LOCAL,
        "ready",
        {"status": "approved"},
    )
    assert verify(again) == []
    assert adopt(again) == ([], {})


def test_what_is_no_playbook_is_named(store, make_draft):
    folder = store.folder(store.create(make_draft()).ref)
    folder.rename(folder.with_name("v2.0.0"))
    _, failed = adopt(store)
    assert "holds stop-rds@1.0.0" in failed[folder.with_name("v2.0.0")].detail
