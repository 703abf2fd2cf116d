"""Judges a value given to a name: a secret for certain, possibly, or none.

::

    name    password, pwd, passphrase …      any literal is a secret
            secret, client secret …          any literal that is no resource's name
            token, api key, credentials …    what looks random
            secretName, password_file, …     tells about a secret and does not hold one
    value   $VAR, ${…}, $(…), {{ … }}, <…>, [parameters('x')], !Ref, vault and ARN paths    a reference
            changeme, YourPasswordHere, ********, zeros, elided…                           a placeholder
            P@ssw0rd1234, SuperSecret99: words that samples are made of, and digits         possible
            anything else                                                                  certain

The words follow what vendors' documentation puts in place of secrets, and the allow lists that
gitleaks (``config/gitleaks.toml``) and detect-secrets (``filters/heuristic.py``) publish.
"""

from __future__ import annotations

import base64
import itertools
import re

from core.secrets import Degree
from core.secrets.names import WORDS, Holds, holds

MIN_CHARS = 6
MAX_CHARS = 4096
_TOKEN_CHARS = 10  # shorter values of names that also stand for other things are none
_PROSE_WORDS = 3


# -- references -------------------------------------------------------------------------------

_REFERENCE = re.compile(
    r"""\$\$(?:[A-Z_][A-Z\d_]*|\{[^}]*\}?|\([^)]*\)?)|\$\{\{.*?\}\}|\{\{.*?\}\}|\{%.*?%\}|\$\{[^}]*\}?|\$\([^)]*\)?|\$\[[^\]]*\]|\#\{[^}]*\}\#?
    | \$(?:env:)?[A-Za-z_][\w:.]*(?:\[[^\]]*\])?|\$[\d@*!?#$]|%[A-Za-z_]\w*%|%\([\w.]+\)[sdr]|%[sdvr](?![\w])
    | <<?[A-Za-z_][^<>]{0,80}>>?|`[^`]*`|\{[A-Za-z_][\w.!:\[\]'"()]*\}|\{\d*\}|__[A-Za-z]\w*?__|@@?[A-Z_]{3,}@@?
    | \(\([\w./-]+\)\)|\[\[?[A-Za-z_ ][\w ./'-]*\]?\]""",
    re.VERBOSE | re.DOTALL,
)
_POINTS = re.compile(
    r"""\[.*\]$|!(?:ref|sub|getatt|importvalue|if|join|select|vault|secret|findinmap|env\w*|include|reference|base64)\b|arn:|[a-z][\w+.-]{1,20}://|projects/|/?subscriptions/|privatesettingsref:|@microsoft\.keyvault|fn::|ref:
    | (?:op|vault|ssm|sm|gcpsm|gcp-sm|awssm|aws-sm|akv|secretref|file|env|secret|secrets|keyvault|azurekeyvault|sops|awskms|gs|s3|kms|doppler|keychain|cmd|exec|pass):
    | (?:enc|aws_kms|gpg|sops)\[|\$ansible_vault|\{\{?resolve|\{(?:aesgcm|cipher|enc|noop)\}
    | (?:var|vars|local|locals|data|module|each|self|env|environ|secrets?|os|process|params?|parameters|config|settings
        |vault|github|gitlab|steps|inputs?|values|credentials?|variables|context|args|opts|options|request|event|random_\w+
        |[a-z]+_[a-z_]+\.\w+)(?:\.[a-z_]|\[)
    | (?:/|\./|\.\./|~/|[a-z]:\\)[\w./\\ ~{}$-]*$
    | @[\w./~-]+\.[a-z]{2,5}$|\.\*|ref\+
    | @?[a-z_][\w.]*[\[(].*[\])]$|@\{|['"]\s*[,+&)]""",
    re.VERBOSE | re.IGNORECASE,
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{8,}={0,2}")
_SLASHED = re.compile(r"(?=.{21})/[\w+]*(?:/[\w+]*){0,2}={0,2}")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_CRYPT = re.compile(r"\$(?:[1256y]|2[abxy]|apr1|argon2\w+|pbkdf2[\w-]*)\$[^\s$]+\$?")

# -- placeholders -----------------------------------------------------------------------------

_LITERAL = re.compile(
    r"(?:none|null|nil|true|false|yes|no|on|off|undefined|empty|unset|n/?a|string|securestring|str|int"
    r"|number|object|boolean|array|required|optional|enabled|disabled|default|header|query|plaintext|prod|dev|test"
    r"|production|staging|development|disabled|always|never|auto|automatic|generated?|inherit|basic|oauth2?|bearer|[\d.,:/ +-]+"
    r"|[x*._#?0-]+)",
    re.IGNORECASE,
)
_ENV_NAME = re.compile(r"_?[A-Z][A-Z\d]*(?:[_-][A-Z\d]+)*_?")
_NAMED = re.compile(r"[a-z]+(?:[_.-](?:[a-z]+|\d{1,4}))+")
# Words that say: put another value here.
_INSTEAD = (
    "your", "yours", "change", "changes", "changed", "changeit", "replace", "replaced", "replaceme", "placeholder", "example",
    "examples", "sample", "dummy", "todo", "fixme", "insert", "enter", "redacted", "masked", "fake", "here", "mock",
    "xxx", "xxxx", "xxxxx", "tbd", "fill", "provide", "specify", "choose", "omitted", "removed", "hidden", "goes",
    "notreal", "invalid", "ignored", "unused", "obfuscated", "censored", "supply", "must", "foobar", "update", "setme", "deadbeef",
)  # fmt: skip
# Words that samples are made of.
_SAMPLE = (
    "password", "passwd", "passwort", "passphrase", "passw", "pass", "pwd", "pword", "word", "secret", "secrets", "secure", "super", "very", "strong",
    "my", "user", "admin", "administrator", "db", "database", "test", "testing", "demo", "temp", "temporary", "tmp", "key",
    "keys", "token", "tokens", "api", "access", "account", "storage", "auth", "value", "string", "text", "data", "the", "a", "an",
    "this", "that", "is", "it", "me", "with", "in", "it", "to", "of", "for", "new", "old", "default", "initial", "root", "master",
    "login", "welcome", "hello", "world", "app", "application", "service", "client", "server", "web", "site", "vm", "sql", "mysql",
    "postgres", "postgresql", "mongo", "mongodb", "redis", "wordpress", "azure", "aws", "amazon", "google", "cloud", "gcp", "microsoft", "windows", "linux",
    "local", "dev", "prod", "production", "some", "something", "long", "random", "complex", "simple", "safe", "not", "real", "only", "real",
    "foo", "bar", "baz", "qux", "abc", "abcd", "abcde", "abcdef", "abcdefg", "abcdefgh", "qwerty", "asdf", "xyz", "name", "id", "ssh", "tls",
    "private", "public", "cert", "certificate", "credential", "credentials", "jwt", "bearer", "session", "signing", "encryption",
    "github", "gitlab", "slack", "stripe", "docker", "registry", "aad", "ad", "sp", "principal", "subscription", "tenant", "org",
    "organization", "company", "team", "project", "env", "var", "variable", "param", "config", "and", "or", "at", "on", "by", "from", "later", "set",
    "tutorial", "gen", "generate", "first", "second", "explicit", "fabric", "msdocs", "docs", "please", "do", "be", "use", "own", "actual", "valid", "generated", "azureuser", "ec", "rds", "aurora", "instance", "cluster", "node", "host",
    "grafana", "jenkins", "rabbitmq", "guest", "minio", "elastic", "kibana", "airflow", "vault", "let", "one", "two", "another", "base", "encoded", "hashed", "hash", "super",
)  # fmt: skip
_INSTEAD_SET = frozenset(_INSTEAD)
_VOCABULARY = re.compile(
    "(?:" + "|".join(sorted({*_INSTEAD, *_SAMPLE}, key=lambda word: (-len(word), word))) + ")+"
)
_INSTEAD_INSIDE = re.compile(
    r"(?:your|change(?:me|it|this|your|d)?|replace|placeholder|example|redacted|insert|todo|xxxx)",
)
_LEET = str.maketrans("@430$5!17", "aaeossiit")
_ELIDED = re.compile(r"\.\.\.|…|\*{3,}|x{6,}|X{6,}")
_ALPHA = re.compile(r"[a-z]+")
_RAMP = "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz"
_COMMON_PAIRS = frozenset(
    """th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de
    hi ri ro ic ne ea ra ce li ch ll be ma si om ur ca el ta la ns di fo ho pe ec pr no ct us ac ot il tr ly
    nc et ut ss so rs un lo wa ge ie wh ee wi em ad ol rt po we na ul ni ts mo ow pa im mi ai sh ir su id os
    iv ia am fi ci vi pl ig tu ev ld ry mp fe bl ab gh ty op wo sa ay ex ke ui fr oo ag ck ap bo sp up od ew
    av ks rd ey da sc db ud ue oc au rm ru lt ps aw rk ip eb ep cl gr br cr ub ok qu""".split()  # noqa: SIM905 - a list of 170 strings is not read better
)


def judge(
    name: str,
    value: str,
    *,
    strength: Holds | None = None,
    bare: bool = False,
    expands: bool = True,
) -> Degree | None:
    """Return how sure it is that ``value``, given to ``name``, is a secret; None where it is none.

    ``strength``: what is promised of the value where something else than the name says so (a flag,
    a parameter's type). ``bare``: it is written without quotes, where prose may stand, too.
    ``expands``: a `$` within it begins a variable, as between double quotes in a shell.
    """
    promised = strength or holds(name)
    value = value.strip()
    if promised is None or not MIN_CHARS <= len(value) <= MAX_CHARS:
        return None
    value = value.replace("\\$", "$")
    if _CRYPT.match(value) and not _ELIDED.search(value):
        return Degree.POSSIBLE
    if value[:1] in "{[" and re.search(r"[\"']", value):
        return None  # an object: what is in it has names of its own
    decoded = _from_base64(value)
    if decoded is not None:
        user, colon, password = decoded.partition(":")
        if colon and user and "auth" in name.lower():  # of a registry, or HTTP's Basic
            return judge(name, password, strength=Holds.PASSWORD, expands=False)
        return judge(name, decoded, strength=promised, bare=bare, expands=False)
    if _LITERAL.fullmatch(value) or (_POINTS.match(value) and not _random_path(value)):
        return None
    degree = Degree.CERTAIN
    static = _without_references(value, expands=expands)
    if static != value:
        # what is made at run time may begin or end with a fixed text: `Pa$$w0rD-$id`
        if (
            sum(map(str.isalnum, static)) < MIN_CHARS
            or not (looks_random(static) or re.search(r"\d", static))
            or _judge_static(promised, static, bare=bare) is not Degree.CERTAIN
        ):
            leet = value.translate(_LEET).lower()
            made = static and "$$" in value and "passw" in leet.replace("$", "s")
            return Degree.POSSIBLE if made else None
        degree = Degree.POSSIBLE
    judged = _judge_static(promised, value if degree is Degree.CERTAIN else static, bare=bare)
    return None if judged is None else min(judged, degree, key=_SURE.index)


def _from_base64(value: str) -> str | None:
    """The text that a value is the base64 of, or None."""
    if len(value) % 4 or not _BASE64.fullmatch(value):
        return None
    try:
        text = base64.b64decode(value).decode("ascii").strip()
    except ValueError:
        return None
    return text if text.isprintable() and len(text) >= 4 else None  # noqa: PLR2004 - shorter ones are chance


def _without_references(value: str, *, expands: bool) -> str:
    def stays(match: re.Match[str]) -> str:
        text = match[0]
        whole = text == value
        if whole or not re.match(r"\$[A-Za-z\d_@*!?#]|%[A-Za-z_]", text):
            return ""
        # `aB$cD9x%`: a `$` in a literal, or a sign in a password that was drawn
        mixed = re.search(r"[a-z]", text) and re.search(r"[A-Z]", text)
        drawn = looks_random(text.strip("$%")) or (
            mixed and (text[0] == "%" or re.search(r"\d", text) is not None)
        )
        return text if drawn or (not expands and match.start()) else ""

    return _REFERENCE.sub(stays, value)


_SURE = (Degree.POSSIBLE, Degree.CERTAIN)


def _judge_static(promised: Holds, value: str, *, bare: bool) -> Degree | None:
    if _ELIDED.search(value) or _is_monotone(value) or is_documented(value):
        return None
    if not any(map(str.isalpha, value)) or _LITERAL.fullmatch(value):
        return None
    random = looks_random(value)
    if (
        (_ENV_NAME.fullmatch(value) or _NAMED.fullmatch(value))
        and not (random and re.search(r"\d", value))
        and _KEYWORDS.search(value.lower())
    ):
        return None  # a variable's name, or a resource's: `DB_PASSWORD`, `db-cluster-password`
    words = None if random and len(value) > _RANDOM_CHARS else _sample_words(value)
    if words is not None:
        plain = len(value) <= _WEAK_CHARS or not re.search(r"\d|[^\w .\-/:]", value)
        if words or plain:
            return None
        return Degree.POSSIBLE if promised is not Holds.TOKEN else None
    if not random and _says_instead(value):
        return None
    if promised is Holds.TOKEN and _UUID.fullmatch(value):
        return Degree.POSSIBLE  # some vendors' tokens are, and many other things
    if promised is Holds.TOKEN:
        return (
            Degree.CERTAIN if random and len(value) >= _TOKEN_CHARS and " " not in value else None
        )
    if value.count(" ") and not random:
        return _judge_prose(value)
    if (
        promised is Holds.SECRET
        and not random
        and re.fullmatch(r"[A-Za-z][a-zA-Z]*(?:[-_./:]?[A-Za-z\d]+)*", value)
    ):
        letters_only = value.isalpha()
        return None if letters_only or re.search(r"[-_./:]", value) else Degree.POSSIBLE
    if value.isalpha() and value.islower() and not random:
        return None if bare else Degree.POSSIBLE
    if not random and "passw" in value.translate(_LEET).lower():
        return Degree.POSSIBLE  # as in samples: `ExplicitPassword123!`
    return Degree.CERTAIN


_KEYWORDS = re.compile(r"pass|pwd|secret|token|key|cred|auth")
_RANDOM_CHARS = 24
_WEAK_CHARS = 7  # `abc123`, `s3cr3t`


def _judge_prose(value: str) -> Degree | None:
    words = value.split()
    if len(words) >= _PROSE_WORDS or not re.search(r"\d", value):
        return None
    return (
        Degree.CERTAIN
        if any(re.search(r"\d", word) and re.search(r"[^\W\d]", word) for word in words)
        else None
    )


def _is_monotone(value: str) -> bool:
    """Two different characters or fewer, or a run through the alphabet or the digits."""
    letters = [char for char in value.lower() if char.isalnum()]
    text = "".join(letters)
    return (
        len(set(letters)) <= 2  # noqa: PLR2004 - as said
        or text in _RAMP
        or text in "01234567890123456789"
        or re.search(r"(.)\1{6}", text) is not None
    )


def _sample_words(value: str) -> bool | None:
    """Whether a value of nothing but sample words says "instead"; None where there are others."""
    for text in (value.lower(), value.translate(_LEET).lower()):
        words = _ALPHA.findall(text)
        if words and all(len(word) <= 64 and _VOCABULARY.fullmatch(word) for word in words):  # noqa: PLR2004 - no placeholder is longer
            return _says_instead(value)
    return None


def _says_instead(value: str) -> bool:
    words = {word.lower() for word in WORDS.findall(value)}
    if words & _INSTEAD_SET:
        return True
    text = value.lower()
    return any(
        _INSTEAD_INSIDE.match(word) or word.endswith(("here", "example"))
        for word in _ALPHA.findall(text)
    )


def _random_path(value: str) -> bool:
    """Base64 may begin with a slash; a path has words, an extension or more parts."""
    return bool(_SLASHED.fullmatch(value)) and looks_random(value)


# Long, of hexadecimal digits or of all three classes without a sign: no name is.
_HEX = re.compile(r"(?=\D*\d\D*\d)(?=.*[a-f])[0-9a-f]{12,}")
_SOLID = re.compile(r"(?=.*\d)(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9]{16,}")


def looks_random(value: str) -> bool:
    """Whether a value has the look of drawn characters, not of words.

    Letters, digits and cases take turns more often than in any name; or its pairs of letters are
    rare in words, over enough pairs to tell.
    """
    text = value.rstrip("=")
    if len(text) < 8:  # noqa: PLR2004 - too little to tell
        return False
    classes = "".join(
        "d" if char.isdigit() else "l" if char.islower() else "u" if char.isupper() else "."
        for char in text
    )
    plain = classes.replace(".", "")
    if not plain:
        return False
    turns = sum(
        1
        for last, this in itertools.pairwise(classes)
        if last != this and "." not in (last + this) and (last, this) != ("u", "l")
    )
    turns_share = turns / len(plain)
    if _HEX.fullmatch(text) or (_SOLID.fullmatch(text) and turns_share >= 0.2):  # noqa: PLR2004
        return True
    if turns_share >= 0.3 and len(plain) >= 8:  # noqa: PLR2004 - as measured on names and drawn values
        return True
    lowered = text.lower()
    pairs = [
        lowered[at : at + 2]
        for at in range(len(lowered) - 1)
        if classes[at] in "lu" and classes[at + 1] in "lu"
    ]
    if len(pairs) < 5:  # noqa: PLR2004 - hardly a letter beside another
        return turns_share >= 0.2 and "d" in plain and len(plain) >= 10  # noqa: PLR2004
    common = sum(1 for pair in pairs if pair in _COMMON_PAIRS) / len(pairs)
    if len(set(plain)) == 1 and len(pairs) < 8:  # noqa: PLR2004 - one short word of a case
        return False
    return common < (0.5 if turns_share >= 0.15 else 0.4)  # noqa: PLR2004


# -- examples that vendors print ------------------------------------------------------------------

_DOCUMENTED = re.compile(
    r"Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==?"  # Azurite
    r"|C2y6yDjf5/R\+ob0N8A7Cgv30VRDJIWEHLM\+4QDU5DE2nQ9nDuVTqobD4b8mGGyPMbIZnqyMsEcaGQy67XIw/Jw==?"  # Cosmos
    r"|014df517-39d1-4453-b7b3-9930c563627c",
)


def is_documented(value: str) -> bool:
    """Whether a value is one that a vendor prints in its documentation or ships in an emulator."""
    return "EXAMPLE" in value or _DOCUMENTED.match(value) is not None
