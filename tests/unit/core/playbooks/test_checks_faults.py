"""Sound scripts of every form get no warning, and planted faults get one."""

from __future__ import annotations

import sys
from random import Random

import pytest
from support.planted_faults import FAULTS

from core.playbooks.checks import check_scripts


def said(path: str, content: bytes) -> list[str]:
    return [warning.as_text() for warning in check_scripts({path: content})]


# What real scripts hold and a lesser parser takes for a fault.
SOUND = {
    "extended globs": ("shell/a.sh", b"#!/bin/bash\nshopt -s extglob\nrm -- !(keep|*.log)\ncase $1 in +([0-9])) ;; esac\n"),
    "a marker with blanks": ("shell/a.sh", b"cat <<  'END OF FILE'\ndon't\nEND OF FILE\necho <<- \"  X\"\n\t  X\n"),
    "the same marker twice": ("shell/a.sh", b"cat <<EOF\na\nEOF\ncat <<EOF\nb\nEOF\n"),
    "a tabbed marker": ("shell/a.sh", b"if x; then\n\tcat <<-EOF\n\ta\n\tEOF\nfi\n"),
    "a here-string": ("shell/a.sh", b"read -r a <<<EOF\nread -r b <<<EOF\n"),
    "Latin-1 in a comment": ("shell/a.sh", b"#!/bin/sh\n# gr\xf6\xdfe\necho\n"),
    "process substitution": ("shell/a.sh", b"#!/bin/bash\nmapfile -t x < <(ls)\n[[ $x =~ ^(a|b)$ ]] && coproc y { cat; }\n"),
    "comments in ARM": ("arm/azuredeploy.json", b'{\n // where https://x.invalid\n "a": "http://b", /* c\n "*/ "resources": [] // d\n}\n'),
    "line breaks in ARM": ("arm/azuredeploy.json", b'{"v": "[concat(\'a\',\n\t\'b\')]", "resources": {"x": {}}}'),
    "a byte order mark in ARM": ("arm/azuredeploy.json", b'\xef\xbb\xbf{"resources": []}'),
    "short forms": ("cloudformation/a.yaml", b"Resources:\n  A:\n    Type: AWS::S3::Bucket\n    Properties: {A: !If [B, !Ref C, !Ref 'AWS::NoValue'], D: !GetAtt E.F}\n"),
    "a flow mapping": ("cloudformation/a.yaml", b"{Resources: {A: {Type: 'AWS::SQS::Queue'}}}\n"),
    "a loop": ("cloudformation/a.yaml", b"Transform: AWS::LanguageExtensions\nResources:\n  Fn::ForEach::Topics:\n    - N\n    - [a, b]\n    - T${N}: {Type: AWS::SNS::Topic}\n"),
    "SAM": ("cloudformation/a.yaml", b"Transform: AWS::Serverless-2016-10-31\nGlobals:\n  Function: {Timeout: 3}\nResources:\n  F: {Type: AWS::Serverless::Function}\n"),
    "an included part": ("cloudformation/a.yaml", b"AWSTemplateFormatVersion: 2010-09-09\nFn::Transform: {Name: AWS::Include}\n"),
    "a document mark at the end": ("cloudformation/a.yaml", b"---\nResources:\n  A: {Type: AWS::SQS::Queue}\n...\n---\n"),
    "JSON in a .template": ("cloudformation/a.template", b'{"Resources":\t{"A": {"Type": "AWS::SQS::Queue"}}}'),
    "Unicode names in HCL": ("terraform/a.tf", "locals {\n  größe = 1\n  名前 = local.größe\n}\n".encode()),
    "an indented end in HCL": ("terraform/a.tf", b'a = <<EOT\n  x ${b} %{ if c }y%{ endif }\n  EOT\nd = <<-E\n  "\n  E  \n'),
    "modern HCL": ("terraform/a.tf", b'a = {for x in y : x => z... if x != null}\nb = provider::aws::f("x")[*].id\nc = (d\n ? 1\n : 2)\n'),
    "Windows lines in HCL": ("terraform/a.tf", b'\xef\xbb\xbfa {\r\n  b = "c"\r\n}\r\n'),
    "a lock file": ("terraform/.terraform.lock.hcl", b'provider "x" {\n  hashes = ["h1:a"]\n}\n'),
    "Latin-1 in Python": ("python/a.py", b"# coding: latin-1\nx = '\xe9'\n"),
    "match": ("python/a.py", b"match x:\n  case {'a': [1, *_]}:\n    pass\n"),
}  # fmt: skip


@pytest.mark.parametrize("form", SOUND)
def test_a_sound_script_gets_no_warning(form: str) -> None:
    path, content = SOUND[form]
    assert said(path, content) == []


NEWER = {
    "type aliases": (b"type X[T] = list[T]\n", 1),
    "aliases in a line": (b"class X: type Y = int; type Z = str\n", 1),
    "defaults of type parameters": (b"class A[\n  T = int\n]: pass\ntype X[U = str] = A[U]\n", 1),
    "type parameters": (
        b"x = 1\ndef f[T: int](a: T) -> T:\n    return a\nclass A[\n  T\n]:\n  pass\n",
        2,
    ),
    "f-strings": (b"x = f'{a['b']}'\n", 1),
    "a backslash in one": (b"x = f\"{'\\n'.join(y)}\"\n", 1),
    "template strings": (b"x = t'hi {a}'\n", 1),
    "exceptions": (b"try:\n  pass\nexcept A, B:\n  pass\n", 3),
    "lazy imports": (b"lazy import os\n", 1),
    "unpacking": (b"x = [*y for y in z]\n", 1),
}
_RUNS_THEM_ALL = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="this Python has some of it"
)


@_RUNS_THEM_ALL
@pytest.mark.parametrize("form", NEWER)
def test_newer_python_is_not_checked_and_never_broken(form: str) -> None:
    content, line = NEWER[form]
    (warning,) = said("python/a.py", content)
    assert warning.startswith(f"python/a.py:{line}: not checked: ")
    assert "Python 3.1" in warning


@_RUNS_THEM_ALL
@pytest.mark.parametrize("form", [form for form in NEWER if form != "unpacking"])
def test_a_fault_beside_newer_python_is_still_found(form: str) -> None:
    content, _ = NEWER[form]
    line = content.count(b"\n") + 1
    (warning,) = said("python/a.py", content + b"print x\n")
    assert warning.startswith(f"python/a.py:{line}: a statement of Python 2")


@pytest.mark.parametrize("content", [b"x = f'{a b}'\n", b"try:\n  pass\nexcept A, e:\n  pass\n"])
def test_a_fault_that_looks_like_newer_python_is_a_fault(content: bytes) -> None:
    (warning,) = said("python/a.py", content)
    assert "not checked" not in warning


def test_what_a_template_engine_has_to_fill_in_is_not_checked() -> None:
    for path, content in (
        ("python/a.py", b"import {{ cookiecutter.name }}.x\n"),
        ("terraform/a.tf", b"a = {% if x %} 1 {% endif %}\n"),
        ("cloudformation/template.yaml", b"Resources:\n  {% for x in y %}\n  A: 1\n"),
    ):
        (warning,) = said(path, content)
        assert "placeholder" in warning


TEMPLATE = """\
AWSTemplateFormatVersion: '2010-09-09'
Parameters:
  Env:
    Type: String
    Default: dev
Resources:
  Topic:
    Type: AWS::SNS::Topic
    Properties:
      TopicName: !Sub 'alerts-${Env}'
      DisplayName: Alerts
      Tags:
        - Key: team
          Value: ops
Outputs:
  Name:
    Description: the topic
    Value: !Ref Topic
"""


def test_a_here_document_that_swallows_the_next_is_found() -> None:
    shell = b"cat <<EOF\na\ncat <<EOF\nb\nEOF\n"
    hcl = b"a = <<EOT\n  x\nb = <<-EOT\n  y\n  EOT\n"
    assert said("shell/a.sh", shell)[0].startswith("shell/a.sh:1: a here-document that runs on")
    assert said("terraform/a.tf", hcl)[0].startswith(
        "terraform/a.tf:1: a here-document that runs on"
    )


# What AWS's macros, SAM and other tools make of a template is theirs.
TAKEN = [
    b"Transform: Count\nResources:\n  A: {Type: AWS::SQS::Queue, Count: 3}\n",
    b"Transform: [AWS::Serverless-2016-10-31]\nResources:\n  A: {Type: AWS::Serverless::Api, Open: 1}\n",
    b"Resources:\n  A:\n    Type: !Rain::Module b.yaml\n    Overrides: {}\n",
    b"Resources:\n  A: {Type: AWS::SQS::Queue}\n  Fn::Transform: {Name: AWS::Include}\n",
    b"Resources: {A: {Type: 'Custom::Thing', Properties: {B: ! text}}}\n",
]


@pytest.mark.parametrize("content", TAKEN)
def test_what_macros_and_tools_take_is_not_refused(content: bytes) -> None:
    assert said("cloudformation/a.yaml", content) == []


@pytest.mark.parametrize(
    "content",
    [
        b'{"contentVersion": "1", "resources": [1, {"a": "b",},],}',
        b'{"$schema": "https://x/deploymentTemplate.json#", "parameters": {"a": {"value": 1}}}',
    ],
)
def test_what_azure_takes_is_not_refused(content: bytes) -> None:
    assert said("arm/a.json", content) == []


WRONG = {
    "a resource without Type": ("    Type: AWS::SNS::Topic\n    P", "    P", 7),
    "a misspelt section": ("Resources:", "Resource:", 6),
    "a section moved in": ("Outputs:\n  Name:", "  Outputs:\n    Name:", 16),
    "a resource moved out": ("  Topic:", "Topic:", 7),
    "a property moved out": ("      TopicName", "    TopicName", 11),
    "an output without Value": ("    Value: !Ref Topic\n", "", 16),
    "a tag that is none": ("!Sub", "!Subb", 10),
    "a key without its value": (
        "      TopicName: !Sub 'alerts-${Env}'\n",
        "      TopicName:\n",
        10,
    ),
    "a tab": ("    Properties", "\tProperties", 9),
    "a list for Resources": ("Resources:\n", "Resources: []\nMetadata:\n", 6),
    "a second document": ("Outputs:", "---\nOutputs:", 16),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_cloudformation_refuses_is_named_with_its_line(fault: str) -> None:
    old, new, line = WRONG[fault]
    assert old in TEMPLATE
    (warning,) = said("cloudformation/stack.yaml", TEMPLATE.replace(old, new).encode())
    assert warning.startswith(f"cloudformation/stack.yaml:{line}: ")


SCRIPTS = {
    "shell": """\
#!/usr/bin/env bash
set -euo pipefail
usage() {
  cat <<EOF
usage: $0 'name'
EOF
}
say() {
  cat <<EOF
say: $1
EOF
}
if [[ $# -eq 0 ]]; then
  usage
  exit 2
fi
for id in "$@"; do
  if ! aws ec2 describe-instances --instance-ids "$id" >/dev/null; then
    say "not there"
  fi
done
""",
    "cloudformation": TEMPLATE,
    "arm": """\
{
  "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
  "contentVersion": "1.0.0.0",
  "parameters": {"site": {"type": "string"}},
  "resources": [{"type": "Microsoft.Web/sites", "name": "[parameters('site')]"}]
}
""",
    "terraform": """\
variable "env" {
  type    = string
  default = "dev"
}

resource "aws_s3_bucket" "logs" {
  bucket = "logs"
  policy = <<EOT
{"Version": "2012-10-17"}
EOT
  tags = {
    env = var.env
  }
}
""",
    "python": """\
import os
import sys

NAMES = {"a": [1, 2], "b": (3,)}


def main(names):
    found = [name for name in names if os.path.exists(name)]
    missing = set(names) - set(found)
    print(len(found), sorted(missing))
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.exit(code)
""",
}
PATHS = {
    "shell": "a.sh",
    "cloudformation": "a.yaml",
    "arm": "a.json",
    "terraform": "a.tf",
    "python": "a.py",
}


@pytest.mark.parametrize(
    ("format_", "fault"), [(format_, fault) for format_ in FAULTS for fault in FAULTS[format_]]
)
def test_each_planted_fault_is_found(format_: str, fault: str) -> None:
    text = SCRIPTS[format_]
    path = f"{format_}/{PATHS[format_]}"
    assert said(path, text.encode()) == []
    for seed in range(5):
        broken = FAULTS[format_][fault](text, Random(seed))
        assert broken is not None
        assert broken != text
        found = said(path, broken.encode())
        assert any(":" in each and "not checked" not in each for each in found), broken
