from __future__ import annotations

import json

import pytest

from core.encryption import Envelope, MasterKey, is_sealed
from core.errors import IntegrityError, WrongKey
from core.models import Area, Move, Ref
from core.playbooks.store import PlaybookStore
from core.playbooks.verify import verify

REF = Ref("stop-rds", "1.0.0")
CANARY = b"CANARY-SECRET"
SECRET = [{"name": "password", "sensitive": True, "default": CANARY.decode()}, {"name": "region"}]


def everything(store) -> bytes:
    return b"".join(path.read_bytes() for path in store.layout.root.rglob("*") if path.is_file())


@pytest.fixture
def sensitive(store, make_draft):
    files = {"shell/a.sh": b"echo " + CANARY, "python/b.py": b"x = '" + CANARY + b"'"}
    store.create(make_draft(files, parameters=SECRET, sensitive=True))
    return files


def test_a_sensitive_playbook_is_sealed_on_disk_and_clear_to_its_reader(store, sensitive):
    folder = store.folder(REF)
    assert CANARY not in everything(store)
    assert all(is_sealed((folder / path).read_bytes()) for path in sensitive)
    content = store.read(REF)
    assert {path: content[path] for path in sensitive} == sensitive
    assert json.loads(content["parameters.json"])["parameters"] == SECRET
    assert verify(store) == []
    store.move([Move(REF, Area.SYNCED, {"status": "active"})])
    assert store.read(REF) == content


def test_a_sensitive_default_is_sealed_on_disk_and_left_out_of_what_is_sent(store, make_draft):
    plain = store.create(make_draft(parameters=[SECRET[0] | {"default": "other"}, SECRET[1]]))
    digest = store.get(plain.ref).content_digest
    store.update("stop-rds", make_draft(parameters=SECRET))
    assert store.get(REF).content_digest == digest  # the default is in no digest
    assert CANARY not in everything(store)
    disk = json.loads((store.folder(REF) / "parameters.json").read_bytes())["parameters"]
    assert set(disk[0]["default"]) == {"$encrypted"}
    assert disk[1] == SECRET[1]
    assert json.loads(store.read(REF)["parameters.json"])["parameters"] == SECRET
    sent = json.loads(store.published_files(REF)["parameters.json"])["parameters"]
    assert sent == [{"name": "password", "sensitive": True}, {"name": "region"}]
    assert verify(store) == []


def test_parameters_without_secrets_are_kept_byte_for_byte(store, make_draft):
    content = b'{ "parameters":[{"name":"a","default":1.0,"allowed_values":[1]} ]}\n'
    store.create(make_draft({"parameters.json": content}))
    assert store.read(REF) == store.published_files(REF) == {"parameters.json": content}


def test_swapped_changed_or_rolled_back_files_are_refused(store, make_draft, sensitive):
    folder = store.folder(REF)
    first = {path: (folder / path).read_bytes() for path in sensitive}
    store.update("stop-rds", make_draft(sensitive))
    assert store.read(REF) == sensitive
    second = {path: (folder / path).read_bytes() for path in sensitive}
    changed = bytearray(second["shell/a.sh"])
    changed[-1] ^= 1
    copies = store.layout.sealed / "stop-rds-v1.0.0"
    for wrong in (
        {"shell/a.sh": first["shell/a.sh"]},
        {"shell/a.sh": second["python/b.py"]},
        {"shell/a.sh": bytes(changed)},
        {"shell/a.sh": b"echo in clear"},
        {"shell/a.sh": b"ESCHERv1 nonsense"},
    ):
        for path, content in wrong.items():
            (folder / path).write_bytes(content)
        assert store.read(REF) == sensitive, "the kept copy answers"
        assert [problem.ref for problem in verify(store)] == [REF]
        copies.rename(away := copies.with_name("away"))
        with pytest.raises(IntegrityError, match=r"shell/a\.sh") as caught:
            store.read(REF)
        away.rename(copies)
        assert CANARY.decode() not in str(caught.value)
        assert any("shell/a.sh" in problem.what for problem in verify(store))
        (folder / "shell/a.sh").write_bytes(second["shell/a.sh"])
    assert store.read(REF) == sensitive


def test_a_wrong_key_is_said_and_nothing_is_lost(settings, store, sensitive):
    before = everything(store)
    other = PlaybookStore(settings, store.journal, Envelope(MasterKey(b"o" * 32)))
    with pytest.raises(WrongKey, match="encrypted with key"):
        other.read(REF)
    assert all("encrypted with key" in problem.what for problem in verify(other))
    assert everything(store) == before
    assert store.read(REF)["shell/a.sh"] == sensitive["shell/a.sh"]


def test_an_update_does_not_drop_the_seal_by_omission(store, make_draft, sensitive):
    del sensitive
    store.update("stop-rds", make_draft({"shell/a.sh": b"echo new " + CANARY}))
    assert store.get(REF).sensitive
    assert CANARY not in everything(store)


def test_an_edit_beside_sealed_files_is_read_in_clear(store, sensitive):
    (store.folder(REF) / "shell/a.sh").write_bytes(b"echo edited")
    draft = store.edited_draft(REF)
    assert draft.files["shell/a.sh"] == b"echo edited"
    assert draft.files["python/b.py"] == sensitive["python/b.py"]
    store.update("stop-rds", draft)
    assert is_sealed((store.folder(REF) / "shell/a.sh").read_bytes())
    assert store.read(REF)["shell/a.sh"] == b"echo edited"


def test_a_changed_plain_file_is_never_handed_out(store, make_draft):
    store.create(make_draft())
    path = store.folder(REF) / "shell/stop.sh"
    path.write_bytes(b"echo stop!")
    with pytest.raises(IntegrityError, match=r"shell/stop\.sh"):
        store.read(REF)
    path.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        store.read(REF)
    path.symlink_to("/etc/hostname")
    with pytest.raises(Exception, match=r"stop\.sh"):
        store.read(REF)
