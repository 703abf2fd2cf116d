"""Where secrets stand: tokens, command lines, documents whose names and values are apart, encodings in encodings."""

from __future__ import annotations

import base64
import json

import pytest

from core.secrets import Degree
from core.secrets.scanner import scan_content

PW = "kR7w" + "Zq2vLm9x"  # drawn
HEX = "9f3c61d07be8a2451c" + "d07b3e5a96f81420be77"
GITHUB = "gh" + "p_" + "kR7wZq2vLm9xB4tYc1NsDf8HgJ5pQa3EuVo6"
AWS_ID = "AKIA" + "Q3EGZ7XN5LWTM2RB"


def certain(text: str, path: str = "shell/a.sh") -> list[int]:
    found = scan_content(path, text.encode())
    return sorted({spot.line for spot in found if spot.degree is Degree.CERTAIN})


def kinds(text: str, path: str = "shell/a.sh") -> set[tuple[str, str]]:
    return {(spot.kind, spot.degree.value) for spot in scan_content(path, text.encode())}


class TestTokens:
    @pytest.mark.parametrize(
        "text",
        [
            f"x={GITHUB}",
            f'{{"t": "first\\n{GITHUB}\\nlast"}}',  # escaped line breaks around it
            f"https://a.example.net/?t=%20{GITHUB}&x=1",
            f"<t>{GITHUB}</t>",
        ],
    )
    def test_one_is_found_whatever_is_around_it(self, text: str) -> None:
        assert ("GitHub Token", "certain") in kinds(text)

    @pytest.mark.parametrize(
        "text",
        [
            f"prefix{GITHUB}",
            f"{GITHUB[:30]} {GITHUB[30:]}",
            "gh" + "p_" + "x" * 36,
            "gh" + "p_" + "0" * 36,
            "AKIA" + "X" * 16,
            "sk" + "_live_" + "xxxxxxxxxxxxxxxxxxxxxxxx",
            "npm" + "_packages_that_are_installed_globally_x",
            "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX",
        ],
    )
    def test_what_is_no_whole_one_or_a_stub_is_none(self, text: str) -> None:
        assert kinds(text) == set()

    def test_a_key_is_one_with_its_body_possible_without_none_when_elided(self) -> None:
        head = "-----BEGIN OPENSSH PRIVATE" + " KEY-----"
        assert kinds(f"{head}\nb3BlbnNzaC1rZXktdjEAAAAA\n") == {("Private Key", "certain")}
        assert kinds(f'"{head}\\nb3BlbnNzaC1rZXktdjEAAAAA\\n"') == {("Private Key", "certain")}
        assert kinds(f"grep -c '{head}' \"$1\"") == {("Private Key", "possible")}
        assert kinds(f"{head}\n...\n-----END") == set()
        assert kinds(f"{head}\n<your key>\n") == set()

    @pytest.mark.parametrize("user", ["", "app", "a%40b"])
    def test_a_url_with_a_password(self, user: str) -> None:
        assert certain(f"U=redis://{user}:{PW}@cache.example.net/0") == [1]
        assert certain(f"U=https://{user}:$PASSWORD@x.example.net") == []
        assert certain(f"U=https://{user}:password@x.example.net") == []


class TestCommandLines:
    @pytest.mark.parametrize(
        "line",
        [
            f"/usr/bin/mysql -uroot -p{PW} x",
            f"if ! mysqldump -p'{PW}' db; then exit 1; fi",
            f"x=$(curl -su me:{PW} https://a.example.net)",
            f"sudo -u app sshpass -p {PW} ssh h",
            f"az login \\\n  --service-principal \\\n  -p {PW}",
            f"['redis-cli', '-a', '{PW}']",
            f"snmpwalk -v3 -A {PW} -X {PW}1 h",
            f"rabbitmqctl change_password app {PW}",
            f"net user svc {PW} /add",
            f"sqlplus scott/{PW}@orcl @x.sql",
            f"wpa_passphrase home {PW}",
            f'spawn ssh h\nexpect "assword:"\nsend "{PW}\\r"',
            f"cmdkey /add:h /user:u /pass:{PW}",
            f"vault login {PW}",
            f"openssl enc -aes-256-cbc -k {PW} -in a",
            f"docker login <<< '{PW}' --password-stdin || kinit u <<< {PW}",
        ],
    )  # fmt: skip
    def test_a_flag_that_does_not_say_so(self, line: str) -> None:
        at = next(n for n, text in enumerate(line.split("\n"), start=1) if PW in text)
        assert certain(line) == [at]

    @pytest.mark.parametrize(
        "line",
        [
            "mysql -u root -p shop",
            "mkdir -p /srv/data1 && ssh -p 2222 host1 && nmap -p 1-1024 h",
            "curl -u :$TOKEN https://a.example.net; curl -u user: https://a",
            "curl -F 'file=@a1b2c3d4.zip' https://a.example.net",
            "az group create -l westeurope1 -n rg1234567",
            "docker run -p 8080:80 nginx:1.25",
            "az vm create --plan-publisher x1y2z3w4 -p plan1234",
            "unzip -p archive1234.zip file",
            "openssl rsa -passin file:/run/secrets/k1234567 -in k",
            "openssl req -passout env:KEY_PASS1 -new",
            "gpg --passphrase-file /run/secrets/g1234567 -d x",
            "kubectl create secret generic s --from-literal=region=eu-west-1",
            "sqlcmd -P $SQL_PW1 -U sa; sshpass -f /run/secrets/a1b2c3",
            "# mysql -p<password>, curl -u user:<api-token-1>",
            "tar -p -xf a1b2c3d4e5.tar; grep -a Abc12345 file",
        ],
    )
    def test_the_same_letters_elsewhere_say_nothing(self, line: str) -> None:
        assert kinds(line) == set()


class TestDocuments:
    @pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
    def test_arm_parameters_in_one_line(self, separators: tuple[str, str]) -> None:
        body = {"parameters": {"vmName": {"value": "x"}, "adminPassword": {"value": PW}}}
        text = json.dumps(body, separators=separators)
        assert certain(text, "arm/azuredeploy.parameters.json") == [1]
        # whatever it stands in
        assert certain(f"az deployment create --parameters '{text}'") == [1]
        assert certain(f'B = """{text}"""\n', "python/a.py") == [1]

    def test_a_parameter_s_type_says_it_whatever_its_name(self) -> None:
        arm = '{"parameters": {"pin": {"type": "%s",\n"defaultValue": "' + PW + '"}}}'
        assert certain(arm % "securestring", "arm/azuredeploy.json") == [2]
        assert certain(arm % "string", "arm/azuredeploy.json") == []
        cfn = f"Parameters:\n  Pin:\n    Type: String\n    NoEcho: %s\n    Default: {PW}\n"
        assert certain(cfn % "true", "cloudformation/t.yaml") == [5]
        assert certain(cfn % "false", "cloudformation/t.yaml") == []
        tf = f'variable "pin" {{\n  sensitive = %s\n  default = "{PW}"\n}}\n'
        assert certain(tf % "true", "terraform/v.tf") == [3]
        assert certain(tf % "false", "terraform/v.tf") == []

    @pytest.mark.parametrize(
        ("path", "text", "line"),
        [
            ("a.yaml", f"env:\n- value: {PW}\n  name: DB_PASSWORD\n", 2),
            ("a.yaml", f"{{{{ if .x }}}}\nenv:\n- name: DB_PASSWORD\n  value: {PW}\n", 4),  # a template
            ("a.sh", f"cat <<EOF | kubectl apply -f -\nenv:\n- name: DB_PASSWORD\n  value: {PW}\nEOF\n", 4),
            ("a.yaml", f"apiVersion: v1\nkind: Secret\nstringData:\n  other: {PW}\n", 4),
            ("a.yaml", f"a: 1\n---\nspec: {{env: [{{name: API_SECRET, value: {PW}}}]}}\n", 3),
            ("a.json", f'[{{"ParameterKey": "Env",\n"ParameterValue": "x"}},\n{{"ParameterKey": "DbPassword",\n"ParameterValue": "{PW}"}}]', 4),
            ("a.json", f'{{ // a comment\n"password": "{PW}", }}', 2),
            ("a.json", f'{{"cs": "Server=x;Password\\u003d{PW};"}}', 1),
            ("a.tf", f'resource "azurerm_key_vault_secret" "s" {{\n  name = "x"\n  value = "{PW}"\n}}', 3),
            ("a.tf", f'locals {{\n  db = {{ host = "x", password = "{PW}" }}\n}}', 2),
            ("metadata.json", json.dumps({"description": f"Runs with password={PW}"}), 1),
        ],
    )  # fmt: skip
    def test_name_and_value_apart(self, path: str, text: str, line: int) -> None:
        assert certain(text, path) == [line]

    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ("a.tf", 'variable "db_password" {\n  default = var.other\n  type = string\n}'),
            ("a.tf", 'output "password" {\n  value = module.db.password1\n}'),
            ("a.yaml", "DBPassword:\n  Type: String\n  Default: !Ref Other1\n"),
            ("a.yaml", "- name: DB_PASSWORD\n  valueFrom: {secretKeyRef: {name: db1, key: p}}\n"),
            ("a.json", '{"adminPassword": {"reference": {"keyVault": {"id": "x1"}, "secretName": "n1"}}}'),
            ("a.json", '{"adminPassword": {"value": "[parameters(\'p1\')]"}}'),
            ("a.json", '{"password": {"value": null}, "token": {"value": true}}'),
        ],
    )  # fmt: skip
    def test_a_reference_in_its_place_is_none(self, path: str, text: str) -> None:
        assert kinds(text, path) == set()

    @pytest.mark.parametrize(
        "text",
        ["[" * 20_000, '{"password":' * 2_000, "- " * 5000 + "password: x", "a: &a [*a, *a]\npassword: x",
         "x: !!python/object/apply:os.system ['id']\npassword: y"],
        ids=lambda text: text[:12],
    )  # fmt: skip
    @pytest.mark.parametrize("path", ["a.json", "a.yaml", "a.tf"])
    def test_a_hostile_document_is_read_without_harm(self, path: str, text: str) -> None:
        scan_content(path, text.encode())


class TestEncodings:
    def test_base64_of_a_script_and_of_powershell(self) -> None:
        script = base64.b64encode(f"#!/bin/sh\nexport DB_PASSWORD={PW}\n".encode()).decode()
        assert certain(f"first\nUserData: {script}\n", "a.yaml") == [2]
        command = base64.b64encode(f"$password = '{PW}'; run it".encode("utf-16-le")).decode()
        assert certain(f"powershell -enc {command}", "a.ps1") == [1]
        assert certain(base64.b64encode(b"#!/bin/sh\necho hello, nothing to see\n").decode()) == []

    def test_basic_credentials_are_read(self) -> None:
        basic = base64.b64encode(f"svc:{PW}".encode()).decode()
        assert certain(f"curl -H 'Authorization: Basic {basic}' https://a.example.net") == [1]
        assert certain(f'{{"auths": {{"r": {{"auth": "{basic}"}}}}}}', "config.json") == [1]
        placeholder = base64.b64encode(b"user:password").decode()
        assert certain(f"curl -H 'Authorization: Basic {placeholder}' https://a.example.net") == []

    def test_a_letter_that_grows_when_it_is_made_small_moves_no_line(self) -> None:
        assert certain("İİİİ\n" * 40 + f"PASSWORD={PW}\n") == [41]

    def test_a_secret_beyond_a_window_of_the_search(self) -> None:
        for at in (65_530, 65_536, 131_070):
            assert certain("x" * at + f" {AWS_ID} y") == [1], at
