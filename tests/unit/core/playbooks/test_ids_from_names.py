"""Ids from names in any script, and never that of another playbook."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import AlreadyExists, Unchanged
from core.models import Ref, check_id
from core.playbooks.ids_from_names import former_id, id_from_name, with_suffix

EC2 = ("启动 EC2 实例", "停止 EC2 实例", "重启 EC2 实例")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Stop idle RDS (dev)", "stop-idle-rds-dev"),
        ("Größe  prüfen", "grosse-prufen"),
        ("Gro\u0308ße prüfen", "grosse-prufen"),
        ("启动 EC2 实例", "qi-dong-ec2-shi-li"),
        ("启动EC2实例", "qi-dong-ec2-shi-li"),
        ("Перезапуск сервера", "perezapusk-servera"),
        ("Đặt lại máy chủ", "dat-lai-may-chu"),
        ("ＥＣ２を停止", "ec2o-ting-zhi"),
        ("🚀", "rocket"),
        ("--a__b--", "a-b"),
        ("x" * 150, "x" * 100),
        ("a" * 99 + " b", "a" * 99),
    ],
)
def test_from_a_name(name: str, expected: str) -> None:
    assert id_from_name(name) == expected


@given(st.text(min_size=1))
def test_every_name_gives_a_well_formed_id_and_always_the_same(name: str) -> None:
    made = id_from_name(name)
    assert check_id(made) == id_from_name(name)
    assert check_id(with_suffix(made, "-17")) != made


def test_names_that_have_no_sound_differ() -> None:
    assert id_from_name("\ue000\ue001\ue002") != id_from_name("\ue000\ue001\ue003")


def test_latin_names_keep_the_id_that_they_had() -> None:
    for name in ("Stop idle RDS (dev)", "Don't panic", "AWS: S3 → Glacier", "  x  y "):
        assert former_id(name) in id_from_name(name)
    assert former_id("Stop idle RDS (dev)") == id_from_name("Stop idle RDS (dev)")


# -- in a home --------------------------------------------------------------------------------
@pytest.fixture
def named(make_draft):
    """A draft without an id."""

    def make(name: str, script: bytes = b"echo\n", **fields):
        return make_draft({"shell/main.sh": script}, playbook_id=None, name=name, **fields)

    return make


def ids(results) -> list[str]:
    assert [result.error for result in results] == [None] * len(results)
    return [result.ref.playbook_id for result in results]


def test_names_in_another_script_get_ids_of_their_own(store, named):
    made = ids(store.create_many([named(name) for name in EC2]))
    assert made == ["qi-dong-ec2-shi-li", "ting-zhi-ec2-shi-li", "zhong-qi-ec2-shi-li"]


def test_a_taken_id_gets_a_number_and_it_is_said(store, named):
    names = ["Stop: all", "Stop all!", "STOP ALL", "Stop, all"]
    results = store.create_many([named(name) for name in names[:3]])
    results += store.create_many([named(names[3])])
    assert ids(results) == ["stop-all", "stop-all-2", "stop-all-3", "stop-all-4"]
    assert results[0].note is None
    for result in results[1:]:
        assert any(
            "the id stop-all," in words and result.ref.playbook_id in words
            for words in result.warnings
        )
        assert result.note in result.warnings
    assert [store.latest(made).name for made in ids(results)] == names


def test_long_names_that_begin_alike_get_ids_of_their_own(store, named):
    results = store.create_many([named("x" * 120), named("x" * 121)])
    assert ids(results) == ["x" * 100, "x" * 98 + "-2"]


def test_an_id_that_was_given_is_another_s(store, named, make_draft):
    given = make_draft(playbook_id="stop-all", name="Given")
    assert ids(store.create_many([named("Stop all"), given])) == ["stop-all-2", "stop-all"]


def test_the_same_again_is_there_already(store, named):
    drafts = [named("Stop: all"), named("Stop all"), named("启动它"), named("🚀🔥🚀")]
    first = ids(store.create_many(drafts))
    for again in (drafts, drafts[::-1], drafts[1:]):
        results = store.create_many(again)
        assert all(isinstance(result.error, Unchanged) for result in results)
        assert {result.ref.playbook_id for result in results} <= set(first)
    assert len(store.journal.versions.refs()) == len(drafts)


def test_the_same_again_is_found_where_another_was_deleted(store, named):
    drafts = [named("Stop: all"), named("Stop all"), named("stop all")]
    results = store.create_many(drafts)
    store.delete([results[1].ref])
    again = store.create_many([drafts[2]])
    assert again[0].ref == results[2].ref
    assert ids(store.create_many([drafts[1]])) == ["stop-all-2"]


def test_a_changed_one_is_the_same_playbook_and_nothing_is_replaced(store, named):
    store.create(named("Stop all"))
    with pytest.raises(AlreadyExists, match=r"stop-all@1\.0\.0.*other content") as failure:
        store.create(named("Stop all", b"echo other\n"))
    assert "another playbook" in failure.value.remedy
    assert store.create(named("Stop  all", b"echo other\n", version="1.1.0")).ref == (
        "stop-all", "1.1.0"
    )  # fmt: skip
    assert store.read(Ref("stop-all", "1.0.0"))["shell/main.sh"] == b"echo\n"


def test_two_of_one_name_in_one_call_are_two_playbooks(store, named):
    drafts = [
        named("Clean up", b"aws\n"),
        named("Clean up", b"azure\n"),
        named("Clean up", b"aws\n"),
    ]
    results = store.create_many(drafts)
    assert [result.ref.playbook_id for result in results] == ["clean-up", "clean-up-2", "clean-up"]
    assert isinstance(results[2].error, AlreadyExists), "given twice in one call"
    again = store.create_many(drafts)
    assert [result.ref for result in again] == [result.ref for result in results]
    assert all(isinstance(result.error, Unchanged) for result in again)


def test_versions_of_one_name_are_versions_of_one_playbook(store, named):
    results = store.create_many([named("Clean up"), named("Clean up", version="1.1.0")])
    assert [str(result.ref) for result in results] == ["clean-up@1.0.0", "clean-up@1.1.0"]


def test_what_0_1_0_called_otherwise_is_found(store, named):
    store.create(named("Größe prüfen"), playbook_id=former_id("Größe prüfen"))
    (again,) = store.create_many([named("Größe prüfen")])
    assert isinstance(again.error, Unchanged)
    assert again.ref.playbook_id == "groe-prufen"


def test_an_explicit_id_of_another_playbook_is_refused_without_advice_to_replace_it(
    store, make_draft
):
    store.create(make_draft(name="One"))
    with pytest.raises(AlreadyExists, match="another playbook: 'One'") as failure:
        store.create(make_draft(name="Other"))
    assert "update" not in f"{failure.value.detail} {failure.value.remedy}"
    assert "--id" in failure.value.remedy


def test_two_at_once_get_two_ids(store, named):
    """Both see the plain id free, and one of them is first."""
    names = [f"Stop{sign}all" for sign in "!?.,;:"]
    start = threading.Barrier(len(names))
    made, failed = [], []

    def create(name: str) -> None:
        start.wait()
        try:
            made.append((store.create(named(name)).ref.playbook_id, name))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=create, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(id_ for id_, _ in made) == ["stop-all", *(f"stop-all-{n}" for n in range(2, 7))]
    assert {store.latest(id_).name for id_, name in made} == set(names)
    assert all(store.latest(id_).name == name for id_, name in made)
