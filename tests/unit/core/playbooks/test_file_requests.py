"""What is followed of a file, and what is kept as its request."""

from __future__ import annotations

from typing import Any

import pytest
from support.playbooks import metadata

from core.errors import InvalidPlaybook
from core.models import Status, Strategy
from core.playbooks.decisions import Decided, split_requests


@pytest.mark.parametrize("name", ["storage_strategy", "status"])
@pytest.mark.parametrize("value", ["loud", "", 7, ["uploaded_trusted"], {"a": 1}])
def test_a_value_that_there_is_not_is_refused_by_name(name, value):
    with pytest.raises(InvalidPlaybook, match=f"{name} .* is unknown"):
        split_requests(metadata(**{name: value}), Decided())


@pytest.mark.parametrize("value", [None, "local_only"])
def test_what_holds_anyway_is_no_request(value):
    held, asked = split_requests(metadata(storage_strategy=value, status="ready"), Decided())
    assert (held["storage_strategy"], held["status"], asked) == ("local_only", "ready", {})


@pytest.mark.parametrize(
    ("count", "kept"),
    [(7, 7), (True, True), ("x" * 500, "x" * 100), ([1] * 999, str([1] * 999)[:100])],
)
def test_counts_are_not_told_by_a_file_and_kept_small(count: Any, kept: Any):
    held, asked = split_requests(metadata(execution_count=count), Decided())
    assert "execution_count" not in held
    assert asked == {"execution_count": kept}


def test_what_the_service_says_counts_more_than_a_careful_file():
    standing = Decided(Strategy.REVIEW, Status.READY)
    held, asked = split_requests(metadata(status="archived"), standing)
    assert (held["storage_strategy"], held["status"]) == ("uploaded_for_review", "ready")
    assert asked == {"status": "archived"}
