"""Rows of a table as records, JSON in a column, and the conditions that name versions.

The records are plain dataclasses and no mapped classes of SQLAlchemy's ORM: those can be neither
frozen nor have slots, `sqlalchemy.orm` takes as long to import as the rest of it, and it is slower
at reading the 30,000 rows of a full home.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from enum import StrEnum
from typing import Any, Generic, TypeVar

from sqlalchemy import Column, ColumnElement, Enum, Select, Table, Text, and_, select, tuple_
from sqlalchemy.types import TypeDecorator

from core.models import Ref

CHUNK = 400  # values in one IN (…); SQLite takes 32,766

T = TypeVar("T")


def one_of(kind: type[StrEnum], length: int) -> Enum:
    """The type of a column of text that holds values of an enumeration."""
    return Enum(
        kind,
        native_enum=False,
        length=length,
        values_callable=lambda members: [member.value for member in members],
    )


class Json(TypeDecorator[Any]):
    """A column of JSON; ``kind`` is what its value is read as, and what NULL stands for (None: None)."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Any, _dialect: Any) -> str | None:
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, _dialect: Any) -> Any:
        if self.kind is None:
            return None if value is None else json.loads(value)
        return self.kind() if value is None else self.kind(json.loads(value))


class Rows(Generic[T]):
    """The rows of a table as records of a dataclass, whose fields are the columns of their names.

    ``head`` is the type of a first field that stands for several columns, such as a `Ref`.
    """

    def __init__(self, table: Table, record: type[T], head: type | None = None) -> None:
        self._record: Callable[..., T] = record
        self._head: Callable[..., Any] | None = head
        self._first, *self._others = _names_of(record)
        self._parts = _names_of(head) if head else [self._first]
        self.columns = tuple(table.c[name] for name in (*self._parts, *self._others))

    def select(self, *where: ColumnElement[bool]) -> Select[Any]:
        """A query of these columns, in their order, for `records`."""
        return select(*self.columns).where(*where)

    def records(self, rows: Iterable[Sequence[Any]]) -> list[T]:
        """Records of rows with just these columns."""
        record, head, end = self._record, self._head, len(self._parts)
        if head is None:
            return [record(*row) for row in rows]
        return [record(head(*row[:end]), *row[end:]) for row in rows]

    def values(self, record: T) -> dict[str, Any]:
        """The column values of a record."""
        first = getattr(record, self._first)
        if self._head is None:
            values = {self._first: first}
        elif isinstance(first, tuple):
            values = dict(zip(self._parts, first, strict=True))
        else:
            values = {name: getattr(first, name) for name in self._parts}
        values.update((name, getattr(record, name)) for name in self._others)
        return values


def _names_of(kind: Any) -> list[str]:
    """The fields of a named tuple or a dataclass."""
    return list(getattr(kind, "_fields", None) or (field.name for field in fields(kind)))


def key(table: Table) -> tuple[Column[str], Column[str]]:
    """The two columns of a version's ref."""
    return table.c.playbook_id, table.c.version


def chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """The values, `CHUNK` at most at a time."""
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))


def among(table: Table, refs: Iterable[Sequence[str]]) -> ColumnElement[bool]:
    """The rows of these refs; at most `CHUNK`."""
    keys = [(ref[0], ref[1]) for ref in refs]
    # the ids alone, too: SQLite reads the whole index for an IN of pairs
    ids = table.c.playbook_id.in_({playbook_id for playbook_id, _ in keys})
    return and_(ids, tuple_(*key(table)).in_(keys))


def of_ref(table: Table, ref: Ref) -> ColumnElement[bool]:
    """The rows of one ref."""
    return and_(table.c.playbook_id == ref.playbook_id, table.c.version == ref.version)


def same_ref(table: Table, other: Table) -> ColumnElement[bool]:
    """Rows of two tables that belong to one version."""
    return and_(
        table.c.playbook_id == other.c.playbook_id, table.c.version == other.c.version
    )  # fmt: skip
