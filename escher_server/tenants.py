"""Tenants, their tokens, and who is calling."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import TypeAdapter

from escher_server.config import Role, TenantId
from escher_server.database import Database, open_database
from escher_server.problems import Problem

_TENANT_ID: TypeAdapter[str] = TypeAdapter(TenantId)


@dataclass(frozen=True, slots=True)
class Caller:
    """The tenant and role that a bearer token stands for."""

    tenant_id: str
    role: str

    def require_tenant(self, tenant_id: str) -> None:
        """Refuse (403) a request that names another tenant."""
        if tenant_id != self.tenant_id:
            raise Problem(403, "The token belongs to another tenant.")

    def require_reviewer(self) -> None:
        """Refuse (403) a token that is not a reviewer's."""
        if self.role != "reviewer":
            raise Problem(403, "This call asks for a token with the role reviewer.")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def add_token(database: Database, tenant_id: str, role: Role, token: str) -> None:
    """Make ``token`` valid for the tenant, which is created when new; doing so twice is fine."""
    _TENANT_ID.validate_python(tenant_id)
    if role not in get_args(Role):
        raise ValueError(f"Role {role!r} is neither member nor reviewer.")
    if not token:
        raise ValueError("A token can't be empty.")
    with database.write() as connection:
        connection.execute("INSERT OR IGNORE INTO tenants (tenant_id) VALUES (?)", (tenant_id,))
        connection.execute(
            "INSERT OR REPLACE INTO tokens VALUES (?, ?, ?)", (_hash(token), tenant_id, role)
        )


def ensure_tenant(data_dir: Path, tenant_id: str, role: Role, token: str) -> None:
    """`add_token` on a data directory, whether or not a server is running on it."""
    database = open_database(data_dir)
    try:
        add_token(database, tenant_id, role, token)
    finally:
        database.close()


class Authenticator:
    """Finds the caller of an ``Authorization`` header."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, Caller] = {}  # valid tokens only, so strangers can't fill it

    def caller(self, authorization: str | None) -> Caller:
        """The caller, or 401. Tokens are added while running and never withdrawn: cached."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Problem(401, "Send Authorization: Bearer <token>.")
        token_hash = _hash(token.strip())
        known = self._known.get(token_hash)
        if known is not None:
            return known
        row = (
            self._database.read()
            .execute("SELECT tenant_id, role FROM tokens WHERE token_hash = ?", (token_hash,))
            .fetchone()
        )
        if row is None:
            raise Problem(401, "The token is not known to this server.")
        return self._known.setdefault(token_hash, Caller(row["tenant_id"], row["role"]))
