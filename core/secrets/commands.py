"""Finds secrets on command lines: the flags and arguments that take one, by command.

A command is found by its name, its words are split as a shell does (or taken from a program's list
of strings), and the table says which of them hold a secret. Flags that say so by their name
(`--admin-password`) are `assignments`' part; here are those that don't: `-p`, `-u user:password`,
what is piped into `--password-stdin`, SQL, sign-in calls of programs.

The flags are those of each command's manual page.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import NamedTuple

from core.secrets import Degree
from core.secrets.names import Holds
from core.secrets.needles import Needles
from core.secrets.values import judge

COMMAND = "Password on a Command Line"

_MAX_WORDS = 80
_MAX_CHARS = 2000


class _Form(NamedTuple):
    """How a flag takes its secret: in its own word, in the next, or either; and what is around it."""

    attached: bool
    following: bool
    part: str = (
        ""  # ":", "%": what follows the sign; "pass:": what follows that prefix; "=": each K=V
    )


_ATTACHED = _Form(attached=True, following=False)
_NEXT = _Form(attached=False, following=True)
_EITHER = _Form(attached=True, following=True)
_USER = _Form(attached=True, following=True, part=":")
_PERCENT = _Form(attached=True, following=True, part="%")
_SOURCE = _Form(attached=False, following=True, part="pass:")
_PAIRS = _Form(attached=True, following=True, part="=")


class _Rule(NamedTuple):
    flags: dict[str, _Form]
    needs: tuple[str, ...] = ()  # one of these words stands before
    positional: int = 0  # the so-many-th word after `needs` that is no flag
    pairs: bool = False  # words K=V after `needs` hold secrets


_LOGIN = _Rule({"-p": _EITHER}, ("login",))
_RULES: dict[str, tuple[_Rule, ...]] = {}


def _add(commands: str, *rules: _Rule) -> None:
    for command in commands.split():
        _RULES[command] = (*_RULES.get(command, ()), *rules)


_add(
    "mysql mysqldump mysqladmin mysqlimport mysqlcheck mysqlshow mysqlsh mysqlbinlog mariadb mariadb-dump mariadb-admin mycli xtrabackup",
    _Rule({"-p": _ATTACHED}),
)
_add(
    "mongo mongosh mongodump mongorestore mongoexport mongoimport mongostat cqlsh influx clickhouse-client",
    _Rule({"-p": _EITHER}),
)
_add("curl", _Rule({"-u": _USER, "--user": _USER, "-U": _USER, "--proxy-user": _USER}))
_add("http https httpie xh", _Rule({"-a": _USER, "--auth": _USER}))
_add("lftp ncftpget", _Rule({"-u": _Form(attached=False, following=True, part=","), "-p": _NEXT}))
_add("useradd usermod", _Rule({"-p": _NEXT}))
_add("sshpass", _Rule({"-p": _EITHER}))
_add(
    "az",
    _LOGIN,
    _Rule({"-p": _NEXT}, ("sql", "mysql", "postgres", "mariadb", "synapse")),
    _Rule({"--value": _NEXT}, ("secret",)),
    _Rule({"-p": _NEXT}, ("create-for-rbac",)),
)
_add(
    "docker podman nerdctl helm buildah skopeo oras crane regctl oc argocd rancher cf ibmcloud ctr harbor snyk vsce jfrog",
    _LOGIN,
)
_add(
    "skopeo buildah podman", _Rule({"--creds": _USER, "--src-creds": _USER, "--dest-creds": _USER})
)
_add("redis-cli valkey-cli keydb-cli redis-benchmark", _Rule({"-a": _NEXT}))
_add(
    "ldapsearch ldapadd ldapmodify ldapdelete ldappasswd ldapwhoami",
    _Rule({"-w": _EITHER, "-s": _NEXT}),
)
_add("sqlcmd bcp osql isql tsql mssql-cli Invoke-Sqlcmd sqlpackage", _Rule({"-P": _EITHER}))
_add("mosquitto_pub mosquitto_sub ipmitool impitool", _Rule({"-P": _EITHER}))
_add("smbclient rpcclient smbget winexe", _Rule({"-U": _PERCENT}))
_add("zip unzip zipcloak", _Rule({"-P": _EITHER}))
_add("7z 7za 7zr rar unrar", _Rule({"-p": _ATTACHED, "-hp": _ATTACHED}))
_add("snmpwalk snmpget snmpset snmpbulkwalk", _Rule({"-A": _NEXT, "-X": _NEXT}))
_add(
    "openssl",
    _Rule(
        {
            "-pass": _SOURCE,
            "-passin": _SOURCE,
            "-passout": _SOURCE,
            "-k": _NEXT,
            "-password": _SOURCE,
        }
    ),
)
_add("gpg gpg2", _Rule({"--passphrase": _NEXT}))
_add("psexec psexec.exe winrs", _Rule({"-p": _EITHER}))
_add("xfreerdp wfreerdp rdesktop", _Rule({"-p": _NEXT, "/p:": _ATTACHED}))
_add(
    "htpasswd",
    _Rule(
        {},
        (
            "-b",
            "-bc",
            "-cb",
            "-nb",
            "-bn",
            "-nbB",
            "-Bbn",
            "-bB",
            "-bBn",
            "-Bb",
            "-nbm",
            "-bnB",
            "-Bbc",
            "-cBb",
            "-cbB",
        ),
        positional=-1,
    ),
)
_add("rabbitmqctl", _Rule({}, ("add_user", "change_password", "authenticate_user"), positional=2))
_add("vault bao", _Rule({}, ("login",), positional=1), _Rule({}, ("kv", "write"), pairs=True))
_add("kubectl oc", _Rule({"--from-literal": _PAIRS}, ("secret", "secrets")))
_add("aws", _Rule({"--value": _NEXT}, ("SecureString",)))
_add("gh", _Rule({"-b": _NEXT, "--body": _NEXT}, ("secret",)))
_add("glab", _Rule({"--value": _NEXT, "-v": _NEXT}, ("variable",)))
_add("fly flyctl", _Rule({}, ("secrets",), pairs=True))
_add("net net.exe", _Rule({}, ("user",), positional=2))
_add("mc", _Rule({}, ("set", "add"), positional=4))
_add("sqlplus expdp impdp sqlldr rman exp imp", _Rule({}, positional=1))
_add("kinit cadmin kadmin", _Rule({"-w": _NEXT, "-pw": _NEXT}))
_add("kadmin.local kadmin", _Rule({"-pw": _NEXT}))
_add("ipa-client-install", _Rule({"-w": _NEXT}))
_add("nmcli", _Rule({}, ("password",), positional=1))
_add("wpa_passphrase", _Rule({}, positional=2))
_add("pscp plink psftp putty", _Rule({"-pw": _NEXT}))
_add("jenkins-cli jenkins-cli.jar", _Rule({"-auth": _USER}))
_add("twine", _Rule({"-p": _NEXT}, ("upload",)))
_add(
    "nuget nuget.exe dotnet",
    _Rule(
        {"-ApiKey": _NEXT, "-k": _NEXT, "-Password": _NEXT, "-p": _NEXT},
        ("push", "add", "setapikey"),
    ),
)

_COMBINED = re.compile(r"-[A-Za-z]{2,6}")  # `curl -su user:password`
# A command begins after one of these and ends before a blank or a quote.
_BEFORE = " \n\t\"'/|(`;&[:>,{"
_NAMES: Needles[tuple[str, int]] = Needles(
    (before + name, (name, len(before))) for name in _RULES for before in (*_BEFORE, "\\n", "\\t")
)
_AFTER = frozenset(" \n\t\r\"'")
_WORD = re.compile(
    r"""(?:\\\r?\n|[ \t])*((?:[^\s"'\\|;&<>()]+|\\(?![nrt]\b|[nrt][A-Z\\])[^\n]|\$\([^)\n]*\)|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|<[A-Za-z\d_ -]{1,40}>|[<(](?=[^\s|;&<>(]))+)""",
    re.DOTALL,
)
_LISTED = re.compile(r"""\s*,\s*[rbfu]{0,2}(["'])((?:[^\\"']|\\.){0,500})\1""")


def on_command_lines(text: str) -> Iterator[tuple[int, Degree] | None]:
    """Yield (offset, degree) of secrets on command lines, and None after each command, to look at the clock."""
    for at, names in _NAMES.find("\n" + text):
        yield None
        for name, before in names:
            begin = at + before - 1  # less the line break that was put before the text
            end = begin + len(name)
            if text[end : end + 1] not in _AFTER:
                continue
            words = _words(text, end, text[begin - 1 : begin] if begin else "")
            if words:
                for rule in _RULES[name]:
                    yield from _on_line(rule, words, name)


def _words(text: str, at: int, quote: str) -> list[tuple[str, int]]:
    """The words after a command's name, with their offsets, to the end of the command."""
    words: list[tuple[str, int]] = []
    end = min(len(text), at + _MAX_CHARS)
    if quote in {'"', "'"} and text[at : at + 1] == quote:
        at += 1
        while len(words) < _MAX_WORDS and (listed := _LISTED.match(text, at, end)):
            words.append((listed[2], listed.start(2)))
            at = listed.end()
        return words
    while len(words) < _MAX_WORDS and (word := _WORD.match(text, at, end)):
        if word[1].startswith("#"):
            break
        words.append((word[1], word.start(1)))
        at = word.end()
    return words


def _bare(word: str) -> tuple[str, bool]:
    """A word without its quotes, and whether a `$` in it is a variable."""
    if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'":
        return word[1:-1], word[0] == '"'
    return word.replace("\\", "") if "\\" in word else word.strip("\"'"), True


def _on_line(
    rule: _Rule, words: list[tuple[str, int]], command: str
) -> Iterator[tuple[int, Degree]]:
    plain = [_bare(word)[0] for word, _ in words]
    begin = 0
    if rule.needs:
        begin = next((n + 1 for n, word in enumerate(plain) if word in rule.needs), -1)
        if begin < 0:
            return
    for number, (word, at) in enumerate(words):
        for flag, form in rule.flags.items():
            here = plain[number] == flag or (form is _USER and _COMBINED.fullmatch(plain[number], 0)
                                             and plain[number][-1:] == flag[1:])  # fmt: skip
            if form.following and here and number + 1 < len(words):
                yield from _taken(form, *words[number + 1])
            elif form.attached and word.startswith(flag) and len(word) > len(flag):
                if flag.startswith("--") and word[len(flag)] != "=":
                    continue
                rest = (
                    word[len(flag) :].removeprefix("=")
                    if flag.startswith("--")
                    else word[len(flag) :]
                )
                yield from _taken(form, rest, at)
    if rule.pairs:
        for word, at in words[begin:]:
            yield from _taken(_PAIRS, word, at)
    if rule.positional:
        yield from _positional(rule, words[begin:], command)


def _positional(
    rule: _Rule, words: list[tuple[str, int]], command: str
) -> Iterator[tuple[int, Degree]]:
    arguments = [(word, at) for word, at in words if not word.startswith(("-", "/"))]
    number = rule.positional - 1 if rule.positional > 0 else rule.positional
    if not -len(arguments) <= number < len(arguments):
        return
    if rule.positional < 0 and len(arguments) < 2:  # noqa: PLR2004 - a user and a password
        return
    word, at = arguments[number]
    if re.match(r"\w+=", word):
        return  # `vault login role=dev`
    if command in {"net", "net.exe"} and not any(word.lower() == "/add" for word, _ in words):
        return
    if not rule.needs and command != "wpa_passphrase":  # user/password@service
        user, slash, rest = word.partition("/")
        if not slash or not user or "/" in rest.split("@")[0]:
            return
        word = rest.rsplit("@", 1)[0]
    yield from _taken(_NEXT, word, at)


def _taken(form: _Form, word: str, at: int) -> Iterator[tuple[int, Degree]]:
    value, expands = _bare(word)
    strength = Holds.PASSWORD
    if value.startswith("-") and form.part == "" and form.following and not form.attached:
        return
    if form.part == "pass:":
        if value.startswith(("file:", "env:", "fd:", "stdin")):
            return
        value = value.removeprefix("pass:")
    elif form.part:
        if form.part not in value:
            return
        value = value.split(form.part, 1)[1].strip("\"'")
        if form.part == "=":
            strength = Holds.SECRET
    if value.startswith("@"):  # a file
        return
    if value.startswith(("/", "./")) and form.part == "":
        return
    degree = judge(
        "", value, strength=strength, bare=not word.startswith(("'", '"')), expands=expands
    )
    if degree is not None:
        yield at, degree


# -- lines that are no flags -------------------------------------------------------------------

_VALUE = r"""(?:"(?P<d>[^"\n]{1,500})"|'(?P<s>[^'\n]{1,500})'|(?P<b>[^\s"'|;&<>()]{1,500}))"""
_QUOTED = r"""(?:"(?P<d>[^"\n]{1,500})"|'(?P<s>[^'\n]{1,500})')"""
_ECHOED = r"(?:echo|printf)\s+(?:-\w+\s+)*(?:['\"]?%s(?:\\n)?['\"]?\s+)?"
_LINE_CHARS = 300


class _Line(NamedTuple):
    """What takes a secret at one of its words: the pattern there, one before it on the line, or both."""

    words: tuple[str, ...]
    at: re.Pattern[str] | None = None
    before: re.Pattern[str] | None = None


def _at(words: str, at: str = "", before: str = "") -> _Line:
    def compiled(pattern: str) -> re.Pattern[str] | None:
        return re.compile(pattern, re.IGNORECASE) if pattern else None

    return _Line(tuple(words.split()), compiled(at), compiled(before))


_LINES = (
    # SQL: MySQL, Oracle, PostgreSQL, SQL Server
    _at("identified", r"identified\s+(?:with\s+\S{1,60}\s+)?by\s+(?:password\s+)?\\?" + _QUOTED),
    _at("identified", r"identified\s+by\s+(?P<b>(?=\w{0,60}\d)[\w#$!]{6,60})"),
    _at("password", r"password\s+(?:=\s*)?n?\\?'(?P<s>[^'\n]{1,500}?)\\?'", r"\b(?:role|user|login)\b"),
    _at("password(", r"password\(\s*\\?['\"](?P<s>[^'\"\n\\]{1,500})\\?['\"]\s*\)"),
    # PowerShell
    _at("convertto-securestring", r"convertto-securestring\s+(?:-(?:asplaintext|force)\s+){0,2}(?:-string\s+)?" + _QUOTED),
    _at("convertto-securestring", before=_QUOTED + r"\s*\|\s*\Z"),
    _at("networkcredential", r"networkcredential\]?(?:::new)?\s*\(\s*[^,\n]{1,120},\s*" + _QUOTED),
    _at("/pass: /password:", r"/pass(?:word)?:(?:\"(?P<d>[^\"\n]{1,500})\"|(?P<b>[^\s\"']{1,500}))"),
    # programs
    _at("auth(", r"auth\(\s*['\"][^'\"\n]{1,200}['\"]\s*,\s*" + _QUOTED),
    _at("auth=( auth·=·(", r"auth\s*=\s*\(\s*['\"][^'\"\n]{1,200}['\"]\s*,\s*" + _QUOTED),
    _at(".login(", r"\.login\(\s*['\"][^'\"\n]{1,200}['\"]\s*,\s*" + _QUOTED),
    # a prompt is answered: `expect "assword:"; send "…\\r"`
    _at("send", r"send(?:line)?[\s(]+(?:--\s+)?(?:\"(?P<d>[^\"\n\\]{1,500})|'(?P<s>[^'\n\\]{1,500}))", r"assword"),
    # piped
    _at("chpasswd", before=_ECHOED + r"[\"']?[\w.-]{1,64}:(?P<b>[^\s\"'|]{1,500})[\"']?\s*\|\s*(?:sudo\s+)?\Z"),
    _at(
        "password-stdin --stdin --data-file=- --with-token --passphrase-fd kinit luksformat cryptsetup sudo·-s sudo·-ks",
        before=_ECHOED + _VALUE + r"\s*\|[^\n|]{0,200}\Z",
    ),
    _at("/rp", r"/rp\s+" + _VALUE),
    _at("thin:", r"thin:[\w$#]{1,60}/(?P<b>[^\s@\"'/]{1,100})@"),
    _at(".pgpass", r".pgpass[^\n]{0,20}\s[\"'][\w.*-]{1,200}:(?:\d{2,5}|\*):[\w*.-]{1,100}:[\w*.-]{1,100}:(?P<b>[^\s\"':\\]{1,500})"),
    _at("<<<", r"<<<\s*" + _VALUE, r"(?:stdin|kinit\b|--with-token|sudo -S)"),
    # .netrc, .pgpass
    _at("login", r"login\s+\S{1,200}\s+password\s+(?P<b>[^\s\"'\\]{1,500})", r"(?:machine\s+\S{1,200}|default)\s*(?:\\n)?\s*\Z"),
    _at(".pgpass", before=r"[\w.*${}-]{1,200}:(?:\d{2,5}|\*):[\w*${}.-]{1,100}:[\w*${}.-]{1,100}:(?P<b>[^\s\"':\\]{1,500})[^\n]{0,80}\Z"),
)  # fmt: skip
_LINE_NEEDLES: Needles[_Line] = Needles(
    (word.replace("·", " "), line) for line in _LINES for word in line.words
)
_BASIC = re.compile(r"Basic[ \t]+([A-Za-z0-9+/]{8,1000}={0,2})")


def in_lines(text: str, lowered: str) -> Iterator[tuple[int, Degree] | None]:
    """Yield (offset, degree) of secrets in SQL, PowerShell, sign-in calls, pipes and `.netrc` lines."""
    for at, lines in _LINE_NEEDLES.find(lowered):
        yield None
        for line in lines:
            yield from _in_line(line, text, at)
    if "basic" in lowered:
        for match in _BASIC.finditer(text):
            yield None
            credentials = _decoded(match[1])
            if credentials is not None and ":" in credentials:
                degree = judge("", credentials.split(":", 1)[1], strength=Holds.PASSWORD)
                if degree is not None:
                    yield match.start(1), degree


def _in_line(line: _Line, text: str, at: int) -> Iterator[tuple[int, Degree]]:
    matches = []
    if line.before is not None:
        begin = max(0, at - _LINE_CHARS)
        matches.append(line.before.search(text, begin, at))
    if line.at is not None:
        matches.append(line.at.match(text, at))
    if not all(matches):
        return
    for match in matches:
        for group, value in (match.groupdict() if match else {}).items():
            if match is None or value is None:
                continue
            degree = judge(
                "", value, strength=Holds.PASSWORD, bare=group == "b", expands=group != "s"
            )
            if degree is not None:
                yield match.start(group), degree


def _decoded(value: str) -> str | None:
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
