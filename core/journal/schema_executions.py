"""The tables of what execution engines reported.

::

    executions        one row a run: waits to be sent (due), was counted by the server (sent), or
                      was refused by it again and again (failed); kept so that it counts once
    execution_refs    one row a version that was run: its failures in a row, and its next attempt

Times are Unix seconds.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)

from core.journal.schema import metadata

executions = Table(
    "executions",
    metadata,
    # the order of arrival; clocks may go back
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("execution_id", String(200), nullable=False, unique=True),
    Column("playbook_id", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    Column("success", Boolean, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("error", Text),  # the engine's words; they stay here
    Column("at", BigInteger, nullable=False),  # when it ran, as the engine says
    Column("state", String(8), nullable=False),  # due | sent | failed
    Column("state_since", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)
Index("executions_state", executions.c.state, executions.c.playbook_id, executions.c.version)

execution_refs = Table(
    "execution_refs",
    metadata,
    Column("playbook_id", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    Column("failures_in_a_row", Integer, nullable=False, default=0),
    Column("attempts", Integer, nullable=False, default=0),  # at sending, since it last went well
    Column("next_attempt_at", BigInteger),
    Column("reason", Text),  # why sending did not go well
    PrimaryKeyConstraint("playbook_id", "version"),
)
