"""Faults on request: what is to go wrong with the next matching requests.

Only reachable on a server started with faults. The rules are tried in order; the first that
matches and whose dice agree acts on the request, and is used up by one.
"""

from __future__ import annotations

import random
import re
from http import HTTPStatus
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Action = Literal[
    "latency",
    "stall",
    "reset",
    "status",
    "html",
    "truncate_body",
    "wrong_byte",
    "longer_body",
    "short_body",
    "gzip_bomb",
    "wrong_checksum",
    "expire_urls",
    "lose_answer_after_commit",
    "cut_request",
    "corrupt_request",
]


class FaultRule(BaseModel):
    """One rule; ``docs/reference-server.md`` says what each action does."""

    model_config = ConfigDict(extra="forbid")

    action: Action
    path: str = ""
    """Regular expression searched in the request's path; empty matches all."""
    method: str | None = None
    """Regular expression for the whole method, such as ``PUT|POST``."""
    count: Annotated[int, Field(ge=1)] | None = 1
    """How many requests it acts on; null: until the rules are replaced."""
    skip: Annotated[int, Field(ge=0)] = 0
    """How many matching requests pass untouched before it acts."""
    probability: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int | None = None
    """Of the dice of ``probability``; with it a run can be repeated."""

    latency_seconds: Annotated[float, Field(ge=0, le=3600)] = 1.0
    """Of ``latency`` and ``stall``."""
    status: Annotated[HTTPStatus, Field(ge=400)] = HTTPStatus.SERVICE_UNAVAILABLE
    retry_after: Annotated[int, Field(ge=0)] | None = None
    """Seconds; of ``status``."""
    at: Annotated[int, Field(ge=0)] | None = None
    """A byte offset in the body; null: in the middle (of ``stall``: before the answer)."""
    extra_bytes: Annotated[int, Field(ge=1)] = 1024
    """Of ``longer_body``."""

    @model_validator(mode="after")
    def _expressions_compile(self) -> Self:
        for expression in (self.path, self.method or ""):
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
        return self


class _Loaded:
    """A rule and how much of it is left."""

    def __init__(self, rule: FaultRule) -> None:
        self.rule = rule
        self.acted = 0
        self._seen = 0
        self._dice = random.Random(rule.seed)
        self._path = re.compile(rule.path)
        self._method = re.compile(rule.method, re.IGNORECASE) if rule.method else None

    def acts_on(self, method: str, path: str) -> bool:
        rule = self.rule
        if rule.count is not None and self.acted >= rule.count:
            return False
        if not self._path.search(path) or (self._method and not self._method.fullmatch(method)):
            return False
        self._seen += 1
        if self._seen <= rule.skip or self._dice.random() >= rule.probability:
            return False
        self.acted += 1
        return True

    def shown(self) -> dict[str, Any]:
        count = self.rule.count
        left = None if count is None else count - self.acted
        return {**self.rule.model_dump(), "acted": self.acted, "left": left}


class FaultPlan:
    """The rules at work; used from the event loop only, so it needs no lock."""

    def __init__(self) -> None:
        self._rules: list[_Loaded] = []

    def replace(self, rules: list[FaultRule]) -> None:
        """Put these rules in place of all others; an empty list ends all faults."""
        self._rules = [_Loaded(rule) for rule in rules]

    def take(self, method: str, path: str) -> FaultRule | None:
        """The rule that acts on this request, used up by one; None: nothing goes wrong."""
        for loaded in self._rules:
            if loaded.acts_on(method, path):
                return loaded.rule
        return None

    def shown(self) -> list[dict[str, Any]]:
        """Every rule with how often it ``acted`` and how often it still will (``left``)."""
        return [loaded.shown() for loaded in self._rules]
