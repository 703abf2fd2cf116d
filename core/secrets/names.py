"""Says what a name promises of the value that it is given.

::

    password, pwd, passphrase …          any literal is a secret
    secret, client secret …              any literal that is no resource's name
    token, api key, credentials …        what looks random
    secretName, password_file, …         tells about a secret and does not hold one

The words after a keyword decide that last row: which they are was read off real playbooks
(`ApiKeyRequired: true`, `PasswordLength`, `nextToken`).
"""

from __future__ import annotations

import re
from enum import IntEnum
from functools import lru_cache


class Holds(IntEnum):
    """What a name promises of its value."""

    TOKEN = 1  # a secret when it looks random: the name stands for other things, too
    SECRET = 2  # a secret, or the name of a resource that holds one
    PASSWORD = 3  # a secret, whatever it looks like


WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_PASSWORD = re.compile(
    r"passw(?:or)?d|pass_?(?:phrase|code|wort)|passwrd|pwd|pswd|contrase[nñ]a|kennwort|senha"
    r"|(?:^|_)(?:pass|pw|psw)_?\d*$|(?:db|user|admin|root|ssh|ftp|smtp|my|sql|store|key|require|master)p(?:ass|w)$"
    r"|(?:^|_)auth_?pass|secret_(?:string|value|data)$"
)
_SECRET = re.compile(r"secret")
_KEY_OF = (
    "api", "auth", "service", "account", "access", "secret", "private", "priv", "encryption",
    "encrypt", "signing", "sign", "signature", "master", "shared", "storage", "primary", "secondary",
    "client", "crypto", "cipher", "aes", "hmac", "deploy", "function", "host", "webhook", "sas",
    "cosmos", "search", "db", "database", "app", "application", "admin", "jwt", "session", "license",
    "subscription", "cookie", "integration", "ingest", "sharedaccess",
)  # fmt: skip
_TOKEN = re.compile(
    r"token|credential|(?:^|_)creds?(?:_|$)|(?:^|_)(?:auth|authorization|bearer|jwt|sas|psk|salt)$"
    rf"|(?:{'|'.join(_KEY_OF)})_?key(?:_?\d|$|_)"
)
# Words after the keyword that make the name something else: `secret_name`, `PasswordLength`.
_ABOUT = frozenset(
    {
        "name", "names", "arn", "arns", "id", "ids", "identifier", "type", "types", "required", "length", "age",
        "days", "port", "enabled", "version", "versions", "policy", "policies", "uri", "url", "urls", "ref",
        "refs", "reference", "path", "paths", "file", "files", "filename", "dir", "prefix", "suffix", "source",
        "count", "expires", "expiry", "expiration", "expire", "validity", "authentication", "manager", "smanager",
        "rotation", "rotate", "reuse", "extension", "extensions", "http", "https", "template", "kind", "store",
        "provider", "providers", "parameter", "parameters", "param", "params", "env", "variable", "var", "label",
        "description", "desc", "hint", "title", "prompt", "message", "msg", "help", "text", "field", "fields",
        "attribute", "column", "permissions", "vault", "group", "role", "class", "auth", "login", "min", "max",
        "size", "format", "pattern", "regex", "regexp", "rule", "rules", "validator", "validation", "valid",
        "hash", "hashed", "hashes", "digest", "sha", "md", "checksum", "encrypted", "stdin", "lifetime", "ttl",
        "timeout", "endpoint", "host", "hostname", "server", "service", "api", "namespace", "project", "region",
        "location", "scope", "scopes", "issuer", "audience", "method", "mode", "option", "options", "status",
        "state", "exists", "changed", "reset", "generator", "output", "outputs", "list", "index", "error", "errors",
        "usage", "limit", "limits", "last", "modified", "time", "date", "update", "updated", "created", "ready",
        "mount", "volume", "volumes", "backend", "engine", "spec", "algorithm", "algorithms", "bits", "bytes", "key vault", "keyvault",
        "example", "placeholder", "default name", "request", "response", "owner", "resource", "resources", "scanning",
        "scanner", "detection", "protection", "less", "reader", "writer", "user", "username", "users", "alias", "fingerprint",
        "entry", "mgr", "with", "thru", "stacking", "binding", "plugin", "plugins", "selector", "lookup", "properties", "property", "metadata", "annotations", "labels", "operation", "operations", "action", "actions", "tags", "tag",
    }
)  # fmt: skip
# Words before it that do: `next_token`, `disablePasswordAuthentication`, `public_key`.
_NOT_BEFORE = frozenset(
    {
        "next", "page", "continuation", "is", "has", "no", "show", "disable", "disabled", "enable", "use",
        "require", "requires", "required", "allow", "allows", "forgot", "public", "pagination", "marker",
        "skip", "starting", "cancellation", "output", "input", "change", "creation", "resume", "sync", "client request", "idempotency", "request", "invalid", "missing",
        "min", "max", "minimum", "maximum", "by", "get", "prompt", "with", "without", "needs", "deletion",
    }
)  # fmt: skip


@lru_cache(maxsize=4096)
def holds(name: str) -> Holds | None:
    """Return what a name promises of the value that it is given, or None."""
    words = [word.lower() for word in WORDS.findall(name)]
    joined = "_".join(words)
    if not joined:
        return None
    password = _last(_PASSWORD, joined) or _last(
        _PASSWORD, re.sub(r"[^a-zñ\d]+", "_", name.lower())
    )
    found = password or _last(_SECRET, joined)
    if found is None:
        found = _last(_TOKEN, joined)
        strength = Holds.TOKEN
    else:
        strength = Holds.PASSWORD if password else Holds.SECRET
    if found is None:
        return None
    before = joined[: found.start()].strip("_").split("_")
    after = joined[found.end() :].strip("_").split("_")
    if any(word in _ABOUT for word in after) or any(word in _NOT_BEFORE for word in before):
        return None
    # `secretsmanager`, `passwordless`, `tokenize`: a word that only begins like the keyword
    if joined[found.end() :][:1] not in {"", "_", "s"} and strength is not Holds.PASSWORD:
        rest = joined[found.end() :].split("_")[0]
        return strength if rest.isdigit() or rest in {"key", "value", "string", "data"} else None
    if "public_key" in joined or joined.endswith("key_vault"):
        return None
    return strength


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    matches = list(pattern.finditer(text))
    return matches[-1] if matches else None
