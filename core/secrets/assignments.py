"""`password = "…"`: a secret by the name it is given to, with what is no secret sorted out.

detect-secrets' keyword detector finds the assignments; alone, it is wrong in 400 lines of the
corpus for every 20 right ones (`ApiKeyRequired: true`, `secretsmanager:GetSecretValue`, …).
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detect_secrets.plugins.keyword import KeywordDetector

MIN_SECRET_CHARS = 6

# Suffixes of formats in which a bare word after = or : is a value; elsewhere it is a name.
_BARE_VALUES = frozenset(
    {"", ".sh", ".bash", ".env", ".ini", ".cfg", ".properties", ".yaml", ".yml"}
)

_KEYWORD = re.compile(
    r"(?<!by)pass(?:word|wd|phrase)?|pwd|secret|contrase[nñ]a"
    r"|(?:api|auth|service|account|access|db|database|priv|private|client)[_-]?key",
    re.IGNORECASE,
)
_KEYWORD_PARTS = ("pass", "pwd", "secret", "contrase", "key")  # one of them is in each
# The name in front of a value: the identifier before = or :
_NAME = re.compile(r"([A-Za-z_][\w.-]*)['\"\])]*\s*(?:[:=!]=*>?|=>)\s*[@!\w]*\s*['\"`]?$")
# `secret_name`, `PasswordLength`: words after the keyword that make it something else
_ABOUT = frozenset(
    {
        "name", "names", "arn", "arns", "id", "ids", "type", "required", "length", "age",
        "days", "port", "enabled", "version", "versions", "policy", "uri", "url", "ref",
        "path", "file", "prefix", "source", "count", "expires", "expiration", "validity",
        "authentication", "manager", "smanager", "rotation", "rotate", "reuse", "extension",
        "extensions", "http", "template", "kind", "store", "provider", "parameter", "param",
        "env", "variable", "label", "description", "hint", "title", "prompt", "field",
        "attribute", "column", "permissions", "vault", "group", "role", "class", "auth",
        "login", "min", "max",
    }
)  # fmt: skip
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

# AWS' own way to name a secret without holding it
_DYNAMIC = re.compile(r"\{\{resolve:.*|arn:aws[\w-]*:secretsmanager:.*")

# Values that point at a secret or stand for one.
_REFERENCE = re.compile(
    r"[\[$<{(!%*&]|arn:|https?://|projects/|/subscriptions/|privatesettingsref:"
    r"|(?:var|local|data|module|each|self|os|process|random_\w+|[a-z]+_[a-z_]+\.\w+)\."
    r"|.*\{\{|.*\$\{|.*<[\w -]+>$",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"(?:value|secret|password|passwd|string|text|example|sample|dummy|placeholder|replaced?"
    r"|redacted|changed|todo|none|null|true|false|yes|no|header|required|optional|enabled|disabled"
    r"|x+|\.+|\*+|-+|_+)\d*|your[-_ ].*|\d[\d.]*",
    re.IGNORECASE,
)
_IAM_ACTION = re.compile(r"(?:[A-Z][a-z]+)+\*?")  # GetSecretValue, DescribeSecret
_BARE = re.compile(r"[^\s'\"`(){}\[\],;|&<>]+")

# A parameter's default stands some lines below its name.
_DEFAULT = re.compile(r"^\s*-?\s*[\"']?default(?:value)?[\"']?\s*[:=]\s*(.+?),?\s*$", re.IGNORECASE)
_DECLARED = re.compile(
    r"^\s*(?:\{\s*)?[\"']?name[\"']?\s*:\s*[\"']([\w-]+)[\"']"  # parameters.json
    r"|^\s*variable\s+\"([\w-]+)\"\s*\{"  # terraform
    r"|^\s*[\"']?([A-Za-z][\w-]*)[\"']?\s*:\s*\{?\s*$"  # CloudFormation, ARM
)
_DECLARATION_REACHES = 8


def takes_bare_values(path: str) -> bool:
    """Whether a word without quotes is a value in such a file: all that a path is looked at for."""
    return PurePosixPath(path).suffix in _BARE_VALUES


class Assignments:
    """Reads one file's lines in their order."""

    def __init__(self, path: str) -> None:
        self._bare = takes_bare_values(path)
        self._declared, self._lines_since = "", 0

    @staticmethod
    def may_be_in(lowered: str) -> bool:
        """Whether a text, in lower case, may have a word that a secret is given to.

        `_KEYWORD` without regard to case takes a third of a scan's time; most texts and lines have
        none of its words.
        """
        return any(word in lowered for word in _KEYWORD_PARTS)

    def holds_secret(self, line: str) -> bool:
        """Whether the line gives a secret to a name that says so."""
        self._lines_since += 1
        if "secretsmanager" in line or "{{resolve" in line:
            line = _DYNAMIC.sub("", line)
        declared = _DECLARED.match(line)
        if declared:
            self._declared = next(name for name in declared.groups() if name)
            self._lines_since = 0
        elif self._lines_since <= _DECLARATION_REACHES and _KEYWORD.search(self._declared):
            default = _DEFAULT.match(line)
            if default and _is_secret(self._declared, default[1].strip("\"'")):
                return True
        if not self.may_be_in(line.lower()):
            return False
        return bool(_KEYWORD.search(line)) and self._assigns(line)

    def _assigns(self, line: str) -> bool:
        from detect_secrets.filters.heuristic import is_indirect_reference
        from detect_secrets.plugins import keyword

        if is_indirect_reference(line):
            return False
        quoted = _detector().analyze_string(line, keyword.QUOTES_REQUIRED_DENYLIST_REGEX_TO_GROUP)
        if any(_is_secret(_name_before(line, value), value) for value in quoted):
            return True
        if not self._bare:
            return False
        bare = _detector().analyze_string(line, keyword.CONFIG_DENYLIST_REGEX_TO_GROUP)
        for value in bare:
            word = _BARE.match(value)
            if word and "$" not in word[0] and _is_secret(_name_before(line, value), word[0]):
                return True
        return False


def _name_before(line: str, value: str) -> str:
    before = line[: line.find(value)]
    found = _NAME.search(before)
    return found[1] if found else ""


def _is_secret(name: str, value: str) -> bool:
    """Whether `value` may be a secret, given to `name` ("" where no name was recognised)."""
    if name and _is_about(name):
        return False
    if len(value) < MIN_SECRET_CHARS or not re.search(r"[A-Za-z]", value):
        return False
    if _REFERENCE.match(value) or _PLACEHOLDER.fullmatch(value):
        return False
    # words of a sentence; a passphrase of words is written without blanks or with a quote
    return value.count(" ") < 2 and not (  # noqa: PLR2004 - three words and more
        _IAM_ACTION.fullmatch(value) and _KEYWORD.search(value) and not name
    )


def _is_about(name: str) -> bool:
    """Whether a name tells something about a secret (`secretArn`) and does not hold it."""
    last = None
    for last in _KEYWORD.finditer(name):  # noqa: B007 - the last one is wanted
        pass
    if last is None:
        return False
    return any(word.lower() in _ABOUT for word in _WORDS.findall(name[last.end() :]))


@lru_cache(maxsize=1)
def _detector() -> KeywordDetector:
    from detect_secrets.plugins.keyword import KeywordDetector as Detector

    return Detector()
