"""Tenants, their members, the tokens of those, and who is calling.

A token names a member, and is known here by its SHA-256 only. A member may have several, so one
is rotated by adding the next and revoking the last; what the member published stays the
member's. A token is good until it is revoked.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import TypeAdapter

from escher_server.config import Member, Role, TenantId
from escher_server.database import Database, open_database
from escher_server.problems import Problem
from escher_server.throttle import Throttle

_TENANT_ID: TypeAdapter[str] = TypeAdapter(TenantId)
_MEMBER: TypeAdapter[str] = TypeAdapter(Member)
_ID_CHARS = 12
_UNGUESSABLE_CHARS = 24
_MAX_TOKEN_CHARS = 4096


@dataclass(frozen=True, slots=True)
class Caller:
    """The tenant, member and role that a bearer token stands for."""

    tenant_id: str
    role: str
    member: str

    def require_tenant(self, tenant_id: str) -> None:
        """Refuse (403) a request that names another tenant."""
        if tenant_id != self.tenant_id:
            raise Problem(403, "The token belongs to another tenant.")

    def require_reviewer(self) -> None:
        """Refuse (403) a token that is not a reviewer's."""
        if self.role != "reviewer":
            raise Problem(403, "This call asks for a token with the role reviewer.")


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token as it may be shown: ``token_id`` begins its hash; times in Unix seconds."""

    token_id: str
    tenant_id: str
    member: str
    role: str
    created_at: int | None
    revoked_at: int | None


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def add_token(
    database: Database, tenant_id: str, role: Role, token: str, member: str | None = None
) -> None:
    """Make ``token`` valid for the tenant, which is created when new; doing so twice is fine.

    Without ``member`` a known token keeps the one it has. A revoked one stays revoked.
    """
    _TENANT_ID.validate_python(tenant_id)
    if role not in get_args(Role):
        raise ValueError(f"Role {role!r} is neither member nor reviewer.")
    if not token:
        raise ValueError("A token can't be empty.")
    if member is not None:
        _MEMBER.validate_python(member)
    token_hash = _hash(token)
    with database.write() as connection:
        connection.execute("INSERT OR IGNORE INTO tenants (tenant_id) VALUES (?)", (tenant_id,))
        connection.execute(
            "INSERT INTO tokens (token_hash, tenant_id, role, member, created_at) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT (token_hash) DO UPDATE SET "
            "tenant_id = excluded.tenant_id, role = excluded.role, member = "
            "CASE WHEN ? IS NULL THEN tokens.member ELSE excluded.member END",
            (token_hash, tenant_id, role, member or f"{role}-{token_hash[:8]}",
             int(time.time()), member),
        )  # fmt: skip


def new_token(database: Database, tenant_id: str, role: Role, member: str) -> str:
    """Make a token that nobody can guess, for a member; it is shown here and never again."""
    token = secrets.token_urlsafe(32)
    add_token(database, tenant_id, role, token, member)
    return token


def list_tokens(database: Database) -> list[TokenRecord]:
    """Every token by tenant, member and age, the revoked ones too."""
    rows = database.read().execute(
        "SELECT token_hash, tenant_id, member, role, created_at, revoked_at FROM tokens "
        "ORDER BY tenant_id, member, created_at, token_hash"
    )
    return [
        TokenRecord(row["token_hash"][:_ID_CHARS], *(row[key] for key in row.keys()[1:]))
        for row in rows
    ]


def revoke_token(database: Database, token_id: str) -> TokenRecord:
    """Let a token in no more, from its next request on; doing so twice is fine.

    ``token_id`` as `list_tokens` tells it. ValueError when it names none, or more than one.
    """
    found = [record for record in list_tokens(database) if record.token_id == token_id]
    if len(found) != 1:
        raise ValueError(f"There is no token {token_id!r} here." if not found else "Ambiguous.")
    with database.write() as connection:
        connection.execute(
            "UPDATE tokens SET revoked_at = coalesce(revoked_at, ?) "
            "WHERE substr(token_hash, 1, ?) = ?",
            (int(time.time()), _ID_CHARS, token_id),
        )
    return next(record for record in list_tokens(database) if record.token_id == token_id)


def ensure_tenant(
    data_dir: Path, tenant_id: str, role: Role, token: str, member: str | None = None
) -> None:
    """`add_token` on a data directory, whether or not a server is running on it."""
    database = open_database(data_dir)
    try:
        add_token(database, tenant_id, role, token, member)
    finally:
        database.close()


class Authenticator:
    """Finds the caller of an ``Authorization`` header."""

    def __init__(self, database: Database, throttle: Throttle | None = None) -> None:
        self._database = database
        self._throttle = throttle or Throttle()

    def caller(self, authorization: str | None, peer: str | None) -> Caller:
        """The caller, or 401; 429 for an address that has sent too many wrong tokens.

        A right token is let in however many wrong ones came from its address, if nobody could
        have guessed it (24 characters and more, as those made here are). A shorter one waits
        with that address, unless it came from there before.
        """
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > _MAX_TOKEN_CHARS:
            raise Problem(401, "Send Authorization: Bearer <token>.")
        token_hash = _hash(token)
        if len(token) < _UNGUESSABLE_CHARS and not self._throttle.has_seen(peer, token_hash):
            self._throttle.check(peer)
        caller = self._look_up(token_hash)
        if caller is None:
            self._throttle.check(peer)
            self._throttle.wrong(peer)
            raise Problem(401, "The token is not known to this server.")
        self._throttle.right(peer, token_hash)
        return caller

    def still_good(self, authorization: str | None) -> bool:
        """Whether a token that was let in has not been revoked since."""
        _, _, token = (authorization or "").partition(" ")
        return self._look_up(_hash(token.strip())) is not None

    def _look_up(self, token_hash: str) -> Caller | None:
        """At every call, since tokens are revoked while the server runs, by another process."""
        row = (
            self._database.read()
            .execute(
                "SELECT token_hash, tenant_id, role, member FROM tokens "
                "WHERE token_hash = ? AND revoked_at IS NULL",
                (token_hash,),
            )
            .fetchone()
        )
        if row is None or not hmac.compare_digest(row["token_hash"], token_hash):
            return None
        return Caller(row["tenant_id"], row["role"], row["member"])
