from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pytest

from core.secrets import Degree, SecretFinding, Spot
from core.secrets.contents import BINARY
from core.secrets.scanner import MAX_BYTES, TOO_LARGE, scan_content

AWS_ID = (
    "AKIA" + "Q3EGZ7XN5LWTM2RB"
)  # drawn, never AWS's; in two halves for scanners of this project
AWS_KEY = "kq7Zc1WmR0vXh2/PsTgB" + "9uYd4LfEoNj6AiKx3SpM"
DOCUMENTED_ID = "AKIA" + "IOSFODNN7EXAMPLE"
DOCUMENTED_KEY = "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY"

SECRETS = [
    ("shell/a.sh", f"export AWS_ACCESS_KEY_ID={AWS_ID}"),
    ("shell/a.sh", f"aws_secret_access_key = {AWS_KEY}"),
    ("shell/a.sh", f"curl --user {AWS_ID}:{AWS_KEY} https://x.on.aws/"),
    ("shell/a.sh", "PASSWORD=correcthorse1"),
    ("shell/a.sh", "password='burrito-guacamole-extra-1dollar'"),
    ("shell/a.sh", "git clone https://bob:hunter2hunter2@example.com/x.git"),
    ("python/a.py", "client_secret = 'zH3q-8vTt21'"),
    ("python/a.py", '"-----BEGIN RSA PRIVATE' + ' KEY-----\\nMIIEowIBAAKCAQEAxY"'),
    ("terraform/a.tf", 'root_password    = "vK8!wq2Lr"'),
    ("terraform/a.tf", 'variable "db_password" {\n  type = string\n  default = "vK8!wq2Lr"\n}'),
    ("cloudformation/a.yaml", "      MasterUserPassword: Tr0ub4dor3x"),
    ("cloudformation/a.yaml", "  DBPassword:\n    Type: String\n    Default: Tr0ub4dor3x"),
    ("arm/a.json", '"adminPassword": "Ember71!tk-Vw"'),
    ("arm/a.json", '"adminPassword": {\n "type": "string",\n "defaultValue": "P@ss-1234"\n}'),
    ("parameters.json", '{"name": "db_password",\n "type": "string",\n "default": "P@ss-1234"}'),
    ("python/a.py", "key = 'AIza" + "SyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY'"),
    ("shell/a.sh", "azcopy cp x 'https://a.blob.core.windows.net/c?sv=1&sig=" + "aB3%2F" * 9 + "'"),
]
SAMPLES = [
    ("shell/a.sh", 'password="Pa$$w0rD-$randomIdentifier"'),
    ("terraform/a.tf", 'root_password    = "abcABC123!"'),
    ("cloudformation/a.yaml", "      MasterUserPassword: SuperSecret99"),
    ("arm/a.json", '"adminPassword": "P@ssw0rd-1234"'),
    ("shell/a.sh", "# Example of a password: vK8!wq2Lr"),
    ("shell/a.sh", "grep -q 'BEGIN RSA PRIVATE" + ' KEY\' "$1"'),
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
    ("shell/a.sh", f"export AWS_ACCESS_KEY_ID={DOCUMENTED_ID}"),
    ("shell/a.sh", f"aws_secret_access_key = {DOCUMENTED_KEY}"),
    ("shell/a.sh", "AdminPassword=ChangeYourAdminPassword1"),
    ("python/a.py", "aws_secret_access_key = 'HEAoMK2.../...ku8'"),
    ("python/a.py", '"""-----BEGIN RSA PRIVATE' + ' KEY-----\\nMIIE...\\n-----END"""'),
    ("arm/a.json", '"bypass": {\n "type": "string",\n "defaultValue": "AzureServices"\n}'),
]


def found_in(files: dict[str, bytes]) -> list[tuple[str, int]]:
    return [(path, spot.line) for path, text in files.items() for spot in scan_content(path, text)]


@pytest.mark.parametrize(("path", "text"), SECRETS)
def test_a_secret_is_found_at_its_line(path: str, text: str) -> None:
    found = scan_content(path, f"first line\n\n{text}\nlast line\n".encode())
    lines = text.split("\n")
    at = 0 if len(lines) == 1 else next(n for n, line in enumerate(lines) if "efault" in line)
    assert {spot.line for spot in found} == {3 + at}
    assert {spot.degree for spot in found} == {Degree.CERTAIN}


@pytest.mark.parametrize(("path", "text"), SAMPLES)
def test_what_samples_are_made_of_is_possible(path: str, text: str) -> None:
    assert [spot.degree for spot in scan_content(path, text.encode())] == [Degree.POSSIBLE]


@pytest.mark.parametrize(("path", "text"), HARMLESS)
def test_a_reference_to_a_secret_is_not_one(path: str, text: str) -> None:
    assert scan_content(path, text.encode()) == []


def test_a_finding_holds_neither_the_secret_nor_its_hash() -> None:
    assert set(Spot._fields) == {"line", "kind", "degree", "marked", "member"}
    assert {field.name for field in fields(SecretFinding)} == {
        "path", "line", "kind", "degree", "key", "accepted",
    }  # fmt: skip
    (spot,) = scan_content("shell/a.sh", b"PASSWORD=correcthorse1")
    assert "correcthorse1" not in repr(spot)


def test_a_line_with_an_allow_list_comment_is_found_and_marked() -> None:
    text = f"PASSWORD=correcthorse1  # pragma: allowlist secret\nkey={AWS_ID}\n"
    assert [(s.line, s.marked) for s in scan_content("shell/a.sh", text.encode())] == [
        (1, True),
        (2, False),
    ]


LINE = f"caf\xe9\nkey = {AWS_ID}\n"


@pytest.mark.parametrize(
    "content",
    [
        LINE.encode("utf-8"),
        LINE.encode("utf-8-sig"),
        LINE.encode("latin-1"),
        LINE.encode("utf-16"),
        LINE.encode("utf-16-le"),
        LINE.encode("utf-16-be"),
        b"\xfe\xff" + LINE.encode("utf-16-be"),
        LINE.encode("utf-32"),
        b"\xff\xfe" + LINE.encode("latin-1"),  # a mark that is not true
        b"\0" + LINE.encode("latin-1"),
        b"ok\0\0\0\n" + f"key = {AWS_ID}".encode(),
        f"caf\xe9\nkey = {AWS_ID[:9]}".encode("latin-1") + b"\0" + AWS_ID[9:].encode(),
    ],
    ids=str,
)
def test_text_is_read_in_any_encoding(content: bytes) -> None:
    found = scan_content("python/a.py", content)
    assert (2, "AWS Access Key", Degree.CERTAIN) in {spot[:3] for spot in found}


BYTES = bytes(range(256)) * 40


@pytest.mark.parametrize(
    "secret", [AWS_ID.encode(), AWS_ID.encode("utf-16-le"), AWS_ID.encode("utf-16-be")], ids=str
)
@pytest.mark.parametrize("at", [0, 1, 4001])
def test_a_binary_file_is_a_possible_finding_and_is_searched_as_bytes(
    secret: bytes, at: int
) -> None:
    content = BYTES[:at] + b"  " + secret + b" " + BYTES[at:]
    assert {spot[:3] for spot in scan_content("python/a.bin", content)} == {
        (0, BINARY, Degree.POSSIBLE),
        (0, "AWS Access Key", Degree.CERTAIN),
    }
    (only,) = scan_content("python/a.bin", BYTES)
    assert (only.line, only.kind, only.degree) == (0, BINARY, Degree.POSSIBLE)


def test_words_in_a_binary_file_are_possible_only() -> None:
    spots = scan_content("python/a.bin", BYTES + b"\npassword='correcthorse1'\n")
    assert {spot.degree for spot in spots} == {Degree.POSSIBLE}
    assert len(spots) == 2


def test_a_file_over_the_limit_is_reported_as_not_scanned() -> None:
    (spot,) = scan_content("arm/a.json", b" " * (MAX_BYTES + 1))
    assert (spot.kind, spot.line, spot.degree) == (TOO_LARGE, 0, Degree.CERTAIN)


def test_a_file_full_of_secrets_ends_with_a_word_that_there_are_more() -> None:
    found = scan_content("shell/a.sh", b"PASSWORD=correcthorse1\n" * 5000)
    assert len(found) == 101
    assert found[-1].kind.startswith("not scanned to its end")
    assert found[-1].degree is Degree.CERTAIN


@pytest.mark.parametrize(
    "content",
    [
        b"://:" * 62_500 + b"@",
        b"password" * 32_500,
        b"password='" * 25_000,
        b"eyJ" * 85_000 + b".",
        b"aws key " * 32_500,
        b"password = \n" * 21_250,
        b'"a' * 125_000,
        b"a" * (MAX_BYTES // 4),
        b"\xff\xfe" + b"p\0a\0s\0s\0w\0d\0=\0" * 17_500,
        b"\0\1" * 125_000,
        b"PK\5\6" * 62_500,
        b"PK\1\2" * 50_000 + b"PK\5\6" + b"\xff" * 18,
        b"\x1f\x8b" * 125_000,
        b"\n" * (MAX_BYTES // 4),
        b'{"a":' * 50_000,
        b'"\\' * 125_000,
        b"<<A\npassword" * 20_000,
        b"password: {" * 22_500,
        b"- - - password" * 17_500,
        b"${PASSWORD:-" * 20_000,
        b"mysql -p " * 27_500,
        b"curl -u " * 30_000,
        b"echo x | " * 27_500,
        b"QUFB" * 62_500,
        b"-----BEGIN PRIVATE KEY" * 11_250,
        b"/* password " * 20_000,
        b"token=" + b"{{" * 125_000,
        b"Q~" * 125_000,
        b"IDENTIFIED BY " * 17_500,
    ],
    ids=lambda content: repr(content[:10]),
)
@pytest.mark.parametrize("path", ["shell/a.sh", "arm/a.json"])
def test_hostile_text_takes_bounded_time(
    path: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.secrets.scanner.DEADLINE_SECONDS", 0.2)
    started = time.thread_time()  # the machine may have other things to do
    scan_content(path, content)
    assert time.thread_time() - started < 1.5


def test_a_secret_far_into_a_long_line_is_found() -> None:
    for at in range(400, 700, 13):
        text = "x" * at + f" {AWS_ID} " + "y" * 900
        assert scan_content("arm/a.json", text.encode()), at


def test_threads_find_what_one_finds() -> None:
    files = {f"{number}-{path}": text.encode() for number, (path, text) in enumerate(SECRETS)}
    alone = found_in(files)
    with ThreadPoolExecutor(8) as pool:
        assert all(found == alone for found in pool.map(found_in, [files] * 24))


CORPUS = Path(__file__).parents[5] / "shared/corpus"


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS.is_dir(), reason="no ../shared/corpus")
def test_the_sample_passwords_of_the_corpus_are_possible_and_its_placeholders_none() -> None:
    known = json.loads((CORPUS / "secrets_examples.json").read_text())
    found = Counter()
    for example in known["in_corpus"]:
        spots = scan_content(example["file"], example["text"].encode())
        found[max((spot.degree.value for spot in spots), default="none")] += 1
    # certain: a passphrase of four words, which no rule can tell from a real one
    assert found == {"possible": 14, "none": 5, "certain": 1}
    for example in known["elsewhere"]:
        assert scan_content("shell/a.sh", example["text"].encode()) == []


@pytest.mark.parametrize("kind", ["", "RSA ", "OPENSSH ", "ENCRYPTED "])
def test_a_private_key_is_one_also_under_a_password(kind):
    content = f"-----BEGIN {kind}PRIVATE KEY-----\nMIIE\n".encode()
    assert [spot.degree.value for spot in scan_content("shell/key.pem", content)] == ["certain"]
