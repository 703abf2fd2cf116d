from __future__ import annotations

import csv
import subprocess
import sys
import tarfile
import time
import warnings
from pathlib import Path

import pytest

from core.playbooks import checks
from core.playbooks.checks import MAX_BYTES, ScriptWarning, check_scripts

BOUND_SECONDS = 15.0


def check_script(path: str, content: bytes) -> list[ScriptWarning]:
    return check_scripts({path: content})


GOOD = {
    "shell/stop.sh": b'#!/usr/bin/env bash\nset -euo pipefail\necho "${1:-}"\n',
    "shell/run": b"#!/bin/sh\necho hi\n",
    "cloudformation/t.yaml": (
        b"Resources:\n  B:\n    Type: AWS::S3::Bucket\n    Properties:\n"
        b"      BucketName: !Sub '${AWS::StackName}-x'\n      Tags: !If [A, !GetAtt X.Y, !Ref Z]\n"
        b"      Other:\n        Fn::Transform: !Transform {Name: AWS::Include, Parameters: {a: 1}}\n"
    ),
    "cloudformation/t.json": b'{"Resources": {}}',
    "cloudformation/t.template": b'\n{"Resources":\t{}}',
    "arm/azuredeploy.json": b'\xef\xbb\xbf{"resources": []}',
    "arm/main.bicep": b"resource } nonsense",
    "terraform/main.tf": b'resource "aws_s3_bucket" "b" {\n  bucket = "x-${var.env}"\n}',
    "terraform/dev.tfvars": b'env = "dev"\n',
    "terraform/more.tf.json": b'{"variable": {}}',
    "python/main.py": b"# coding: latin-1\nx = '\xe9'\n",
    "python/README.md": b"# not (a program",
    "elsewhere/x.py": b"def (",
}

TEMPLATE = b"AWSTemplateFormatVersion: '2010-09-09'\n"

BAD = {
    "shell/stop.sh": (b"echo a\nif true; then\n", 3),
    "shell/fold.sh": (b"aws x --name <name>\n", 1),
    "shell/heredoc.sh": (b"echo\ncat <<EOF\nno end\n", 2),
    "cloudformation/t.yaml": (b"Resources:\n  A: [1, 2\n", 3),
    "cloudformation/t.json": (b'{"Resources": {},}', 1),
    "cloudformation/template.yaml": (b"- a\n- b\n", 1),
    "cloudformation/two.yaml": (TEMPLATE + b"Resources: {}\n---\nb: 1\n", 4),
    "cloudformation/alias.yaml": (b"Resources:\n  a: *nowhere\n", 2),
    "cloudformation/object.yaml": (TEMPLATE + b"a: !!python/object/apply:os.system [id]\n", 2),
    "arm/a.json": (b'{\n  "contentVersion": "1"\n  "a": 1\n}', 3),
    "arm/nan.json": (b'{"contentVersion": NaN}', 1),
    "arm/azuredeploy.json": (b"[]", 1),
    "terraform/main.tf": (b'variable "a" {\n  default = = 1\n}\n', 2),
    "terraform/open.tf": (b'variable "a" {\n', 1),
    "terraform/more.tf.json": (b'{"variable": {}', 1),
    "python/main.py": (b"x = 1\ndef f(:\n", 2),
    "python/codec.py": (b"# coding: no-such-codec\n", 0),
}


@pytest.mark.parametrize("path", GOOD)
def test_what_parses_gets_no_warning(path: str) -> None:
    assert check_script(path, GOOD[path]) == []


@pytest.mark.parametrize("path", BAD)
def test_what_does_not_parse_gets_one_warning_with_its_line(path: str) -> None:
    content, line = BAD[path]
    (warning,) = check_script(path, content)
    assert (warning.path, warning.line) == (path, line)


def test_a_warning_reads_as_path_line_message() -> None:
    assert ScriptWarning("shell/a.sh", 3, "bad").as_text() == "shell/a.sh:3: bad"
    assert ScriptWarning("shell/a.sh", None, "bad").as_text() == "shell/a.sh: bad"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("shell/a.sh", b"for x hunter2\n"),
        ("shell/a.sh", b"[[ a hunter2 ]]\n[[ ( hunter2 b ) ]] )\n"),
        ("shell/a.sh", b"cat <<hunter2\nx\n"),
        ("shell/a.sh", b"echo 'hunter2\n"),
        ("cloudformation/template.yaml", b"a: *hunter2\n"),
        ("cloudformation/template.yaml", b"a: !hunter2!x y\n"),
        ("cloudformation/template.yaml", b"%hunter2 1\n%TAG hunter2\n---\na: 1\n"),
        ("cloudformation/template.yaml", b"a: b: hunter2: c\n"),
        ("cloudformation/a.yaml", b"Resources:\n  A: !hunter2 y\n"),
        ("cloudformation/a.yaml", b"Resources:\n  hunter2: {hunter2: 1}\n"),
        ("cloudformation/template.json", b'{"a": hunter2}'),
        ("arm/template.json", b'{"hunter2": "a"\n"b": 1}'),
        ("arm/template.json", b'{"hunter2": 1}'),
        ("terraform/a.tf", b'a = "x" hunter2\n'),
        ("terraform/a.tf", b"a = <<hunter2\n x\n"),
        ("python/a.py", b"hunter2 hunter2\n"),
        ("python/a.py", b"# coding: hunter2\n"),
        ("python/a.py", b"print hunter2\n"),
        ("python/a.py", b"def f(hunter2, hunter2=, **hunter2): pass\n"),
        ("python/a.py", b"x = f'{hunter2!z}'\n"),
        ("shell/a.sh", b"#!/opt/hunter2\necho\n"),
        ("shell/a.sh", b"cat <<hunter2\ncat <<hunter2\nhunter2\n"),
        ("terraform/a.tf", b'hunter2 = 1\nhunter2 = "${hunter2 hunter2}\n'),
        ("terraform/a.tf", b"hunter2 = 1\nhunter2 = 2\n"),
    ],
)
def test_no_warning_quotes_the_script(path: str, content: bytes) -> None:
    found = check_script(path, content)
    assert found
    assert "hunter2" not in " ".join(warning.as_text() for warning in found)


def _bomb() -> bytes:
    rows = [b"a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    rows += [b"a%d: &a%d [%s]" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 30)]
    merges = [b"m0: &m0 {k: v}"]
    merges += [
        b"m%d: &m%d {<<: [%s]}" % (i, i, b",".join([b"*m%d" % (i - 1)] * 9)) for i in range(1, 30)
    ]
    return b"\n".join(rows + merges)


def test_an_alias_bomb_costs_no_more_than_its_length() -> None:
    started = time.monotonic()
    assert check_script("cloudformation/bomb.yaml", _bomb() + b"\n" + TEMPLATE) != []
    assert time.monotonic() - started < 2


HOSTILE = {
    "nul": b"a\0b",
    "not utf-8": b"\xff\xfe\x00a" * 10,
    "not utf-8, no nul": b"x = '\xe9\xff'\n",
    "brackets": b"[" * 300_000,
    "braces": b"{" * 300_000,
    "objects": b'{"a":' * 100_000,
    "parentheses": b"(" * 300_000,
    "substitutions": b"$(" * 300_000,
    "digits": b'{"a": ' + b"9" * 500_000,
    "too large": b"a\n" * 2_500_000,
    "minus": b"x = " + b"-" * 500_000 + b"1",
}
PATHS = [
    "shell/a.sh", "cloudformation/template.yaml", "arm/template.json", "terraform/a.tf", "python/a.py",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_ends_with_a_warning_in_bounded_time(path: str, name: str) -> None:
    started = time.monotonic()
    found = check_script(path, HOSTILE[name])
    assert time.monotonic() - started < BOUND_SECONDS
    # to bash, one long word, and bytes of any encoding
    a_command = {"brackets", "braces", "objects", "digits", "minus", "not utf-8, no nul"}
    assert found or (path == "shell/a.sh" and name in a_command)


def test_a_file_over_the_limit_is_not_parsed_and_the_warning_says_so() -> None:
    (warning,) = check_script("python/a.py", b"#" * (MAX_BYTES + 1))
    assert "not checked" in warning.message
    assert check_script("python/a.py", b"#" * MAX_BYTES) == []


def test_no_script_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark, startup = tmp_path / "ran", tmp_path / "startup.sh"
    startup.write_text(f"touch {mark}\n")
    monkeypatch.setenv("BASH_ENV", str(startup))
    monkeypatch.setenv("BASH_FUNC_echo%%", f"() {{ touch {mark}; }}")
    script = f"touch {mark}\nset +n\n$(touch {mark})\necho hi\n"
    assert check_script("shell/a.sh", script.encode()) == []
    program = f"open({str(mark)!r}, 'w')\n"
    assert check_script("python/a.py", program.encode()) == []
    assert not mark.exists()


def test_python_warnings_reach_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_script("python/a.py", b"x = '\\d' is 1\nassert (x, 1)\n") == []


def test_without_bash_there_is_one_warning_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "bash_path", lambda: None)
    files = {f"shell/{n}.sh": b"if\n" for n in range(5)} | {"python/a.py": b"("}
    found = check_scripts(files)
    assert [w.path for w in found] == ["shell/0.sh", "python/a.py"]
    assert "bash" in found[0].message


def test_many_files_give_the_same_warnings_as_one_by_one() -> None:
    files = {f"{p.split('/')[0]}/{i}-{Path(p).name}": BAD[p][0] for i in range(3) for p in BAD}
    one_by_one = [w for p, content in files.items() for w in check_script(p, content)]
    assert check_scripts(files) == one_by_one


def test_importing_the_checks_loads_no_grammar() -> None:
    code = "import sys, core.playbooks.checks; print([m for m in ('pygohcl', 'tree_sitter', 'yaml', 'cfnlint') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


CORPUS = Path(__file__).parents[5] / "shared/corpus"


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS.is_dir(), reason="no ../shared/corpus")
def test_on_the_corpus_the_checks_agree_with_the_known_issues() -> None:
    with (CORPUS / "syntax_issues.tsv").open() as table:
        rows = csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE)
        # comments and line breaks in strings are JSON to Azure
        known = {row["file"] for row in rows if row["check"] != "json-strict"}
    names, files = {}, {}
    with tarfile.open(CORPUS / "corpus.tar.gz") as archive:
        for member in archive:
            parts = member.name.split("/")  # playbooks/<id>/v1.0.0/<format>/<file>
            if len(parts) == 5 and member.isfile():
                path = f"{parts[3]}/{parts[1]}/{parts[4]}"
                content = archive.extractfile(member)
                assert content is not None
                names[path], files[path] = "/".join(parts[1:]), content.read()
    # a snippet with outputs alone: no parser's fault, so not in the table
    known.add("cloudformation-stack-outputs-find-secrets/v1.0.0/cloudformation/remediate.yaml")
    assert {names[warning.path] for warning in check_scripts(files)} == known
