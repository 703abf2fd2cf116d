"""One bad file is named, and everything else goes on: import, sync, verify, list, index, start."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.playbooks import draft, write_folder

from core.encryption import MAGIC
from core.errors import IntegrityError, InvalidPlaybook
from core.models import Ref
from core.playbooks import validation
from core.playbooks.verify import adopt, verify
from core.service import PlaybookService

GOOD = Ref("good-one", "1.0.0")


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"a": value}
    return value


def text_of(**more: Any) -> str:
    return json.dumps({**draft("Bad one").metadata, "playbook_id": "bad-one", **more})


BAD_METADATA = {
    "tags nested 400 deep": text_of(tags="TAGS").replace('"TAGS"', json.dumps(nested(400))),
    "tags nested 33 deep": text_of(tags="TAGS").replace('"TAGS"', json.dumps(nested(33))),
    "200,000 brackets": "[" * 200_000,
    "200,000 objects": '{"a":' * 200_000,
    "a key given twice": text_of().replace("{", '{"name": "Another name", ', 1),
    "NaN": text_of(tags={"n": float("nan")}),
    "a number beyond all": text_of(tags={"n": "N"}).replace('"N"', "1e999"),
    "a surrogate": text_of(tags={"n": "\ud800"}),
    "digits": text_of(tags={"n": "N"}).replace('"N"', "9" * 5000),
    "the wrong types": text_of(keywords={"a": [1]}, version=[1], name={"b": 2}),
}
BAD_FILES = {
    "a plan of brackets": {"explain_plan.json": b"[" * 200_000},
    "deep parameters": {"parameters.json": b'{"parameters": ' + b"[" * 100_000},
    "parameters of odd types": {
        "parameters.json": b'{"parameters": [{"name": "a", "sensitive": true, "default": [[1]]}, 5]}'
    },
    "parameters twice": {"parameters.json": b'{"parameters": [], "parameters": []}'},
}

SPOILT = ("tags nested 400 deep", "200,000 brackets", "digits", "the wrong types")


@pytest.fixture
def open_home(open_home: Callable[..., PlaybookService]) -> Callable[[], PlaybookService]:
    return functools.partial(open_home, edit_quiet_seconds=0)


@pytest.fixture
def service(open_home: Callable[[], PlaybookService]) -> PlaybookService:
    return open_home()


def put_bad(root: Path, kind: str) -> None:
    folder = write_folder(root, draft("Bad one"))
    if kind in BAD_METADATA:
        (folder / "metadata.json").write_text(BAD_METADATA[kind])
        return
    for path, content in BAD_FILES[kind].items():
        (folder / path).write_bytes(content)


@pytest.mark.parametrize("kind", [*BAD_METADATA, *BAD_FILES])
def test_an_import_names_it_and_takes_the_others(
    service: PlaybookService, tmp_path: Path, kind: str
) -> None:
    write_folder(tmp_path / "in/a-good", draft("Good one"))
    put_bad(tmp_path / "in/b-bad", kind)
    write_folder(tmp_path / "in/c-good", draft("Other good one"))
    report = service.import_path(tmp_path / "in")
    assert [name for name, _ in report.failed] == ["b-bad"]
    assert isinstance(report.failed[0][1], InvalidPlaybook)
    assert len(report.imported) == 2
    assert report.imported[0] == GOOD


def test_a_byte_order_mark_and_32_levels_are_fine(service: PlaybookService, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "one", draft("Good one", tags=nested(31)))
    content = (folder / "metadata.json").read_bytes()
    (folder / "metadata.json").write_bytes(b"\xef\xbb\xbf" + content)
    assert service.import_path(tmp_path / "one").imported == [GOOD]


@pytest.mark.parametrize("kind", [*SPOILT, *BAD_FILES])
def test_a_sync_names_what_was_dropped_in_and_takes_the_others(
    service: PlaybookService, kind: str
) -> None:
    local = service.store.layout.root / "local"
    write_folder(local / "good-one/v1.0.0", draft("Good one"))
    put_bad(local / "bad-one/v1.0.0", kind)
    plan = service.sync.run()
    assert plan.edits.added == [GOOD]
    told = {**plan.scan.broken, **plan.edits.failed}
    assert "bad-one" in " ".join(told)


@pytest.mark.parametrize("kind", SPOILT)
def test_a_stored_version_that_was_spoilt_holds_back_no_other(
    service: PlaybookService, open_home: Callable[[], PlaybookService], kind: str
) -> None:
    bad = service.create(draft("Bad one")).ref
    service.create(draft("Good one"))
    folder = service.store.folder(bad)
    (folder / "metadata.json").write_text(BAD_METADATA[kind])
    good = service.store.folder(GOOD) / "shell/main.sh"
    good.write_bytes(b"echo edited\n")
    plan = service.sync.run()
    assert plan.edits.updated == [GOOD]
    assert str(folder) in plan.scan.broken or str(bad) in plan.edits.failed
    assert {problem.ref for problem in verify(service.store)} == {bad}
    again = open_home()  # and the home opens with it
    assert {playbook.ref for playbook in again.catalog.list_page()[0]} == {bad, GOOD}


ENVELOPES = {
    "200,000 brackets": b"[" * 200_000,
    "a header that names another length": b"{}",
    "a header of odd types": b'{"wrap_nonce": [1], "wrapped_key": {}, "nonce": 5, "kid": 1}',
    "a header nested 100 deep": b'{"nonce": ' + b"[" * 100 + b"]" * 100 + b"}",
    "NaN": b'{"generation": NaN}',
}


@pytest.mark.parametrize("kind", ENVELOPES)
def test_a_spoilt_envelope_is_its_versions_alone(service: PlaybookService, kind: str) -> None:
    bad = service.create(draft("Bad one", sensitive=True)).ref
    service.create(draft("Good one", sensitive=True))
    header = ENVELOPES[kind]
    length = len(header) if "length" not in kind else 1 << 31
    sealed = MAGIC + length.to_bytes(4, "big") + header + b"x" * 40
    (service.store.folder(bad) / "shell/main.sh").write_bytes(sealed)
    with contextlib.suppress(IntegrityError):  # or the kept sealed copy answers
        path = service.resolve_script(bad.playbook_id, "shell", bad.version)
        assert path.read_bytes() == draft("Bad one").files["shell/main.sh"]
    assert service.resolve_script("good-one", "shell", "1.0.0").is_file()
    plan = service.sync.run()
    assert set(plan.scan.broken) | set(plan.edits.failed)
    assert {problem.ref for problem in verify(service.store)} == {bad}
    service.index_pending()
    assert service.store.get(GOOD).indexed_digest


def test_what_is_stored_from_before_stays_what_it_is(
    open_home: Callable[[], PlaybookService], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "check_depth", lambda _value: None)  # as doors were once
    service = open_home()
    deep = service.create(draft("Deep one", tags=nested(150))).ref
    service.create(draft("Good one"))
    monkeypatch.undo()
    before = service.store.get(deep).content_digest
    later = open_home()
    plan = later.sync.run()
    assert not plan.scan.broken
    assert not plan.edits.changed
    assert not plan.edits.failed
    later.index_pending()
    assert later.store.get(deep).indexed_digest
    assert not verify(later.store)
    assert later.store.get(deep).content_digest == before
    assert later.catalog.show(str(deep)).as_json()
    assert later.resolve_script("deep-one", "shell", "1.0.0").is_file()
    # a lost journal is rebuilt from such folders, too
    with later.journal.database.write() as connection:
        later.journal.versions.delete([deep], connection)
    refs, failed = adopt(later.store)
    assert (refs, failed) == ([deep], {})
    with pytest.raises(InvalidPlaybook, match="32 levels"):
        later.create(draft("New one", tags=nested(150)))


def test_a_row_that_cannot_be_shown_is_left_out_of_the_list(
    service: PlaybookService, caplog: pytest.LogCaptureFixture
) -> None:
    service.create(draft("Bad one"))
    service.create(draft("Good one"))
    with service.journal.database.write() as connection:
        connection.exec_driver_sql(
            "UPDATE versions SET metadata = '{\"playbook_id\": 5}' WHERE playbook_id = 'bad-one'"
        )
    assert [playbook.ref for playbook in service.catalog.list_page()[0]] == [GOOD]
    assert "bad-one@1.0.0" in caplog.text
