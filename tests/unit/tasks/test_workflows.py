from __future__ import annotations

import json

import pytest
from celery import Signature
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import OperationalError

from core.errors import BrokerUnreachable
from tasks import workflows
from tasks.app import app

REFS, JOB = ["a@1.0.0", "b@2.0.0"], "job-1"
FIRST_TIME = 0  # how often a chain has gone again


def _steps(signature: Signature) -> list[Signature]:
    return list(getattr(signature, "tasks", [signature]))


ALL = {
    "publish": (
        workflows.publish(REFS, JOB),
        ["embed", "upload", "publish", "settle"],
        [REFS, JOB],
    ),
    "download": (
        workflows.download(REFS, JOB, "shell"),
        ["download", "verify", "evict"],
        [REFS, JOB, "shell"],
    ),
    "evict": (workflows.evict(JOB), ["evict"], [None, JOB]),
    "embed": (workflows.embed(REFS, JOB), ["embed"], [REFS, JOB]),
    "unindex": (workflows.unindex(REFS, JOB), ["unindex"], [REFS, JOB]),
    "delete": (workflows.delete(REFS, JOB), ["delete"], [REFS, JOB]),
    "reindex": (workflows.reindex(JOB), ["reindex"], [JOB]),
    "audit": (workflows.audit(JOB), ["audit"], [JOB]),
    "sync": (workflows.sync(None), ["sync"], [None]),
    "import": (workflows.import_path("/p", JOB, None), ["import"], ["/p", JOB, None]),
}


@pytest.mark.parametrize(("signature", "names", "arguments"), ALL.values(), ids=ALL)
def test_each_workflow_is_its_steps_in_order(
    signature: Signature, names: list[str], arguments: list[object]
) -> None:
    steps = _steps(signature)
    assert [step.task for step in steps] == [f"playbooks.{name}" for name in names]
    for step in steps:
        given = [argument for argument in step.args if argument != FIRST_TIME]
        assert given == arguments[: len(given)], "refs and ids only"
        assert step.immutable, "no step is handed what another one answered"
        assert json.loads(json.dumps(step.args)) == list(step.args)


def test_every_step_is_a_task_that_exists() -> None:
    app.loader.import_default_modules()
    for signature, _, _ in ALL.values():
        assert {step.task for step in _steps(signature)} <= set(app.tasks)


@given(st.lists(st.integers(), max_size=30).map(lambda numbers: list(map(str, numbers))),
       st.integers(1, 10))  # fmt: skip
def test_batches_hold_everything_in_order_and_none_is_empty(refs: list[str], size: int) -> None:
    batches = list(workflows.batched(iter(refs), size))
    assert [ref for batch in batches for ref in batch] == refs
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(0 < len(batch) <= size for batch in batches)


def test_a_broker_that_went_away_is_named_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise OperationalError("redis://:CANARY@127.0.0.1:1/0")

    monkeypatch.setattr(Signature, "apply_async", gone)
    with pytest.raises(BrokerUnreachable, match="does not answer") as failure:
        workflows.dispatch(workflows.embed(REFS, JOB), inline=False)
    assert "journalled" in failure.value.remedy
    assert "CANARY" not in str(failure.value)
