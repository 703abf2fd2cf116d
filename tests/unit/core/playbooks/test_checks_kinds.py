"""What a file is comes first: it is judged by those rules, or by none."""

from __future__ import annotations

import pytest

from core.playbooks.checks import check_scripts
from core.playbooks.checks.kinds import kind_of


def said(path: str, content: bytes) -> list[str]:
    return [warning.as_text() for warning in check_scripts({path: content})]


# Broken as bash, and none of it is.
NO_SCRIPTS = {
    "LICENSE": b"Copyright (c) the authors (all rights\n",
    "Makefile": b"all:\n\t@echo $(shell date) && (cd x; make\nifeq ($(A),1)\nendif\n",
    "Jenkinsfile": b"pipeline { agent any\n stages { stage('x') { } }\n",
    "Dockerfile": b"FROM alpine\nRUN (true\n",
    "README": b"It's (not\n",
    "README.md": b"It's (not\n",
    "notes.txt": b"don't\n",
    ".editorconfig": b"[*.{sh,bash}\n",
    ".gitattributes": b"*.sh text eol=lf (\n",
    "requirements": b"a (\n",
    "run.sh.j2": b"#!/bin/bash\n{% if x %}(\n",
    "run.sh.tmpl": b"#!/bin/bash\n(\n",
    "tool.bin": b"\x7fELF\0\0(",
}


@pytest.mark.parametrize("name", NO_SCRIPTS)
def test_what_is_no_script_is_not_judged(name: str) -> None:
    assert said(f"shell/{name}", NO_SCRIPTS[name]) == []


OTHERS = {
    "zsh": ("a.sh", b"#!/usr/bin/env zsh\nfor f (*.txt) { print $f\n"),
    "ksh": ("a", b"#!/bin/ksh93\nset -A x (\n"),
    "PowerShell": ("a.ps1", b"Get-AzVM | ? { $_.Name -eq '(' }\n"),
    "awk": ("a.awk", b"BEGIN { print 1\n"),
    "fish": ("a.fish", b"if true\nend\n"),
    "csh": ("a.csh", b"if (1) then\nendif\n"),
    "Bats": ("a.bats", b'@test "x" {\n run ls\n}\n'),
    "Perl": ("a", b"#!/usr/bin/perl5.36 -w\nmy $x = (1;\n"),
    "Node.js": ("a", b"#!/usr/bin/env node\nlet x = (\n"),
    "Tcl": ("a.sh", b'#!/bin/sh\n# \\\nexec tclsh "$0" ${1+"$@"}\nset x {\n'),
    "cmd.exe": ("a.bat", b"@echo off\r\nif (\r\n"),
    "Python 2": ("a", b"#!/usr/bin/python2.7\nprint 'x'\n"),
    "another interpreter": ("a.sh", b"#!/opt/own/thing\n(\n"),
}


@pytest.mark.parametrize("language", OTHERS)
def test_a_script_of_another_language_is_not_checked_and_that_is_said(language: str) -> None:
    name, content = OTHERS[language]
    assert said(f"shell/{name}", content) == [
        f"shell/{name}:1: not checked: it is written for {language}"
    ]


@pytest.mark.parametrize(
    "head",
    [
        b"#compdef thing", b"# shellcheck shell=ksh", b"# shellcheck disable=SC1 shell=ksh",
        b"# vim: set ft=zsh sw=2:", b"# -*- mode: sh; sh-shell: zsh -*-", b"#autoload",
    ],
)  # fmt: skip
def test_a_mode_line_says_what_a_script_without_an_interpreter_is(head: bytes) -> None:
    (warning,) = said("shell/a.sh", head + b"\nfoo=(a (b)\n")
    assert "not checked: it is written for" in warning


@pytest.mark.parametrize(
    "head",
    [
        b"#!/bin/sh", b"#!/bin/bash -eu", b"#! /usr/bin/env bash", b"#!/usr/bin/env -S bash -eu",
        b"#!/usr/bin/env -S LANG=C bash", b"#!/bin/busybox sh", b"#!/bin/dash", b"#!/bin/ash",
        b"#!/usr/local/bin/bash-5.2", b"#!/usr/bin/with-contenv bash", b"\xef\xbb\xbf#!/bin/bash",
        b"#!/usr/bin/env nix-shell\n#! nix-shell -i bash -p jq", b"# shellcheck shell=sh",
    ],
)  # fmt: skip
def test_the_shells_that_bash_reads_are_judged(head: bytes) -> None:
    assert kind_of("shell/a.sh", head + b"\n").judge == "bash"
    assert any("never closed" in text for text in said("shell/a.sh", head + b"\nif true; then\n"))


def test_a_script_of_zsh_that_does_not_say_so_is_not_broken_bash() -> None:
    (warning,) = said("shell/a.sh", b"setopt extended_glob\nfor f (*.txt) { print $f }\n")
    assert warning.startswith("shell/a.sh:2: not checked: it looks written for zsh")


def test_python_in_the_shell_folder_is_judged_as_python() -> None:
    assert said("shell/aws-cli", b"#!/usr/bin/env python3\nprint(f'{1}')\n") == []
    (warning,) = said("shell/aws-cli", b"#!/usr/bin/env python3\nx = (\n")
    assert warning.startswith("shell/aws-cli:2: ")


@pytest.mark.parametrize("name", ["a.sh", "a.bash", "sub/a.sh", "a"])
def test_windows_line_ends_in_shell_are_named(name: str) -> None:
    script = b"#!/bin/bash\r\nif true; then\r\n  echo hi\r\nfi\r\n"
    (warning,) = said(f"shell/{name}", script)
    assert warning.startswith(f"shell/{name}:1: 4 lines end in CRLF")
    (warning,) = said(f"shell/{name}", b"#!/bin/bash\necho a\r\necho b\n")
    assert warning.startswith(f"shell/{name}:2: a line ends in CRLF")


def test_windows_line_ends_break_other_unix_shells_and_nothing_else() -> None:
    found = said("shell/a.ksh", b"#!/bin/ksh\r\necho\r\n")
    assert len(found) == 2
    assert "CRLF" in found[1]
    assert len(said("shell/a.ps1", b"Get-AzVM\r\n")) == 1
    assert said("python/a.py", b"x = 1\r\ny = 2\r\n") == []
    assert said("terraform/a.tf", b"a = 1\r\n") == []
    assert said("arm/template.json", b'{\r\n"resources": []\r\n}') == []
    assert (
        said("cloudformation/template.yaml", b"Resources:\r\n  A:\r\n    Type: AWS::SQS::Queue\r\n")
        == []
    )


def test_a_windows_line_end_after_an_interpreter_is_named_where_the_rest_may_have_it() -> None:
    (warning,) = said("shell/tool", b"#!/usr/bin/env python3\r\nx = 1\r\n")
    assert warning.startswith("shell/tool:1: the #! line ends in CRLF")
    assert said("shell/tool", b"#!/usr/bin/env python3\nx = 1\r\n") == []


def test_carriage_returns_hide_no_other_fault() -> None:
    found = said("shell/a.sh", b"#!/bin/bash\r\nif true; then\r\necho 'a\r\n")
    assert len(found) == 2


def test_a_byte_order_mark_before_a_script_is_named() -> None:
    (warning,) = said("shell/a.sh", b"\xef\xbb\xbf#!/bin/sh\necho\n")
    assert "byte order mark" in warning


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("shell/a.sh", b"#!/bin/sh\necho a\0b\n"),
        ("cloudformation/a.yaml", b"Resources:\n  A: a\0b\n"),
        ("arm/a.json", b'{"contentVersion":\n "\0"}'),
        ("terraform/a.tf", b"a = 1\nb = \0\n"),
        ("python/a.py", b"x = 1\ny = '\0'\n"),
        ("shell/tool", b"#!/usr/bin/env python3\nx = '\0'\n"),
    ],
)
def test_a_nul_byte_is_named_with_its_line(path: str, content: bytes) -> None:
    assert said(path, content) == [f"{path}:2: it holds NUL bytes"]


def test_a_nul_byte_is_named_in_scripts_that_are_not_checked_too() -> None:
    found = said("shell/a.zsh", b"#!/bin/zsh\necho a\0b\n")
    assert found[1:] == ["shell/a.zsh:2: it holds NUL bytes"]
    found = said("shell/a.sh", b"#!/bin/ba\0sh\necho\n")
    assert found[1:] == ["shell/a.sh:1: it holds NUL bytes"]


def test_text_in_utf_16_is_named_as_that() -> None:
    (warning,) = said("shell/a.sh", "#!/bin/sh\necho\n".encode("utf-16"))
    assert "UTF-16" in warning


def test_a_payload_behind_a_script_is_not_read() -> None:
    head = b'#!/bin/sh\ntail -n +5 "$0" | tar xz\nexit 0\n__ARCHIVE__\n'
    assert said("shell/a.sh", head + b"\x1f\x8b\0\0((\r\n") == []
    assert said("shell/a.sh", b"#!/bin/sh\nif x; then\nexit 0\n__ARCHIVE__\n\0") != []


BESIDE_A_TEMPLATE = {
    "cloudformation/parameters-prod.json": b'[{"ParameterKey": "Env", "ParameterValue": "prod"}]',
    "cloudformation/tags.json": b'[{"Key": "team", "Value": "ops"}]',
    "cloudformation/pipeline.json": b'{"Parameters": {"Env": "prod"}, "Tags": {"a": "b"}}',
    "cloudformation/k8s/manifests.yaml": b"kind: A\n---\nkind: B\n",
    "cloudformation/hosts.yml": b"- web1\n- web2\n",
    "cloudformation/buildspec.yml": b"version: 0.2\nphases: {}\n",
    "cloudformation/values.yaml": b"a: {{ .Values.x }}: b\n",
    "cloudformation/broken.yaml": b"a: [1\n",
    "cloudformation/latin.yaml": b"a: \xe9\n",
    "cloudformation/empty.yaml": b"",
    "arm/azuredeploy.parameters.json": (
        b'{"$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentParameters.json#",'
        b' "contentVersion": "1.0.0.0", "parameters": {}}'
    ),
    "arm/createUiDefinition.json": b'{"$schema": "https://x/CreateUIDefinition.MultiVm.json#"}',
    "arm/policy.json": b'{"mode": "All", "policyRule": {}}',
    "arm/list.json": b"[1, 2]",
    "arm/input.json": b'{"a": ${value}}',
    "terraform/policy.json": b'{"Resource": ${buckets}}',
    "terraform/containers.json": b'[{"image": ${jsonencode(image)}}]',
    "terraform/user_data.sh": b"#!/bin/bash\n%{ for x in y ~}(\n",
    "terraform/init.tftpl": b"${",
    "python/data.json": b"{",
    "python/README": b"it's (",
}


@pytest.mark.parametrize("path", BESIDE_A_TEMPLATE)
def test_what_stands_beside_a_template_is_not_judged_as_one(path: str) -> None:
    assert said(path, BESIDE_A_TEMPLATE[path]) == []
