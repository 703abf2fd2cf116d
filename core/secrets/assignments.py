r"""Finds values given to names that say secret, in a text of any syntax.

::

    PASSWORD=…  password: "…"  "password":"…"  {\\"password\\": \\"…\\"}  -e PASSWORD=…     assignments
    --admin-password …  -Password …  /p:…                                               flags
    {"adminPassword": {"value": "…"}}                                                   a step inside
    getenv("PASSWORD", "…")  ${PASSWORD:-…}  <password>…</password>                     defaults, XML
    login … password …  requirepass …                                                   directives

A word without quotes is a value in shells, settings and YAML; in a program it is a name, but for
what stands inside a string there (a connection string, a command). Each keyword is looked at once
and as far as `_REACH` characters, so that the time grows with the text alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from core.secrets import Degree
from core.secrets.names import Holds, holds
from core.secrets.values import judge, looks_random

KEYWORD = "Secret Keyword"

_KEYWORDS = re.compile(
    r"passw|passphrase|pass_?phrase|passcode|pwd|pswd|secret|token|contrase|kennwort|senha|credential|creds|auth|key|pass|pw|psk|bearer|jwt|sas\b"
)
_REACH = 1000
_NAME_BEFORE = re.compile(r"[\w$.\-]*\Z")
_NEAR = 160
_NAME_CHARS = 80
_NAME_AFTER = re.compile(r"[\w.\-]{0,60}")
_SEPARATOR = re.compile(
    r"""(?P<closers>(?:\\*["'`]|\]|\)){0,3})
    (?:
      (?P<pair>,\s{0,40}\\?["']?(?:[Vv]alue|[Dd]efault(?:[Vv]alue)?)\\?["']?[ \t]{0,9}[:=][ \t]{0,9}(?=["'\\]))
     |[ \t]{0,40}(?P<assigns>(?::[ \t]*[A-Za-z][\w.\[\]|]{0,20}(?:\([^)\n]{0,20}\))?[ \t]*=|[:=!]=+>?|=>?|:|<-)[ \t]{0,40}
        (?:\{\s{0,20}\\?["']?(?:[Vv]alue|[Dd]efaultValue|[Dd]efault)\\?["']?\s{0,9}[:=]\s{0,20})?)
     |[ \t]+(?P<typed>(?:string|str|securestring|String|SecureString)[ \t]*=[ \t]*)
     |[ \t]*(?P<comma>,)[ \t]{0,40}(?=(?:[rbf]|\\)?["'])
     |(?P<otherwise>[ \t]{1,4}(?:or|\|\||\?\?|\?:)[ \t]{1,4}(?=["']))
     |(?P<xml>>)(?=[^<\s])
     |(?P<attribute>[ \t]+value[ \t]*=[ \t]*)
     |(?P<blank>(?:[ \t]+|[ \t]*[\\`]\r?\n[ \t]*))
    )""",
    re.VERBOSE,
)
_DEFAULT = re.compile(r":?[-=]([^}\n]{1,4096})\}")  # of `${NAME:-…}`
_PREFIX = re.compile(
    r"(?:[rbfuRBFU]{1,2}|@|N|\$|!Sub[ \t]+|!!str[ \t]+|new[ \t]+\w+\(|\w*\(\s*|\\\r?\n\s*)?(?=\\*[\"'`])"
)
_QUOTED = {
    '"': re.compile(r'"((?:[^"\\\n]|\\.){0,4096})(?:"|$)?', re.MULTILINE),
    "'": re.compile(r"'((?:[^'\\\n]|\\.|''){0,4096})(?:'|$)?", re.MULTILINE),
    "`": re.compile(r"`([^`\n]{0,4096})(?:`|$)?", re.MULTILINE),
}
_ESCAPED = re.compile(r"""\\+(["'])((?:(?!\\+\1)[^\n]){0,4096}?)\\+\1""")
_BARE = re.compile(
    r"""(?:[^\s'"`;&|<>(){}\[\],\\]|\\(?![nrt])[^\s"'\\]|[<{(\[$][\w.\[\]'"| ${}-]*[>})\]])+"""
)
_PLAIN = re.compile(r"[^\n]*")
# What follows a quote that closes: `'--password ', parameters(…)`, `"pass" + x`.
_CLOSER = re.compile(r"\s*(?:[,);]|\+\s|\+\w+\s*\+\s*[\"']|&\s|\.\s|\]|\s-)|\s+\S")
_XML_VALUE = re.compile(r"([^<\n]{1,4096})</")
_SCHEME = re.compile(
    r"(?:bearer|token|basic|apikey|key|digest|aws|splunk|bot)[ \t]+", re.IGNORECASE
)
_WORKING_FOLDERS = frozenset({"PWD", "OLDPWD"})  # but in a connection string
# Directives of settings files that take their value after a blank.
_DIRECTIVES = frozenset(
    {
        "requirepass",
        "masterauth",
        "bindpw",
        "rootpw",
        "password",
        "secret",
        "passphrase",
        "wpa_passphrase",
        "stats_auth",
    }
)
_DIRECTIVE_BEFORE = re.compile(
    r"(?:^|\n|\\n|(?:^|[\s=(:,])['\"])[ \t]*\Z|(?:login|user|username|enable|machine|account)[ \t]+(?:\S{1,80}[ \t]+)?\Z"
)
_ENV_BEFORE = re.compile(r"[ \t]*(?:ENV|ARG|SetEnv|setenv|env|setx|SETX)[ \t]+\Z")
_CONFIGURE_BEFORE = re.compile(
    r"(?:configure|config)(?:[ \t]+-\S+(?:[ \t]+[\w-]+)?)*[ \t]+(?:set|add)?[ \t]*(?:-\S+[ \t]+)*(?:\S{0,80}[/:])?\Z"
)


def may_hold(lowered: str) -> bool:
    """Whether a text, in lower case, has a word that a secret may be given to."""
    return _KEYWORDS.search(lowered) is not None


def assigned(text: str, lowered: str, *, bare: bool) -> Iterator[tuple[int, Degree] | None]:
    """Yield (offset, degree) of secrets given to names, and None after each look, to look at the clock.

    ``bare``: a word without quotes is a value in this syntax.
    """
    done = 0
    for keyword in _KEYWORDS.finditer(lowered):
        if keyword.start() < done:
            continue
        after = _NAME_AFTER.match(text, keyword.end())
        assert after is not None  # it matches nothing, too
        done = after.end()
        yield None
        default = _DEFAULT.match(text, done)
        separator = _SEPARATOR.match(text, done)
        if separator is None and default is None:
            continue
        before = _NAME_BEFORE.search(text, max(0, keyword.start() - _NAME_CHARS), keyword.start())
        start = before.start() if before else keyword.start()
        name = text[start:done].rstrip(".-")
        if default is not None and text[start - 2 : start] == "${":
            degree = judge(name, default[1].strip("\"'"))
            if degree is not None:
                yield default.start(1), degree
            continue
        if separator is None:
            continue
        found = _look(text, start, name, separator, takes_bare=bare)
        if found is not None:
            yield found


_COMMENT = re.compile(r"\s*(?:#|//|--|;|\*)")
# A comment that says so: `# Example password: …`.
_EXAMPLE_BEFORE = re.compile(r"\s*(?:#|//|--|;|\*).*\b(?:[Ee]xamples?|[Ss]amples?|e\.g\.)(?![.\w])")


def _look(
    text: str, start: int, name: str, separator: re.Match[str], *, takes_bare: bool
) -> tuple[int, Degree] | None:
    flag = name.startswith("-")
    strength = holds(name)
    if strength is None:
        return None
    if (separator["assigns"] or "").strip() == ":" and _in_path(text, start):
        return None
    if name == "PASS" and (separator["assigns"] or "").startswith(":"):
        return None  # a test's result
    before = text[start - 1 : start]
    if name.strip("$").upper() in _WORKING_FOLDERS and not (
        before == ";" or (before in {'"', "'"} and separator["assigns"])
    ):
        return None
    at = separator.end()
    line_start = text.rfind("\n", max(0, start - _REACH), start) + 1
    head = text[line_start or max(0, start - _REACH) : start]
    if separator["xml"] is not None:
        if not re.search(r"<[\w:.-]*\Z", head):
            return None
        value = _XML_VALUE.match(text, at)
        return _judged(name, value[1], at, strength) if value else None
    if separator["blank"] is not None:
        if separator["closers"]:
            return None
        return _after_blank(text, head, name, separator, strength, flag=flag)
    if separator["comma"] is not None and not (
        re.fullmatch(r"\\*[\"']", separator["closers"])
        and (flag or re.search(r"\(\s*\\?[\"']\Z", head))
    ):
        return None
    quotes = re.sub(r"[^\"'`]", "", separator["closers"])
    found = _value(
        text,
        at,
        head,
        name,
        strength,
        takes_bare=takes_bare,
        quotes=quotes,
        flag=flag,
        comma=separator["comma"] is not None,
    )
    if found is not None and _EXAMPLE_BEFORE.match(head):
        return found[0], Degree.POSSIBLE
    return found


_TEMPLATE_OPEN = re.compile(r"\{\{(?:(?!\}\}).)*\Z|arn:[^\s\"']*\Z|::\Z|\$\{[^}]*\Z")


def _in_path(text: str, start: int) -> bool:
    """Whether the name is a part of an ARN, a mounted path or a template's expression."""
    return text[start - 1 : start] in {"/", ":"} or bool(
        _TEMPLATE_OPEN.search(text[max(0, start - 120) : start].rpartition("\n")[2])
    )


def _value(
    text: str, at: int, head: str, name: str, strength: Holds,
    *, takes_bare: bool, quotes: str, flag: bool, comma: bool = False,
) -> tuple[int, Degree] | None:  # fmt: skip
    """The value that stands at ``at``, judged; ``head`` is the line before the name."""
    inside = _open_quote(head)
    if quotes and inside and quotes[0] == inside:
        inside = ""
    scheme = _SCHEME.match(text, at)
    if scheme:
        at = scheme.end()
    prefix = _PREFIX.match(text, at)
    if prefix:
        at = prefix.end()
    char = text[at : at + 1]
    if char == "\\":
        escaped = _ESCAPED.match(text, at)
        return _judged(name, escaped[2], at, strength, expands=False) if escaped else None
    if char in _QUOTED and char != inside:
        quoted = _QUOTED[char].match(text, at)
        if quoted is None:
            return None
        value = quoted[1]
        if _CLOSER.match(value):
            return None
        if comma and strength is not Holds.PASSWORD and " " in value:
            return None
        scheme = _SCHEME.match(value)
        value = value[scheme.end() :] if scheme else value
        return _judged(name, value, at, strength, expands=char == '"')
    if char in _QUOTED or comma:
        return None
    comment = not (takes_bare or inside or flag)
    if comment and not _COMMENT.match(head):
        return None
    bare = _BARE.match(text, at)
    if (
        bare is None or char == "(" or (text[at - 2 : at] == "= " and text[at - 3] != " ")
    ):  # `pass= next=`
        return None
    value = bare[0].rstrip(".") if inside else bare[0]
    rest = _PLAIN.match(text, bare.end())
    if rest and not flag and _is_prose(rest[0], " " if inside else text[at - 1 : at]):
        return None
    if rest and rest[0][:1] in "([" and rest[0]:
        return None  # a call, or an item of something
    if (
        (inside or text[at - 2 : at] == ": ")
        and text[at - 1 : at] in " \t:"
        and value.isalpha()
        and not looks_random(value)
    ):
        return None  # "Password: hidden"
    if comment and not looks_random(value):
        return None
    return _judged(name, value, at, strength, bare=True)


def _is_prose(rest: str, before: str) -> bool:
    """Whether more words follow, as in a sentence after a colon."""
    words = re.match(r"[ \t]+[A-Za-z]+[ \t]+[A-Za-z]{2,}", rest)
    return before in " \t" and words is not None


def _after_blank(
    text: str, head: str, name: str, separator: re.Match[str], strength: Holds, *, flag: bool
) -> tuple[int, Degree] | None:
    at = separator.end()
    lowered, near = name.lower(), head[-_NEAR:]
    if flag:
        if strength is not Holds.TOKEN and not re.match(r"-{1,2}[A-Za-z]", name):
            return None
    elif (
        _CONFIGURE_BEFORE.search(near)
        or _ENV_BEFORE.match(head)
        or (lowered in _DIRECTIVES and _DIRECTIVE_BEFORE.search(near))
    ):
        pass
    else:
        return None
    inside = _open_quote(head)
    escaped = _ESCAPED.match(text, at)
    if escaped:
        return _judged(name, escaped[2], at, strength, expands=False)
    char = text[at : at + 1]
    if char in _QUOTED and char != inside:
        quoted = _QUOTED[char].match(text, at)
        if quoted is None or _CLOSER.match(quoted[1]):
            return None
        return _judged(name, quoted[1], at, strength, expands=char == '"')
    bare = _BARE.match(text, at)
    if bare is None or bare[0].startswith(("-", "@")):
        return None
    value = bare[0].rstrip(".,:")
    if not flag and not (looks_random(value) or re.search(r"\d", value)):
        return None  # a sentence that begins with the word
    if re.fullmatch(r"[A-Z_\d]+", value) and "_" in value:
        return None  # a metavariable in a synopsis
    if value.isalpha() and value.islower() and not looks_random(value):
        return None  # `--password is required`
    return _judged(name, value, at, strength, bare=True)


def _judged(
    name: str, value: str, at: int, strength: Holds, *, bare: bool = False, expands: bool = True
) -> tuple[int, Degree] | None:
    degree = judge(name, value, strength=strength, bare=bare, expands=expands)
    return None if degree is None else (at, degree)


def _open_quote(head: str) -> str:
    """The quote that a line's beginning leaves open, or ""."""
    opened = ""
    at = 0
    for match in re.finditer(r"\\.|[\"'`]", head):
        char = match[0]
        if len(char) > 1:
            continue
        if not opened:
            # an apostrophe in a word opens nothing
            at = match.start()
            if char == "'" and at and head[at - 1].isalpha() and head[at - 1 :][2:3].isalpha():
                continue
            opened = char
        elif opened == char:
            opened = ""
    return opened
