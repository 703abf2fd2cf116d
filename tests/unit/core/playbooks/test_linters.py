"""shellcheck and cfn-lint: asked for, optional, bounded, and never with text of the script."""

from __future__ import annotations

import subprocess
import sys

import pytest

from core.playbooks.checks import linters
from core.playbooks.checks.linters import available, lint_scripts, without_words_of

SCRIPT = b"#!/bin/bash\nhunter2=1\ncd /x\nrm -rf $hunter3/*\n"
TEMPLATE = b"""\
AWSTemplateFormatVersion: '2010-09-09'
Parameters: {Hunter2: {Type: String}}
Resources:
  B:
    Type: AWS::S3::Bucket
    Properties:
      Hunter3: a
"""


def said(files: dict[str, bytes]) -> list[str]:
    return [warning.as_text() for warning in lint_scripts(files)]


def test_both_are_installed_for_the_tests() -> None:
    assert available() == {"shellcheck": True, "cfn-lint": True}


def test_they_find_what_no_parser_does_and_quote_nothing() -> None:
    found = said({"shell/a.sh": SCRIPT, "cloudformation/t.yaml": TEMPLATE})
    assert any(text.startswith("shell/a.sh:2: SC2034 ") for text in found)
    assert any(text.startswith("shell/a.sh:3: SC2164 ") for text in found)
    assert any(text.startswith("cloudformation/t.yaml:7: E3002 ") for text in found)
    assert any(text.startswith("cloudformation/t.yaml:2: W2001 ") for text in found)
    assert "hunter" not in " ".join(found).lower()


def test_only_what_is_of_their_kind_is_linted() -> None:
    assert said({
        "shell/LICENSE": b"the (authors\n",
        "shell/a.zsh": b"echo $x\n",
        "cloudformation/tags.json": b'[{"Key": "a"}]',
        "cloudformation/values.yaml": b"a: b\n",
        "cloudformation/broken.yaml": b"Resources: [\n",
        "python/a.py": b"import os\n",
    }) == []  # fmt: skip
    assert any("SC2154" in text for text in said({"shell/a.ksh": b"#!/bin/ksh\necho $x\n"}))


def test_without_them_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linters, "_shellcheck_path", lambda: None)
    monkeypatch.setattr(linters, "_has_cfn_lint", lambda: False)
    assert available() == {"shellcheck": False, "cfn-lint": False}
    assert said({"shell/a.sh": SCRIPT, "cloudformation/t.yaml": TEMPLATE}) == []


def test_a_linter_that_fails_says_so_of_that_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linters, "_shellcheck_path", lambda: "/nowhere/shellcheck")
    assert said({"shell/a.sh": SCRIPT}) == ["shell/a.sh: not linted: shellcheck did not read it"]


def test_settings_of_the_current_folder_change_nothing(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".shellcheckrc").write_text("disable=all\n")
    (tmp_path / ".cfnlintrc").write_text("ignore_checks: [E, W]\n")
    monkeypatch.chdir(tmp_path)
    found = said({"shell/a.sh": SCRIPT, "cloudformation/t.yaml": TEMPLATE})
    assert any("SC2164" in text for text in found)
    assert any("E3002" in text for text in found)


def test_words_of_the_script_are_left_out() -> None:
    message = "hunter2 appears unused. Verify use (or export 'hunter2' if used)."
    assert without_words_of(message, ["export hunter2=1"]) == (
        "… appears unused. Verify use (or export '…' if used)."
    )


def test_the_command_line_loads_no_linter() -> None:
    code = (
        "import sys, core.service; print([m for m in ('cfnlint', 'pygohcl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
