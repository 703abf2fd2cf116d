"""`keys claim`: what was published before anybody noted who made it."""

from __future__ import annotations

import pytest
from support.playbooks import draft, write_folder

from core.models import Area, Move, Ref
from core.service import PlaybookService
from core.settings import Settings

ONE, TWO = Ref("first-thing", "1.0.0"), Ref("second-thing", "1.0.0")


@pytest.fixture
def of_unknown_origin(run, home, tmp_path):
    for ref, name in ((ONE, "First thing"), (TWO, "Second thing")):
        run("create", write_folder(tmp_path / ref.playbook_id, draft(name)))
    with PlaybookService.open(Settings(home=home)) as service:
        for ref in (ONE, TWO):
            digest = service.store.get(ref).content_digest
            service.journal.versions.set(
                ref, revision=1, published_digest=digest, sync_state="published",
                made_here=False, intake=None,
            )  # fmt: skip
            service.store.move([Move(ref, Area.SYNCED, {"status": "pending_review"})])


def test_one_is_claimed_by_its_name(run, of_unknown_origin):
    assert run("resolve", str(ONE), "--format", "shell").code == 5
    assert run("keys", "claim", str(ONE)).out == f"made here: {ONE}\n"
    done = run("resolve", "first-thing", "--format", "shell")
    assert done.code == 0
    assert "nobody reviewed it" in done.err
    assert run("resolve", str(TWO), "--format", "shell").code == 5


def test_all_are_claimed_once(run, of_unknown_origin):
    assert run("keys", "claim", "--all", "--json").json == {"claimed": [str(ONE), str(TWO)]}
    assert run("keys", "claim", "--all", "--json").json == {"claimed": []}


@pytest.mark.parametrize(
    ("arguments", "code"), [([], 2), (["first-thing", "--all"], 2), (["third-thing@1.0.0"], 3)]
)
def test_what_makes_no_sense_is_refused(run, of_unknown_origin, arguments, code):
    assert run("keys", "claim", *arguments).code == code
