"""A version written out to a place of the user's own."""

from __future__ import annotations

import json
import tarfile

import pytest
from support.playbooks import draft, write_folder

MODULE = {
    "terraform/main.tf": b"# main\n",
    "terraform/run.sh": b"#!/bin/sh\nterraform apply\n",
    "terraform/lib.sh": b"#!/bin/sh\n# sourced\n",
}
SECRET = {"parameters": [{
    "name": "password", "type": "string", "sensitive": True, "default": "CANARY-default",
    "description": "Of the database.", "required": False,
}]}  # fmt: skip


@pytest.fixture
def module(run, tmp_path):
    folder = write_folder(tmp_path / "in", draft("Grow disks", MODULE))
    (folder / "terraform/run.sh").chmod(0o755)
    run("create", folder)


def test_a_folder_holds_exactly_the_content_with_its_modes(run, module, home, tmp_path):
    ours = home / "playbooks/local/grow-disks/v1.0.0/terraform"
    (ours / "x.tfstate").write_text("{}")
    refused = run("resolve", "grow-disks", "--format", "terraform")
    assert refused.code == 5
    for words in ("x.tfstate", "export grow-disks@1.0.0 DIR", "backend"):
        assert words in refused.err
    out = tmp_path / "work"
    done = run("export", "grow-disks", out, "--json")
    assert done.json["files"] == ["metadata.json", *sorted(MODULE)]
    assert {p.name for p in (out / "terraform").iterdir()} == {"main.tf", "run.sh", "lib.sh"}
    modes = {p.name: p.stat().st_mode & 0o777 for p in (out / "terraform").iterdir()}
    assert modes == {"main.tf": 0o600, "run.sh": 0o700, "lib.sh": 0o600}
    (out / "terraform" / "main.tf").write_text("# changed\n")
    assert (ours / "main.tf").read_bytes() == b"# main\n"


def test_an_archive_can_be_imported(run, module, tmp_path):
    file = tmp_path / "grow.tar.gz"
    assert run("export", "grow-disks@1.0.0", file).code == 0
    with tarfile.open(file) as archive:
        modes = {member.name: member.mode for member in archive}
    assert modes["grow-disks-v1.0.0/terraform/run.sh"] == 0o700
    assert modes["grow-disks-v1.0.0/terraform/lib.sh"] == 0o600
    imported = run("import", file, "--json")
    assert imported.code == 0, imported.err  # it is there already, unchanged


@pytest.mark.parametrize(
    "name", ["there", "there.tar.gz", "link", "home/out", "home/playbooks/local/x"]
)
def test_nothing_of_anybody_is_written_over(run, module, tmp_path, name):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("mine")
    (tmp_path / "there.tar.gz").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    assert run("export", "grow-disks", tmp_path / name).code in {2, 5}
    assert [p for p in sorted(map(str, tmp_path.rglob("*"))) if "/run/" not in p] == [
        p for p in before if "/run/" not in p
    ]
    assert (tmp_path / "there.tar.gz").read_text() == "mine"


@pytest.mark.parametrize("name", ["out", "out.tar.gz", "out.tgz"])
def test_what_is_sensitive_asks_for_reveal(run, tmp_path, name):
    run("create", write_folder(tmp_path / "keys", draft("Rotate the keys", sensitive=True)))
    refused = run("export", "rotate-the-keys", tmp_path / name)
    assert (refused.code, (tmp_path / name).exists()) == (5, False)
    assert "--reveal" in refused.err
    assert run("export", "rotate-the-keys", tmp_path / name, "--reveal").code == 0
    assert (tmp_path / name).exists()


def test_defaults_of_sensitive_parameters_ask_for_it_too(run, tmp_path):
    source = draft("Ask a password", {
        "shell/main.sh": b"#!/bin/sh\n", "parameters.json": json.dumps(SECRET).encode(),
    })  # fmt: skip
    run("create", write_folder(tmp_path / "in", source))
    told = run("export", "ask-a-password", tmp_path / "plain")
    assert "--reveal" in told.err
    assert "CANARY" not in (tmp_path / "plain" / "parameters.json").read_text()
    run("export", "ask-a-password", tmp_path / "all", "--reveal")
    assert "CANARY" in (tmp_path / "all" / "parameters.json").read_text()


def test_what_is_not_there_is_said(run, module, tmp_path):
    assert run("export", "grow-disk", tmp_path / "x").code == 3
    assert run("export", "grow-disks@9.9.9", tmp_path / "x").code == 3
    assert run("export", "grow-disks", tmp_path / "no" / "x").code == 2
