"""What `secrets.py` measures on: files with made-up secrets in the forms people use, and harmless ones.

Every value is drawn from the seed when this runs; nothing here is or was a secret. A form is a name,
a path and a text; in a true one `⟦…⟧` marks the secret, whose line is the one to be found. They are
written after what the vendors document, apart from the rules of the scanner.
"""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
WORDS = [
    "amber",
    "basket",
    "cobalt",
    "ditch",
    "ember",
    "fjord",
    "gravel",
    "hollow",
    "ivory",
    "jungle",
    "kettle",
    "lantern",
]


class Case(NamedTuple):
    """A file; ``line`` is where its secret stands, 0 where it has none."""

    form: str
    path: str
    content: bytes
    line: int


class Draw:
    """Values of all kinds, from one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def of(self, count: int, chars: str = ALNUM) -> str:
        return "".join(self.rng.choice(chars) for _ in range(count))

    def b64(self, count: int) -> str:
        return base64.b64encode(self.rng.randbytes(count)).decode()

    def uuid(self) -> str:
        return "-".join(self.of(count, HEX) for count in (8, 4, 4, 4, 12))

    def password(self) -> str:
        """As managers, people and generators of clouds write them."""
        kind = self.rng.randrange(6)
        if kind == 0:
            return self.of(self.rng.randrange(12, 25))
        if kind == 1:
            return self.of(6) + self.rng.choice("!#%+-_.") + self.of(8) + self.rng.choice("!%.")
        if kind == 2:
            words = self.rng.sample(WORDS, 3)
            return f"{words[0].title()}-{words[1]}-{words[2]}{self.rng.randrange(10, 9999)}"
        if kind == 3:
            return self.of(32, HEX)
        if kind == 4:
            word = self.rng.choice(WORDS).title()
            return f"{word}{self.of(2, string.digits)}{self.rng.choice('!.#')}{self.of(4)}"
        return self.of(4, string.ascii_lowercase) + self.of(4, string.digits) + self.of(4)

    def pem(self, kind: str) -> str:
        body = self.b64(480)
        lines = [body[at : at + 64] for at in range(0, len(body), 64)]
        return "\n".join(
            [f"-----BEGIN {kind}PRIVATE KEY-----", *lines, f"-----END {kind}PRIVATE KEY-----"]
        )

    def jwt(self) -> str:
        def part(body: object) -> str:
            return base64.urlsafe_b64encode(json.dumps(body).encode()).decode().rstrip("=")

        head = part({"alg": "HS256", "typ": "JWT"})
        return (
            f"{head}.{part({'sub': self.of(10), 'iat': 1_700_000_000})}.{self.of(43, ALNUM + '-_')}"
        )


_LINES = Path(__file__).parents[1] / "data" / "secret_lines"
Builder = Callable[[Draw], str]


def _marked(form: str, path: str, text: str, encoding: str = "utf-8") -> Case:
    line = text[: text.index("⟦")].count("\n") + 1 if "⟦" in text else 0
    return Case(form, path, text.replace("⟦", "").replace("⟧", "").encode(encoding), line)


def true_cases(seed: int) -> Iterator[Case]:
    """One file of each form, with one secret in it."""
    draw = Draw(seed)
    for form, path, build in _TRUE:
        yield _marked(form, path, build(draw))
    for path, line in _lines("true"):
        yield _marked(f"{path} {line}"[:60], path, _fill(line, draw))
    yield from _encoded(draw)


def harmless_cases(seed: int) -> Iterator[Case]:
    """One file of each form that only looks like it has a secret."""
    draw = Draw(seed)
    lines = ((f"{path} {line}"[:60], path, line) for path, line in _lines("harmless"))
    for form, path, text in (*_HARMLESS, *lines):
        yield Case(form, path, _fill(text, draw).replace("⟦", "").replace("⟧", "").encode(), 0)


def _lines(name: str) -> Iterator[tuple[str, str]]:
    """(path, line) of the one-line forms in ``tests/data/secret_lines``."""
    for row in (_LINES / f"{name}.txt").read_text("utf-8").splitlines():
        path, line = row.split("\t", 1)
        yield path, line


def _sh(line: str) -> Builder:
    return lambda draw: "#!/usr/bin/env bash\nset -eu\n" + _fill(line, draw) + "\necho done\n"


def _text(text: str) -> Builder:
    return lambda draw: _fill(text, draw)


def _fill(text: str, draw: Draw) -> str:
    for sign, value in (
        ("⟪p⟫", draw.password), ("⟪a⟫", lambda: draw.of(20)), ("⟪b⟫", lambda: draw.b64(32)),
        ("⟪h⟫", lambda: draw.of(40, HEX)), ("⟪u⟫", draw.uuid), ("⟪j⟫", draw.jwt),
        ("⟪t⟫", lambda: draw.of(24)), ("⟪s⟫", lambda: draw.of(40)), ("⟪k⟫", lambda: draw.b64(64)),
        ("⟪q⟫", lambda: f"{draw.of(3)}8{'Q'}~{draw.of(34)}"), ("⟪d⟫", lambda: draw.of(64, HEX)),
        ("⟪i⟫", lambda: "AK" + "IA" + draw.of(16, string.ascii_uppercase + "234567")),
        ("⟪n⟫", lambda: draw.of(10, string.digits)), ("⟪⟫", str),
    ):  # fmt: skip
        while sign in text:
            text = text.replace(sign, f"⟦{value()}⟧", 1)
    return text


def _token(head: str, count: int, chars: str = ALNUM, tail: str = "") -> Builder:
    def build(draw: Draw) -> str:
        return f"#!/bin/sh\ncurl -d '{{\"t\": 1}}' https://api.example.net/x?v=⟦{head}{draw.of(count, chars)}{tail}⟧\n"

    return build


def _encoded(draw: Draw) -> Iterator[Case]:
    line = f"first\nné café\ndb_password = '⟦{draw.password()}⟧'\n"
    for encoding in (
        "utf-8-sig",
        "utf-16",
        "utf-16-le",
        "utf-16-be",
        "utf-32",
        "latin-1",
        "cp1252",
    ):
        yield _marked(f"encoding {encoding}", "conf.ini", line, encoding)
    crlf = f"[db]\r\nuser=x\r\npassword=⟦{draw.password()}⟧\r\n"
    yield _marked("line ends of Windows", "conf.ini", crlf)
    script = f"export DB_PASSWORD={draw.password()}\nrun\n"
    wrapped = base64.b64encode(script.encode()).decode()
    yield _marked("base64 of a script", "main.sh", f"#!/bin/sh\nU=⟦{wrapped}⟧\n")
    command = base64.b64encode(
        f"$p = '{draw.password()}'; $password = '{draw.password()}'".encode("utf-16-le")
    )
    yield _marked(
        "PowerShell -EncodedCommand", "run.ps1", f"powershell -enc ⟦{command.decode()}⟧\n"
    )


def _arm(draw: Draw, *, minified: bool) -> str:
    body = {
        "$schema": "x",
        "parameters": {
            "location": {"value": "westeurope"},
            "sqlAdminPassword": {"value": f"⟦{draw.password()}⟧"},
        },
    }
    return json.dumps(
        body, ensure_ascii=False, **({"separators": (",", ":")} if minified else {"indent": 2})
    )  # type: ignore[arg-type]


_TRUE: tuple[tuple[str, str, Builder], ...] = (
    # command lines
    ("mysqldump -p", "a.sh", _sh("mysqldump --single-transaction -h db -u backup -p⟪a⟫ shop | gzip > /tmp/x.gz")),
    ("mysql quoted", "a.sh", _sh("mysql -h \"$HOST\" -uroot -p'⟪a⟫' < schema.sql")),
    ("mysql --password", "a.sh", _sh("mysqladmin --user=root --password=⟪p⟫ status")),
    ("curl --user", "a.sh", _sh("curl -sS --user deploy:⟪p⟫ -T app.tgz https://files.example.net/")),
    ("curl -u quoted", "a.sh", _sh("curl -X POST -u 'ci:⟪p⟫' https://jenkins.example.net/job/x/build")),
    ("curl header", "a.sh", _sh('curl -s -H "X-Api-Key: ⟪a⟫" https://api.example.net/v2/items')),
    ("curl bearer", "a.sh", _sh("curl -sH 'Authorization: Bearer ⟪j⟫' https://api.example.net/me")),
    ("curl private-token", "a.sh", _sh('curl --header "PRIVATE-TOKEN: ⟪a⟫" https://git.example.net/api/v4/projects')),
    ("curl json", "a.sh", _sh("curl -d '{\"username\":\"ops\",\"password\":\"⟪p⟫\"}' https://api.example.net/login")),
    ("curl escaped json", "a.sh", _sh('curl -d "{\\"user\\":\\"ops\\",\\"password\\":\\"⟪p⟫\\"}" https://api.example.net/login')),
    ("wget", "a.sh", _sh("wget --user=robot --password='⟪p⟫' https://dl.example.net/pkg.rpm")),
    ("sshpass attached", "a.sh", _sh("sshpass -p⟪a⟫ scp dump.sql ops@10.1.2.3:/srv/")),
    ("docker login", "a.sh", _sh("docker login registry.example.net --username ci --password ⟪p⟫")),
    ("podman login", "a.sh", _sh("podman login -u ci -p ⟪a⟫ quay.example.net")),
    ("az sql", "a.sh", _sh("az sql server create -n srv -g rg -l westeurope --admin-user sa1 --admin-password '⟪p⟫'")),
    ("az continued", "a.sh", _sh("az vm create --resource-group rg --name vm1 \\\n  --admin-username azureadmin \\\n  --admin-password ⟪p⟫ \\\n  --image Ubuntu2204")),
    ("az keyvault set", "a.sh", _sh("az keyvault secret set --vault-name kv1 --name db --value '⟪p⟫'")),
    ("az account key", "a.sh", _sh("az storage blob upload -f x -c c -n x --account-name st1 --account-key ⟪b⟫")),
    ("aws rds", "a.sh", _sh("aws rds create-db-instance --db-instance-identifier d1 --master-username adm --master-user-password ⟪p⟫")),
    ("aws secret", "a.sh", _sh("aws secretsmanager create-secret --name prod/db --secret-string '⟪p⟫'")),
    ("aws ssm", "a.sh", _sh("aws ssm put-parameter --name /prod/db --type SecureString --value '⟪p⟫' --overwrite")),
    ("aws configure", "a.sh", _sh("aws configure set aws_secret_access_key ⟪b⟫")),
    ("gcloud sql", "a.sh", _sh("gcloud sql users set-password root --host=% --instance=i1 --password=⟪p⟫")),
    ("kubectl literal", "a.sh", _sh("kubectl create secret generic app --from-literal=username=app --from-literal=api-token=⟪a⟫")),
    ("kubectl registry", "a.sh", _sh("kubectl create secret docker-registry reg --docker-username=ci --docker-password=⟪p⟫")),
    ("helm --set", "a.sh", _sh("helm upgrade --install db bitnami/postgresql --set auth.postgresPassword=⟪p⟫")),
    ("redis-cli", "a.sh", _sh("redis-cli -h cache -p 6379 -a '⟪p⟫' FLUSHALL")),
    ("ldapsearch", "a.sh", _sh("ldapsearch -x -D cn=admin,dc=example,dc=net -w ⟪a⟫ -b dc=example,dc=net")),
    ("sqlcmd", "a.sh", _sh("sqlcmd -S tcp:db.example.net -U sa -P '⟪p⟫' -Q 'select 1'")),
    ("mongosh", "a.sh", _sh("mongosh --host m1 -u root -p ⟪a⟫ --authenticationDatabase admin")),
    ("openssl passin", "a.sh", _sh("openssl pkcs12 -in a.p12 -passin pass:⟪a⟫ -nodes -out a.pem")),
    ("keytool", "a.sh", _sh("keytool -import -alias ca -file ca.crt -keystore t.jks -storepass ⟪a⟫ -noprompt")),
    ("gpg", "a.sh", _sh("gpg --batch --passphrase '⟪p⟫' -d backup.gpg > backup.tar")),
    ("zip", "a.sh", _sh("zip -q -P ⟪a⟫ out.zip report.csv")),
    ("7z", "a.sh", _sh("7z a -p⟪a⟫ -mhe=on out.7z /srv/data")),
    ("smbclient", "a.sh", _sh("smbclient //nas/share -U 'backup%⟪a⟫' -c 'put x'")),
    ("chpasswd", "a.sh", _sh("echo 'deploy:⟪a⟫' | sudo chpasswd")),
    ("password-stdin", "a.sh", _sh("echo '⟪p⟫' | docker login --username ci --password-stdin")),
    ("sudo -S", "a.sh", _sh('echo "⟪p⟫" | sudo -S systemctl restart app')),
    ("htpasswd", "a.sh", _sh("htpasswd -bc /etc/nginx/.htpasswd admin ⟪a⟫")),
    ("rabbitmqctl", "a.sh", _sh("rabbitmqctl add_user app ⟪a⟫")),
    ("vault kv put", "a.sh", _sh("vault kv put secret/app password=⟪p⟫")),
    ("oc token", "a.sh", _sh("oc login https://api.example.net:6443 --token=sha256~⟪a⟫⟪a⟫abc")),
    ("git url", "a.sh", _sh("git clone https://x-access-token:⟪a⟫@git.example.net/org/repo.git")),
    ("psql url", "a.sh", _sh("psql 'postgresql://app:⟪a⟫@db.example.net:5432/app?sslmode=require' -c 'select 1'")),
    ("amqp url", "a.sh", _sh("export BROKER=amqp://app:⟪a⟫@mq.example.net:5672/v")),
    ("redis url", "a.sh", _sh("REDIS_URL=redis://:⟪a⟫@cache.example.net:6379/0 ./run")),
    ("proxy url", "a.sh", _sh("export https_proxy=http://svc:⟪a⟫@proxy.example.net:3128")),
    ("PGPASSWORD", "a.sh", _sh("PGPASSWORD='⟪p⟫' pg_dump -h db -U app app > app.sql")),
    ("MYSQL_PWD", "a.sh", _sh("export MYSQL_PWD=⟪p⟫")),
    ("default of a variable", "a.sh", _sh('DB_PASSWORD="${DB_PASSWORD:-⟪p⟫}"')),
    ("local variable", "a.sh", _sh("local admin_pass='⟪p⟫'")),
    ("here document", "a.sh", _sh("cat > /etc/app.conf <<EOF\n[db]\npassword = ⟪p⟫\nEOF")),
    ("netrc", "a.sh", _sh("cat > ~/.netrc <<EOF\nmachine api.example.net\n  login ops\n  password ⟪a⟫\nEOF")),
    ("pgpass", "a.sh", _sh("echo 'db.example.net:5432:app:app:⟪a⟫' > ~/.pgpass")),
    ("sql create user", "a.sh", _sh("mysql -e \"CREATE USER 'app'@'%' IDENTIFIED BY '⟪a⟫'\"")),
    ("sql alter role", "b.sql", _text("-- roles\nALTER ROLE app WITH LOGIN PASSWORD '⟪a⟫';\n")),
    ("sql server", "b.sql", _text("CREATE LOGIN app WITH PASSWORD = N'⟪p⟫';\n")),
    ("comment", "a.sh", _sh("# TODO remove: password=⟪p⟫")),
    ("storage SAS", "a.sh", _sh("azcopy cp x 'https://st1.blob.core.windows.net/c?sv=2022-11-02&se=2030-01-01&sp=rw&sig=⟪b⟫'")),
    ("service bus", "a.sh", _sh("CS='Endpoint=sb://ns1.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=⟪b⟫'")),
    ("odbc", "a.sh", _sh('isql -k "DRIVER={ODBC Driver 18};SERVER=db;UID=sa;PWD=⟪a⟫;Encrypt=yes"')),
    ("jdbc", "app.properties", _text("url=jdbc:sqlserver://db;user=sa;password=⟪a⟫;encrypt=true\n")),
    # programs
    ("python assignment", "m.py", _text('import x\n\nADMIN_PASSWORD = "⟪p⟫"\n')),
    ("python dict", "m.py", _text("cfg = {\n    'host': 'db',\n    'password': '⟪p⟫',\n}\n")),
    ("python keyword", "m.py", _text("conn = psycopg2.connect(host='db', user='app', password='⟪p⟫')\n")),
    ("python environ", "m.py", _text("import os\nos.environ['API_TOKEN'] = '⟪a⟫'\n")),
    ("python environ.get", "m.py", _text("import os\np = os.environ.get('DB_PASSWORD', '⟪p⟫')\n")),
    ("python getenv", "m.py", _text('import os\np = os.getenv("CLIENT_SECRET", "⟪a⟫")\n')),
    ("python typed", "m.py", _text("class C:\n    password: str = '⟪p⟫'\n")),
    ("python auth", "m.py", _text("r = requests.get(URL, auth=('svc', '⟪p⟫'))\n")),
    ("python smtp", "m.py", _text("s = smtplib.SMTP('m')\ns.login('robot@example.net', '⟪p⟫')\n")),
    ("python subprocess", "m.py", _text("subprocess.run(['mysql', '-uroot', '-p⟪a⟫', '-e', 'show tables'])\n")),
    ("python boto3", "m.py", _text("boto3.client('s3', aws_secret_access_key='⟪b⟫')\n")),
    ("python f-string url", "m.py", _text("e = create_engine('postgresql+psycopg2://app:⟪a⟫@db/app')\n")),
    ("python header", "m.py", _text("headers = {'Authorization': 'Bearer ⟪j⟫'}\n")),
    ("python basic header", "m.py", lambda draw: f"h = {{'Authorization': 'Basic ⟦{base64.b64encode(f'svc:{draw.password()}'.encode()).decode()}⟧'}}\n"),
    ("powershell securestring", "p.ps1", _text("$s = ConvertTo-SecureString '⟪p⟫' -AsPlainText -Force\n")),
    ("powershell -String", "p.ps1", _text('$s = ConvertTo-SecureString -String "⟪a⟫" -AsPlainText -Force\n')),
    ("powershell variable", "p.ps1", _text("$adminPassword = '⟪p⟫'\n")),
    ("powershell hashtable", "p.ps1", _text("$c = @{\n  UserName = 'svc'\n  Password = '⟪p⟫'\n}\n")),
    ("powershell networkcredential", "p.ps1", _text("$c = New-Object System.Net.NetworkCredential('svc', '⟪a⟫')\n")),
    ("powershell env", "p.ps1", _text("$env:ARM_CLIENT_SECRET = '⟪a⟫'\n")),
    ("powershell parameter", "p.ps1", _text("Connect-Thing -User svc -Password '⟪p⟫'\n")),
    ("javascript", "a.js", _text("module.exports = { db: { password: '⟪p⟫' } }\n")),
    ("go", "a.go", _text('package a\n\nconst apiKey = "⟪a⟫"\n')),
    # templates
    ("ARM parameters", "azuredeploy.parameters.json", lambda draw: _arm(draw, minified=False)),
    ("ARM minified", "azuredeploy.parameters.json", lambda draw: _arm(draw, minified=True)),
    ("ARM securestring default", "azuredeploy.json", _text('{"parameters": {"adm": {\n "type": "securestring",\n "defaultValue": "⟪p⟫"\n}}}')),
    ("ARM with comments", "azuredeploy.json", _text('{ // the template\n "parameters": { "vmPassword": { "type": "string", /* x */\n "defaultValue": "⟪p⟫" } } }')),
    ("ARM osProfile", "azuredeploy.json", _text('{"resources": [{"properties": {"osProfile": {"adminUsername": "x", "adminPassword": "⟪p⟫"}}}]}')),
    ("ARM app setting", "azuredeploy.json", _text('{"siteConfig": {"appSettings": [\n{"name": "API_SECRET", "value": "⟪a⟫"}]}}')),
    ("bicep parameter", "m.bicep", _text("@secure()\nparam adminPassword string = '⟪p⟫'\n")),
    ("CloudFormation default", "t.yaml", _text("Parameters:\n  DBPass:\n    Type: String\n    NoEcho: true\n    Default: ⟪p⟫\nResources: {}\n")),
    ("CloudFormation NoEcho other name", "t.yaml", _text("Parameters:\n  Pin:\n    NoEcho: 'true'\n    Type: String\n    Default: '⟪p⟫'\n")),
    ("CloudFormation property", "t.yaml", _text("Resources:\n  DB:\n    Type: AWS::RDS::DBInstance\n    Properties:\n      MasterUserPassword: ⟪p⟫\n")),
    ("CloudFormation JSON", "t.json", _text('{"Resources": {"D": {"Properties": {"MasterUserPassword": "⟪p⟫"}}}}')),
    ("CloudFormation environment", "t.yaml", _text("Environment:\n  Variables:\n    STRIPE_SECRET: ⟪a⟫\n")),
    ("CloudFormation user data", "t.yaml", _text("UserData:\n  Fn::Base64: !Sub |\n    #!/bin/bash\n    mysqladmin -u root --password=⟪p⟫ create app\n")),
    ("CloudFormation parameters file", "params.json", _text('[\n{"ParameterKey": "Env", "ParameterValue": "prod"},\n{"ParameterKey": "DBPassword", "ParameterValue": "⟪p⟫"}]')),
    ("terraform variable", "v.tf", _text('variable "db_password" {\n  type    = string\n  default = "⟪p⟫"\n}\n')),
    ("terraform sensitive", "v.tf", _text('variable "pin" {\n  sensitive = true\n  default   = "⟪p⟫"\n}\n')),
    ("terraform attribute", "m.tf", _text('resource "aws_db_instance" "d" {\n  username = "a"\n  password = "⟪p⟫"\n}\n')),
    ("terraform provider", "m.tf", _text('provider "aws" {\n  region     = "eu-west-1"\n  secret_key = "⟪b⟫"\n}\n')),
    ("terraform secret version", "m.tf", _text('resource "aws_secretsmanager_secret_version" "v" {\n  secret_id     = aws_secretsmanager_secret.s.id\n  secret_string = "⟪p⟫"\n}\n')),
    ("terraform key vault", "m.tf", _text('resource "azurerm_key_vault_secret" "s" {\n  name         = "db"\n  value        = "⟪a⟫"\n  key_vault_id = azurerm_key_vault.k.id\n}\n')),
    ("tfvars", "prod.tfvars", _text('region = "eu-west-1"\nadmin_password = "⟪p⟫"\n')),
    ("tfvars json", "prod.tfvars.json", _text('{"region":"eu-west-1","admin_password":"⟪p⟫"}')),
    ("kubernetes env", "d.yaml", _text("spec:\n  containers:\n  - name: app\n    env:\n    - name: DB_PASSWORD\n      value: ⟪p⟫\n")),
    ("kubernetes stringData", "s.yaml", _text("apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\nstringData:\n  password: ⟪p⟫\n")),
    ("kubernetes data", "s.yaml", lambda draw: f"apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\ndata:\n  db-password: ⟦{base64.b64encode(draw.password().encode()).decode()}⟧\n"),
    ("compose", "docker-compose.yml", _text("services:\n  db:\n    environment:\n      - POSTGRES_USER=app\n      - POSTGRES_PASSWORD=⟪p⟫\n")),
    ("compose map", "docker-compose.yml", _text('services:\n  db:\n    environment:\n      MYSQL_ROOT_PASSWORD: "⟪p⟫"\n')),
    ("ansible vars", "site.yml", _text("- hosts: all\n  vars:\n    mysql_root_password: ⟪p⟫\n  tasks: []\n")),
    ("ansible become", "inventory.ini", _text("[web]\n10.0.0.5 ansible_user=ops ansible_password=⟪p⟫\n")),
    ("github actions", "ci.yml", _text("jobs:\n  a:\n    steps:\n    - run: ./deploy\n      env:\n        DEPLOY_TOKEN: ⟪a⟫\n")),
    ("parameters.json", "parameters.json", _text('{"parameters": [\n{"name": "root_password", "type": "string", "default": "⟪p⟫"}]}')),
    ("docker config", "config.json", lambda draw: f'{{"auths": {{"reg.example.net": {{"auth": "⟦{base64.b64encode(f"ci:{draw.password()}".encode()).decode()}⟧"}}}}}}'),
    ("service account", "sa.json", lambda draw: '{\n"type": "service_account",\n"private_key": "⟦' + draw.pem("").replace("\n", "\\n") + '⟧\\n"}\n'),
    ("appsettings", "appsettings.json", _text('{"ConnectionStrings": {"Db": "Server=db;Database=a;User Id=sa;Password=⟪a⟫;"}}')),
    ("escaped connection string", "a.json", _text('{"cs": "Server=db;User Id\\u003dsa;Password\\u003d⟪a⟫;"}')),
    # settings
    (".env", ".env", _text("APP_ENV=prod\nSECRET_KEY=⟪a⟫⟪a⟫\n")),
    (".env quoted", ".env", _text('DB_HOST=db\nDB_PASSWORD="⟪p⟫"\n')),
    ("ini", "a.ini", _text("[smtp]\nuser = robot\npassword = ⟪p⟫\n")),
    ("properties", "a.properties", _text("spring.datasource.username=app\nspring.datasource.password=⟪p⟫\n")),
    ("toml", "a.toml", _text('[db]\nuser = "app"\npassword = "⟪p⟫"\n')),
    ("yaml settings", "a.yaml", _text("smtp:\n  user: robot\n  password: ⟪p⟫\n")),
    ("xml element", "s.xml", _text("<server>\n<username>ci</username>\n<password>⟪p⟫</password>\n</server>\n")),
    ("xml attribute", "web.config", _text('<add key="ApiSecret" value="⟪a⟫" />\n')),
    ("redis.conf", "redis.conf", _text("port 6379\nrequirepass ⟪a⟫\n")),
    ("npmrc", ".npmrc", _text("//registry.npmjs.org/:_authToken=npm_⟪a⟫0123abcdXY45zwQr\n")),
    ("pypirc", ".pypirc", _text("[pypi]\nusername = svc\npassword = ⟪a⟫\n")),
    ("aws credentials", "credentials", _text("[default]\naws_access_key_id = x\naws_secret_access_key = ⟪b⟫\n")),
    ("Dockerfile ENV", "Dockerfile", _text("FROM alpine\nENV DB_PASSWORD=⟪p⟫\n")),
    ("Dockerfile ENV blank", "Dockerfile", _text("FROM alpine\nENV API_TOKEN ⟪a⟫\n")),
    ("Dockerfile ARG", "Dockerfile", _text("FROM alpine\nARG NEXUS_PASSWORD=⟪p⟫\n")),
    # tokens and keys
    ("AWS key id", "a.sh", lambda draw: f"id={'⟦AK' + 'IA'}{draw.of(16, string.ascii_uppercase + '234567')}⟧\n"),
    ("AWS temporary key id", "a.sh", lambda draw: f"id={'⟦AS' + 'IA'}{draw.of(16, string.ascii_uppercase + '234567')}⟧\n"),
    ("GitHub", "a.sh", _token("gh" + "p_", 36)),
    ("GitHub app", "a.sh", _token("gh" + "s_", 36)),
    ("GitHub fine-grained", "a.sh", lambda draw: f"T='⟦{'github' + '_pat_'}{draw.of(22)}_{draw.of(59)}⟧'\n"),
    ("GitLab", "a.sh", _token("gl" + "pat-", 20)),
    ("GitLab runner", "a.sh", _token("gl" + "rt-", 20)),
    ("Slack bot", "a.sh", lambda draw: f"T=⟦{'xo' + 'xb-'}{draw.of(12, string.digits)}-{draw.of(12, string.digits)}-{draw.of(24)}⟧\n"),
    ("Slack webhook", "a.sh", lambda draw: f"curl -d x https://hooks.slack.com/services/⟦T{draw.of(9, string.ascii_uppercase)}/B{draw.of(9, string.ascii_uppercase + string.digits)}/{draw.of(24)}⟧\n"),
    ("Stripe", "a.sh", _token("sk" + "_live_", 24)),
    ("npm", "a.sh", _token("np" + "m_", 36)),
    ("PyPI", "a.sh", _token("py" + "pi-AgEIcHlwaS5vcmc", 120)),
    ("Google API", "a.sh", _token("AI" + "za", 35, ALNUM + "-_")),
    ("Google OAuth secret", "a.sh", _token("GO" + "CSPX-", 28)),
    ("SendGrid", "a.sh", lambda draw: f"x ⟦SG.{draw.of(22)}.{draw.of(43)}⟧\n"),
    ("Vault", "a.sh", _token("hv" + "s.", 90)),
    ("Databricks", "a.sh", _token("da" + "pi", 32, HEX)),
    ("DigitalOcean", "a.sh", _token("do" + "p_v1_", 64, HEX)),
    ("Azure client secret", "a.sh", lambda draw: f"x '⟦{draw.of(3)}8{'Q' + '~'}{draw.of(34)}⟧'\n"),
    ("Azure storage key", "a.sh", lambda draw: f"x 'AccountName=a;AccountKey=⟦{draw.b64(64)}⟧'\n"),
    ("Hugging Face", "a.sh", _token("hf" + "_", 34, string.ascii_letters)),
    ("Docker Hub", "a.sh", _token("dckr" + "_pat_", 27)),
    ("Grafana", "a.sh", lambda draw: f"x ⟦{'gl' + 'sa_'}{draw.of(32)}_{draw.of(8, HEX)}⟧\n"),
    ("age", "a.sh", _token("AGE-SECRET" + "-KEY-1", 58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L")),
    ("JWT", "a.sh", _text("curl https://api.example.net/x?v=⟪j⟫\n")),
    ("PEM", "key.pem", lambda draw: "⟦" + draw.pem("RSA ") + "⟧\n"),
    ("PEM of OpenSSH", "id", lambda draw: "⟦" + draw.pem("OPENSSH ") + "⟧\n"),
    ("PEM in HCL", "m.tf", lambda draw: "x = <<EOT\n⟦" + draw.pem("EC ") + "⟧\nEOT\n"),
    ("PPK", "k.ppk", lambda draw: f"⟦PuTTY-User-Key-File-3: ssh-ed25519⟧\nEncryption: none\nPrivate-Lines: 1\n{draw.b64(36)}\n"),
)  # fmt: skip

_HARMLESS: tuple[tuple[str, str, str], ...] = (
    ("read", "a.sh", "read -rsp 'New password: ' NEW_PASSWORD\n"),
    ("prompt", "a.sh", "echo -n 'Password: '; read -s PASSWORD\n"),
    ("generated", "a.sh", "DB_PASSWORD=$(pwgen -s 24 1)\nADMIN_PASS=`openssl rand -hex 16`\n"),
    ("from the vault", "a.sh", "export TOKEN=$(vault kv get -field=token secret/app)\n"),
    ("from a secret", "a.sh", "PASSWORD=$(aws secretsmanager get-secret-value --secret-id prod/db --query SecretString --output text)\n"),
    ("from ssm", "a.sh", "p=$(aws ssm get-parameter --name /prod/db/password --with-decryption --query Parameter.Value)\n"),
    ("from key vault", "a.sh", "PW=$(az keyvault secret show --vault-name kv1 --name sql-admin-password --query value -o tsv)\n"),
    ("arguments", "a.sh", 'mysql -u root -p"$1" -e "$2"\ncurl -u "$API_USER:$API_PASSWORD" https://a.example.net\n'),
    ("variables", "a.sh", 'mysql -u"$U" -p$MYSQL_PASSWORD\nsshpass -e ssh h\nsshpass -p "${SSH_PASS}" ssh h\n'),
    ("asks", "a.sh", "mysql -u root -p -h db\nmysqldump -p shop\n"),
    ("environment name", "a.sh", 'sshpass -f /run/secrets/ssh ssh h\nredis-cli -a "$REDIS_PASSWORD" ping\n'),
    ("required", "a.sh", ': "${DB_PASSWORD:?set DB_PASSWORD}"\n'),
    ("usage", "a.sh", "echo 'Usage: run.sh --user USER --password PASSWORD --token TOKEN'\n"),
    ("usage brackets", "a.sh", "echo 'run.sh --password <password> [--token <api-token>]'\n"),
    ("case", "a.sh", "case $1 in\n  --password) PASSWORD=$2; shift 2;;\n  --token=*) TOKEN=${1#*=};;\nesac\n"),
    ("test", "a.sh", 'if [ -z "$PASSWORD" ]; then echo "password missing"; fi\n[[ "$token" == "" ]] && exit 1\n'),
    ("messages", "a.sh", 'echo "Changing the password: please wait"\necho "Secret created: $NAME"\necho "Token is valid"\n'),
    ("passwd file", "a.sh", "grep '^root:' /etc/passwd | cut -d: -f7\ngetent passwd deploy\n"),
    ("working folder", "a.sh", 'OLD_PWD="$PWD"\nPWD=/srv/app\ncd "${PWD}/build"\n'),
    ("key names", "a.sh", "aws ec2 run-instances --key-name ops-2024 --image-id ami-⟪n⟫\n"),
    ("key ids", "a.sh", "aws kms encrypt --key-id ⟪u⟫ --plaintext fileb://x\n"),
    ("secret ids", "a.sh", "kubectl get secret app-tls -o yaml\nkubectl create secret generic app --from-file=./password.txt\n"),
    ("secret ref", "a.sh", 'kubectl create secret generic app --from-literal=password="$PASSWORD"\n'),
    ("digests", "a.sh", "echo '⟪h⟫  terraform.zip' | sha256sum -c -\n"),
    ("password-stdin", "a.sh", 'echo "$REGISTRY_PASSWORD" | docker login -u ci --password-stdin\ncat token.txt | docker login --password-stdin\n'),
    ("netrc of variables", "a.sh", 'echo "machine h login $USER password $PASSWORD" > ~/.netrc\n'),
    ("url of variables", "a.sh", 'git clone "https://${GIT_USER}:${GIT_TOKEN}@git.example.net/x.git"\n'),
    ("url of placeholders", "a.sh", "git clone https://<user>:<token>@git.example.net/x.git\n# postgres://USER:PASSWORD@host/db\n"),
    ("ports", "a.sh", "ssh -p 2222 ops@h\ndocker run -p 8080:80 nginx\nmkdir -p /srv/app\nscp -P 2222 a h:\n"),
    ("curl upload", "a.sh", "curl -u : --negotiate https://a.example.net\nsort -u names:all\n"),
    ("placeholders", ".env", "DB_PASSWORD=changeme\nAPI_KEY=<your-api-key>\nSECRET_KEY=replace-me\nTOKEN=xxxxxxxxxxxx\nADMIN_PASSWORD=\n"),
    ("placeholders 2", ".env", "SMTP_PASSWORD=your_password_here\nAUTH_TOKEN=insert-token-here\nCLIENT_SECRET=TODO\nJWT_SECRET=${JWT_SECRET}\n"),
    ("placeholders 3", "a.yaml", "password: REPLACE_ME\napi_key: YOUR_API_KEY\nsecret: \"<REDACTED>\"\ntoken: '...'\n"),
    ("masked", "a.ini", "password = ********\ntoken = xxxx-xxxx-xxxx\nsecret = [REDACTED]\n"),
    ("documented AWS", "a.sh", "export AWS_ACCESS_KEY_ID=AK" + "IAIOSFODNN7EXAMPLE\nexport AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY\n"),
    ("azurite", "a.sh", "CS='AccountName=devstoreaccount1;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50u" + "SRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=='\n"),
    ("python environ", "m.py", "password = os.environ['DB_PASSWORD']\ntoken = os.getenv('API_TOKEN')\nsecret = os.environ.get('S', '')\n"),
    ("python calls", "m.py", "password = getpass.getpass('Password: ')\ntoken = client.get_token(scope)['token']\napi_key = load_secret('prod/api')\n"),
    ("python names", "m.py", "password = args.password\nself._token = token\nfoo(password=password, secret=settings.secret)\n"),
    ("python strings", "m.py", "raise ValueError('password must not be empty')\nPASSWORD_FIELD = 'password'\nTOKEN_URL = 'https://login.example.net/token'\n"),
    ("python templates", "m.py", "url = f'postgresql://{user}:{password}@{host}/db'\nauth = 'Bearer %s' % token\nheader = f'Bearer {token}'\n"),
    ("python secrets", "m.py", "import secrets\ntoken = secrets.token_hex(16)\nsecret_name = 'prod/app/db'\nnext_token = response['NextToken']\n"),
    ("powershell prompt", "p.ps1", "$c = Get-Credential\n$p = Read-Host -AsSecureString 'Password'\n$s = ConvertTo-SecureString $plain -AsPlainText -Force\n"),
    ("powershell vault", "p.ps1", "$secret = Get-AzKeyVaultSecret -VaultName kv1 -Name 'sql-password' -AsPlainText\n$password = $secret.SecretValue\n"),
    ("ARM reference", "azuredeploy.parameters.json", '{"parameters": {"adminPassword": {"reference": {"keyVault": {"id": "/subscriptions/⟪u⟫/x"}, "secretName": "vmAdminPassword"}}}}'),
    ("ARM expression", "azuredeploy.json", '{"adminPassword": "[parameters(\'adminPassword\')]", "p": {"type": "securestring", "metadata": {"description": "Password of the admin: 12 characters."}}}'),
    ("ARM placeholders", "azuredeploy.parameters.json", '{"parameters": {"adminPassword": {"value": "GEN-PASSWORD"}, "sshKeyData": {"value": "GEN-SSH-PUB-KEY"}, "pw": {"value": ""}}}'),
    ("ARM concat", "azuredeploy.json", '{"commandToExecute": "[concat(\'sh run.sh --password \', parameters(\'adminPassword\'), \' --user x\')]"}'),
    ("ARM settings", "azuredeploy.json", '{"disablePasswordAuthentication": true, "secretPermissions": ["get"], "keyVaultSecretUri": "https://kv.example.net/secrets/x", "tokenStore": "enabled", "passwordLength": 16}'),
    ("CloudFormation parameter", "t.yaml", "Parameters:\n  DBPassword:\n    Type: String\n    NoEcho: true\n    MinLength: 8\n    AllowedPattern: '[a-zA-Z0-9]*'\n    ConstraintDescription: must contain only letters and digits.\n"),
    ("CloudFormation reference", "t.yaml", "MasterUserPassword: !Ref DBPassword\nSecretArn: !GetAtt S.Arn\nPassword: !Sub '{{resolve:secretsmanager:${S}:SecretString:password}}'\n"),
    ("CloudFormation resolve", "t.yaml", "MasterUserPassword: '{{resolve:ssm-secure:/prod/db/password:1}}'\nToken: '{{resolve:secretsmanager:app}}'\n"),
    ("CloudFormation generate", "t.yaml", "GenerateSecretString:\n  SecretStringTemplate: '{\"username\": \"admin\"}'\n  GenerateStringKey: password\n  PasswordLength: 30\n  ExcludeCharacters: '\"@/\\'\n"),
    ("IAM", "t.json", '{"Action": ["secretsmanager:GetSecretValue", "kms:Decrypt", "iam:CreateAccessKey", "sts:GetSessionToken"], "Resource": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-AbCdEf"}'),
    ("terraform references", "m.tf", 'password = var.db_password\nsecret_string = random_password.p.result\ntoken = data.vault_generic_secret.s.data["token"]\n'),
    ("terraform variable", "v.tf", 'variable "db_password" {\n  type        = string\n  sensitive   = true\n  description = "Password of the database administrator"\n}\n'),
    ("terraform names", "m.tf", 'key_name = "ops"\nkms_key_id = "alias/aws/rds"\nsecret_id = "prod-db"\nname = "db-password"\nssh_keys = ["ops"]\n'),
    ("terraform output", "o.tf", 'output "password" {\n  value     = aws_db_instance.d.password\n  sensitive = true\n}\n'),
    ("terraform interpolation", "m.tf", 'connection_string = "Server=db;Password=${var.password};"\nuri = "postgres://${var.user}:${random_password.p.result}@db/x"\n'),
    ("kubernetes refs", "d.yaml", "env:\n- name: DB_PASSWORD\n  valueFrom:\n    secretKeyRef:\n      name: db\n      key: password\nimagePullSecrets:\n- name: regcred\n"),
    ("kubernetes mounts", "d.yaml", "volumes:\n- name: s\n  secret:\n    secretName: app-tls\nserviceAccountName: token-reader\nautomountServiceAccountToken: false\n"),
    ("helm template", "t.yaml", "data:\n  password: {{ .Values.password | b64enc | quote }}\n  token: {{ randAlphaNum 32 | b64enc }}\n"),
    ("github actions", "ci.yml", "env:\n  TOKEN: ${{ secrets.GITHUB_TOKEN }}\n  PASSWORD: ${{ secrets.DB_PASSWORD }}\npermissions:\n  id-token: write\n"),
    ("azure pipelines", "ci.yml", "variables:\n  password: $(db-password)\n  secret: $[variables.secret]\n"),
    ("ansible vault", "v.yml", 'db_password: "{{ vault_db_password }}"\napi_token: "{{ lookup(\'env\', \'API_TOKEN\') }}"\nno_log: true\n'),
    ("compose secrets", "docker-compose.yml", "services:\n  db:\n    environment:\n      POSTGRES_PASSWORD_FILE: /run/secrets/db\n      PASSWORD: ${DB_PASSWORD}\nsecrets:\n  db:\n    file: ./db.txt\n"),
    ("parameters.json", "parameters.json", '{"parameters": [{"name": "secret_name", "type": "string", "default": "prod/db/main"}, {"name": "password", "type": "string", "description": "The password to set"}]}'),
    ("metadata", "metadata.json", '{"name": "Rotate access keys", "description": "Rotates the access key of a user; the new secret: kept in Secrets Manager.", "keywords": ["password", "secret", "token"]}'),
    ("schema", "schema.json", '{"properties": {"password": {"type": "string", "minLength": 8}, "token": {"$ref": "#/definitions/token"}}, "required": ["password"]}'),
    ("git hashes", "a.yml", "uses: actions/checkout@⟪h⟫\nimage: nginx@sha256:⟪h⟫\n"),
    ("public key", "a.sh", "echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ops' >> ~/.ssh/authorized_keys\n"),
    ("certificate", "c.pem", "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUJ\n-----END CERTIFICATE-----\n"),
    ("uuids", "a.sh", "SUBSCRIPTION=⟪u⟫\nTENANT_ID=⟪u⟫\nCLIENT_ID=⟪u⟫\n"),
    ("settings", "a.ini", "password_min_length = 12\ntoken_ttl = 3600\nsecret_rotation_days = 30\nauth = basic\nkey_prefix = app\n"),
    ("documentation", "README.md", "Set the `DB_PASSWORD` variable. The password: at least 12 characters.\nAPI key: see the console. Pass `--token $TOKEN`.\n"),
    ("sql of variables", "a.sql", "ALTER USER app WITH PASSWORD :'password';\nCREATE USER app IDENTIFIED BY '&pw';\nSELECT password FROM users WHERE token = ?;\n"),
)  # fmt: skip
