from __future__ import annotations

import json
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pytest

from core.publishing.secrets import MAX_BYTES, TOO_LARGE, SecretFinding, scan

AWS_ID = "AKIA" + "IOSFODNN7EXAMPLE"  # AWS's own documentation example, in two halves for scanners
AWS_KEY = "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY"

SECRETS = [
    ("shell/a.sh", f"export AWS_ACCESS_KEY_ID={AWS_ID}"),
    ("shell/a.sh", f"aws_secret_access_key = {AWS_KEY}"),
    ("shell/a.sh", f"curl --user {AWS_ID}:{AWS_KEY} https://x.on.aws/"),
    ("shell/a.sh", "PASSWORD=correcthorse1"),
    ("shell/a.sh", 'password="Pa$$w0rD-$randomIdentifier"'),
    ("shell/a.sh", "git clone https://bob:hunter2hunter2@example.com/x.git"),
    ("python/a.py", "client_secret = 'zH3q-8vTt21'"),
    ("python/a.py", '"-----BEGIN RSA PRIVATE' + ' KEY-----"'),
    ("terraform/a.tf", 'root_password    = "abcABC123!"'),
    ("terraform/a.tf", 'variable "db_password" {\n  type = string\n  default = "abcABC123!"\n}'),
    ("cloudformation/a.yaml", "      MasterUserPassword: SuperSecret99"),
    ("cloudformation/a.yaml", "  DBPassword:\n    Type: String\n    Default: SuperSecret99"),
    ("arm/a.json", '"adminPassword": "P@ssw0rd-1234"'),
    ("arm/a.json", '"adminPassword": {\n "type": "string",\n "defaultValue": "P@ss-1234"\n}'),
    ("parameters.json", '{"name": "db_password",\n "type": "string",\n "default": "P@ss-1234"}'),
    ("python/a.py", "key = 'AIza" + "SyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY'"),
    ("shell/a.sh", "azcopy cp x 'https://a.blob.core.windows.net/c?sv=1&sig=" + "aB3%2F" * 9 + "'"),
]
HARMLESS = [
    ("shell/a.sh", 'PASSWORD="$(openssl rand -base64 24)"'),
    ("shell/a.sh", "export DB_PASSWORD=$1"),
    ("shell/a.sh", 'git clone "https://user:${TOKEN}@example.com/x.git"'),
    ("shell/a.sh", 'aws secretsmanager get-secret-value --secret-id "$SECRET_ID"'),
    ("shell/a.sh", "az vm create --admin-password <password>"),
    ("python/a.py", "password = os.environ['DB_PASSWORD']"),
    ("python/a.py", "secret_name = 'prod/db/main'"),
    ("terraform/a.tf", "password = var.db_password"),
    ("terraform/a.tf", 'kms_key_id = "alias/aws/rds"'),
    ("cloudformation/a.yaml", "ApiKeyRequired: true"),
    ("cloudformation/a.yaml", "Action: secretsmanager:GetSecretValue"),
    ("cloudformation/a.yaml", "MinimumPasswordLength: 14"),
    (
        "cloudformation/a.yaml",
        "Password: !Sub '{{resolve:secretsmanager:${S}:SecretString:password}}'",
    ),
    ("arm/a.json", '"adminPassword": "[parameters(\'adminPassword\')]"'),
    ("arm/a.json", '"disablePasswordAuthentication": true'),
    ("arm/a.json", '"Password": "PrivateSettingsRef:AdminPassword"'),
    ("arm/a.json", '"bypass": {\n "type": "string",\n "defaultValue": "AzureServices"\n}'),
    ("shell/a.sh", "PASSWORD=correcthorse1  # pragma: allowlist secret"),
]


@pytest.mark.parametrize(("path", "text"), SECRETS)
def test_a_secret_is_found_at_its_line(path: str, text: str) -> None:
    found = scan({path: f"first line\n\n{text}\nlast line\n".encode()})
    assert {finding.path for finding in found} == {path}
    lines = text.split("\n")
    at = 0 if len(lines) == 1 else next(n for n, line in enumerate(lines) if "efault" in line)
    assert {finding.line for finding in found} == {3 + at}


@pytest.mark.parametrize(("path", "text"), HARMLESS)
def test_a_reference_to_a_secret_is_not_one(path: str, text: str) -> None:
    assert scan({path: text.encode()}) == []


def test_a_finding_holds_neither_the_secret_nor_its_hash() -> None:
    assert [field.name for field in fields(SecretFinding)] == ["path", "line", "kind"]
    (finding,) = scan({"shell/a.sh": b"PASSWORD=correcthorse1"})
    assert "correcthorse1" not in repr(finding)
    assert finding.as_text() == "shell/a.sh:1: Secret Keyword"


@pytest.mark.parametrize(
    "content", [b"\0PASSWORD=correcthorse1", b"\xff\xfePASSWORD=correcthorse1"]
)
def test_binary_content_is_passed_over(content: bytes) -> None:
    assert scan({"python/lambda.zip": content}) == []


def test_a_file_over_the_limit_is_reported_as_not_scanned() -> None:
    (finding,) = scan({"arm/a.json": b" " * (MAX_BYTES + 1)})
    assert (finding.kind, finding.line) == (TOO_LARGE, 0)


def test_a_file_full_of_secrets_ends_with_a_word_that_there_are_more() -> None:
    found = scan({"shell/a.sh": b"PASSWORD=correcthorse1\n" * 5000})
    assert len(found) == 101
    assert found[-1].kind.startswith("not scanned to its end")


@pytest.mark.parametrize(
    "content",
    [
        b"://:" * 250_000 + b"@",
        b"password" * 130_000,
        b"password='" * 100_000,
        b"eyJ" * 340_000 + b".",
        b"aws key " * 130_000,
        b"password = \n" * 85_000,
        b'"a' * 500_000,
        b"a" * MAX_BYTES,
        b"\n" * MAX_BYTES,
    ],
    ids=lambda content: content[:10].decode(),
)
@pytest.mark.parametrize("path", ["shell/a.sh", "arm/a.json"])
def test_hostile_text_takes_bounded_time(path: str, content: bytes) -> None:
    started = time.monotonic()
    scan({path: content})
    assert time.monotonic() - started < 10


def test_a_secret_far_into_a_long_line_is_found() -> None:
    for at in range(400, 700, 13):
        text = "x" * at + f" {AWS_ID} " + "y" * 900
        assert scan({"arm/a.json": text.encode()}), at


def test_threads_find_what_one_finds() -> None:
    files = {f"{number}-{path}": text.encode() for number, (path, text) in enumerate(SECRETS)}
    alone = scan(files)
    with ThreadPoolExecutor(8) as pool:
        assert all(found == alone for found in pool.map(scan, [files] * 24))


CORPUS = Path(__file__).parents[5] / "shared/corpus"


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS.is_dir(), reason="no ../shared/corpus")
def test_the_known_secret_lines_of_the_corpus_are_found() -> None:
    known = json.loads((CORPUS / "secrets_examples.json").read_text())
    wanted = {
        (f"{example['playbook_id']}/{example['file']}", example["line"])
        for example in known["in_corpus"]
    }
    paths = {path for path, _ in wanted}
    files = {}
    with tarfile.open(CORPUS / "corpus.tar.gz") as archive:
        for member in archive:
            path = member.name.removeprefix("playbooks/")
            content = archive.extractfile(member)
            if path in paths and content is not None:
                files[path] = content.read()
    assert wanted <= {(finding.path, finding.line) for finding in scan(files)}
    for example in known["elsewhere"]:
        assert scan({"shell/a.sh": example["text"].encode()})
