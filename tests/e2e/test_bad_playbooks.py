"""Folders that are no playbook: refused by name, with a remedy, and nothing is stored of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.playbooks import draft, metadata, write_folder
from support.refusals import Untouched, refusal
from support.service import ServiceUnderTest

Spoil = Callable[[Path], object]


def _metadata(**fields: object) -> Spoil:
    return lambda folder: (folder / "metadata.json").write_text(
        json.dumps({k: v for k, v in (metadata() | fields).items() if v is not None})
    )


def _raw(content: bytes) -> Spoil:
    return lambda folder: (folder / "metadata.json").write_bytes(content)


def _link(path: str, target: str) -> Spoil:
    def spoil(folder: Path) -> None:
        link = folder / path
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)

    return spoil


def _sparse(path: str, size: int) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / path).touch()
        os.truncate(folder / path, size)

    return spoil


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "shell" / "pipe.sh")


def _differ_in_case(folder: Path) -> None:
    (folder / "shell" / "Main.sh").write_text("echo other\n")
    if len(list((folder / "shell").iterdir())) == 1:
        pytest.skip("this file system takes main.sh and Main.sh for one file")


BAD: dict[str, tuple[Spoil, str, tuple[str, ...]]] = {
    "not JSON": (_raw(b'{"name": '), "InvalidPlaybook", ("metadata.json",)),
    "not an object": (_raw(b"[1]"), "InvalidPlaybook", ("metadata.json",)),
    "empty": (_raw(b""), "InvalidPlaybook", ("metadata.json",)),
    "nested too deep": (_raw(b'{"a":' * 100_000), "InvalidPlaybook", ("metadata.json",)),
    "a key twice": (_raw(b'{"name": "One", "name": "Two"}'), "InvalidPlaybook", ("metadata.json",)),
    "not UTF-8": (_raw('{"name": "Größe"}'.encode("latin-1")), "InvalidPlaybook", ("UTF-8",)),
    "no name": (_metadata(name=None), "InvalidPlaybook", ("metadata.json", "name")),
    "no cloud": (_metadata(cloud_provider=None), "InvalidPlaybook", ("cloud_provider",)),
    "no SemVer": (_metadata(version="1.0"), "InvalidPlaybook", ("1.0",)),
    "an id that climbs": (_metadata(playbook_id="../../etc"), "InvalidPlaybook", ("playbook_id",)),
    "a foreign cloud": (_metadata(cloud_provider=["moon"]), "InvalidPlaybook", ("cloud_provider",)),
    "a linked script": (_link("shell/main.sh", "/etc/passwd"), "UnsafePath", ("main.sh", "link")),
    "linked metadata": (_link("metadata.json", "/etc/passwd"), "UnsafePath", ("metadata.json",)),
    "a linked folder": (_link("python", "/etc"), "UnsafePath", ("python", "link")),
    "a pipe": (_pipe, "UnsafePath", ("pipe.sh",)),
    "case alone": (_differ_in_case, "UnsafePath", ("Main.sh", "main.sh", "case")),
    "200 MB": (_sparse("shell/main.sh", 200 << 20), "InvalidPlaybook", ("shell/main.sh", "200")),
    "plan": (
        lambda folder: (folder / "explain_plan.json").write_text("{"),
        "InvalidPlaybook",
        ("explain_plan.json",),
    ),
    "parameters": (
        lambda folder: (folder / "parameters.json").write_text('{"parameters": [{"name": 7}]}'),
        "InvalidPlaybook",
        ("parameters.json",),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "what", ["not JSON", "not UTF-8", "no SemVer", "an id that climbs", "a linked script", "200 MB"]
)
def test_create_refuses(home: ServiceUnderTest, tmp_path: Path, what: str) -> None:
    spoil, type_, names = BAD[what]
    folder = write_folder(tmp_path / "p", draft("Bad one"))
    spoil(folder)
    before = Untouched(home)
    refusal(
        home, "create", str(folder), "--strategy", "keep",
        code=1, type_=type_, names=names, in_words=True,
    )  # fmt: skip
    before.check()


def test_import_names_each_bad_one_and_takes_the_good_one(
    home: ServiceUnderTest, tmp_path: Path
) -> None:
    for number, (spoil, _, _) in enumerate(BAD.values()):
        spoil(write_folder(tmp_path / "many" / f"bad-{number:02}", draft(f"Bad {number}")))
    write_folder(tmp_path / "many" / "good", draft("Good one"))
    before = Untouched(home)
    report = home.json("import", str(tmp_path / "many"), code=1)
    assert report["imported"] == 1
    failed = {item["name"]: item for item in report["failed"]}
    assert len(failed) == len(BAD)
    for number, (what, (_, type_, names)) in enumerate(BAD.items()):
        item = failed[f"bad-{number:02}"]
        assert item["type"] == type_, (what, item)
        for name in names:
            assert name in item["detail"], (what, item)
    home.json("delete", "good-one")
    before.check()


@pytest.mark.parametrize(
    ("arguments", "code", "type_", "names"),
    [
        ((), 5, "AlreadyExists", ("stands-here@1.0.0",)),
        (("--id", "../../x"), 1, "InvalidPlaybook", ("playbook_id",)),
        (("--id", "escher-mine"), 5, "Refused", ("escher-mine",)),
        (("--version", "v1"), 1, "InvalidPlaybook", ("v1",)),
        (("--strategy", "loud"), 2, "UsageError", ("loud",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_create_refuses_options(
    home: ServiceUnderTest,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    type_: str,
    names: tuple[str, ...],
) -> None:
    folder = write_folder(tmp_path / "p", draft("Stands here", {"shell/main.sh": b"echo 2\n"}))
    before = Untouched(home)
    refusal(home, "create", str(folder), *arguments, code=code, type_=type_, names=names)
    before.check()


@pytest.mark.parametrize(
    ("arguments", "code", "type_", "names"),
    [
        (("create", "nowhere"), 3, "NotFound", ("nowhere",)),
        (("create", "."), 1, "InvalidPlaybook", ("metadata.json",)),
        (("update", "not-here", "../p"), 3, "NotFound", ("not-here",)),
        (("import", "nowhere.tar.gz"), 3, "NotFound", ("nowhere.tar.gz",)),
        (("show", "stands-here@9.9.9"), 3, "NotFound", ("stands-here@9.9.9",)),
        (("show", "../../etc/passwd"), 2, "UsageError", ("../../etc/passwd",)),
        (("delete", "../../etc"), 3, "NotFound", ("../../etc",)),
        (("resolve", "stands-here", "--format", "python"), 3, "NotFound", ("python",)),
        (("status-set", "stands-here@1.0.0", "shiny"), 2, "UsageError", ("shiny",)),
        (("publish", "stands-here"), 5, "Refused", ("stands-here@1.0.0", "local_only")),
        (("jobs", "show", "none"), 3, "NotFound", ("none",)),
        (("frobnicate",), 2, "UsageError", ("frobnicate",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_commands_refuse(
    home: ServiceUnderTest,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    type_: str,
    names: tuple[str, ...],
) -> None:
    write_folder(tmp_path / "p", draft("Whatever"))
    (tmp_path / "here").mkdir()
    before = Untouched(home)
    refusal(home, *arguments, code=code, type_=type_, names=names, cwd=tmp_path / "here")
    before.check()


def test_the_limit_of_a_script_can_be_raised_as_the_remedy_says(
    home: ServiceUnderTest, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "p", draft("Big one"))
    os.truncate(folder / "shell" / "main.sh", 65 << 20)
    words = ("create", str(folder), "--strategy", "keep")
    error = refusal(home, *words, code=1, type_="InvalidPlaybook", names=("65 MiB",))
    assert "max_script_size_mb" in error["remedy"]
    home.env["ESCHER_MAX_SCRIPT_SIZE_MB"] = "66"
    try:
        assert home.json(*words)["playbook_id"] == "big-one"
        home.json("delete", "big-one")
    finally:
        del home.env["ESCHER_MAX_SCRIPT_SIZE_MB"]
