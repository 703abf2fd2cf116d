"""The forms people use, drawn with seeds: what is secret is found at its line, what is not is not flagged."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from support.secret_forms import harmless_cases, true_cases

from core.secrets import Degree
from core.secrets.scanner import scan_content

SEEDS = (11, 4242)


@pytest.mark.parametrize("seed", SEEDS)
def test_of_true_ones_all_but_one_in_fifty_are_found(seed: int) -> None:
    cases = list(true_cases(seed))
    missed = [
        case.form
        for case in cases
        if not any(
            spot.line == case.line and spot.degree is Degree.CERTAIN
            for spot in scan_content(case.path, case.content)
        )
    ]
    assert len(cases) > 170
    assert len(missed) <= len(cases) // 50, missed


@pytest.mark.parametrize("seed", SEEDS)
def test_of_harmless_ones_none_is_flagged(seed: int) -> None:
    flagged = Counter(
        case.form for case in harmless_cases(seed) for _ in scan_content(case.path, case.content)
    )
    assert flagged == {}


def test_no_finding_holds_what_was_found() -> None:
    for case in true_cases(7):
        line = case.content.decode("latin-1").split("\n")[case.line - 1]
        long_words = {word for word in re.split(r"[^\w]", line) if len(word) > 11}
        for spot in scan_content(case.path, case.content):
            assert not any(word in repr(spot) for word in long_words), case.form
